"""Adapters on models of every kind: of texts that are read by their bytes, and of tokens; and tokens with a row a layer."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.adapt import xti
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import unmerged
from reverie.adapt.config import METHODS
from reverie.adapt.training import Personalising, begin, own
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.families.token_config import MaskGITConfig, VARConfig
from reverie.nets import DiTConfig

from ..margin import apart
from .small import DIT, UNET, images, model, of_texts, of_tokens, out, says
from .test_adapters import moved

DEEP = DiTConfig(patch=2, width=16, depth=3, heads=2, context=16, length=40)
MODELS = {
    "unet of texts": of_texts,
    "dit of texts": lambda: of_texts(DEEP),
    "maskgit": lambda: of_tokens(MaskGITConfig),
    "var": lambda: of_tokens(VARConfig),
}
LAYERED = {
    "unet of texts": of_texts,
    "dit of texts": lambda: of_texts(DEEP),
    "dit of classes": model,
    "unet of classes": lambda: model(UNET),
}


def told(model_, word: str):
    """The condition by a class or a word."""
    if model_.conditioner.text is not None:
        return model_.conditioner(f"a {word} here")
    return model_.conditioner(label=int(word) if word.isdecimal() else word)


def like(model_) -> str:
    return "1" if model_.conditioner.text is None else "heart"


@pytest.mark.parametrize("method", ["lora", "svdiff", "textual", "dreambooth"])
@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_adapter_is_the_base_and_its_token_the_word_that_it_is_like_to_the_bit(name, method, tmp_path):
    base = MODELS[name]()
    before, hashed = says(base, told(base, like(base))), fingerprint(base.net)
    settings = {"preserve": 0.0} if method == "dreambooth" else {}
    adapter = begin(METHODS[method](token="<mine>", like=like(base), **settings), base, 0).adapter
    for applied in (rv.adapt.apply(base, adapter), unmerged(base, adapter)):
        assert torch.equal(says(applied, told(applied, "<mine>")), before)
        assert torch.equal(says(applied, told(applied, like(base))), before)
        assert torch.equal(says(applied), says(base))
    moved(adapter)
    merged, beside = rv.adapt.apply(base, adapter), unmerged(base, adapter)
    mine = says(merged, told(merged, "<mine>"))
    assert apart(mine, before) > 1e-3 and apart(says(beside, told(beside, "<mine>")), mine) < 1e-5
    again = rv.adapt.apply(base, rv.adapt.load(adapter.save(tmp_path / "a.safetensors")))
    assert torch.equal(says(again, told(again, "<mine>")), mine)
    assert fingerprint(base.net) == hashed and torch.equal(says(base, told(base, like(base))), before)


@pytest.mark.parametrize("name", ["maskgit", "var"])
def test_models_of_tokens_are_trained_and_drawn_from_with_an_adapter(name):
    base, x = MODELS[name](), images(1)
    adapter = rv.adapt.fit(base, x, token="<mine>", like="1", preserve=0.0, steps=12, batch=8, rate=0.02)

    def surprise(adapter_: Adapter) -> float:
        task = Personalising(
            begin(METHODS["lora"](token="<mine>", like="1"), base, 0)._replace(adapter=adapter_),
            METHODS["lora"](token="<mine>"),
            own,
        )
        with torch.no_grad():
            return float(
                task.loss("adapter", Batch(x.expand(16, -1, -1, -1)), Draws(3, 0, 16), Moment(0, 0, 1))[
                    "surprise"
                ].mean()
            )

    still = rv.adapt.fit(base, x, token="<mine>", like="1", preserve=0.0, steps=12, batch=8, rate=0.0)
    assert surprise(adapter) < 0.9 * surprise(still)
    mine = rv.adapt.apply(base, adapter)
    assert mine.conditioner.classes == ["0", "1", "2", "<mine>"]
    assert rv.sample(mine, 2, mine.conditioner("<mine>"), seed=0).shape == (2, 1, 8, 8)
    assert base.conditions["label"].classes == 3  # pyright: ignore[reportAttributeAccessIssue]
    kept = rv.adapt.fit(base, x, token="<mine>", like="1", preserve=1.0, drawn=2, steps=2, batch=2)
    assert kept.tokens == ["<mine>"]


def test_a_word_in_bytes_stands_where_it_is_written_and_is_cut_whole():
    base = of_texts()
    adapter = begin(METHODS["textual"](token="<mine>", like="red heart"), base, 0).adapter
    assert adapter.rows["<mine>"].shape == (9, 16)
    spoken = rv.adapt.apply(base, adapter).conditioner
    assert spoken.words("a <mine> on snow")["<mine>"] == tuple(range(3, 12))
    text = "a <mine>, large"
    assert torch.equal(spoken(text)["text"].value, base.conditioner("a red heart, large")["text"].value)
    with pytest.warns(UserWarning, match="takes 40"):
        long = spoken("x" * 34 + " <mine>")["text"].value
    assert long.shape[1] == 36  # no letter of it is left
    before = spoken(text)["text"].value
    moved(adapter)
    other = rv.adapt.apply(base, adapter).conditioner
    assert apart(other("a red heart")["text"].value, base.conditioner("a red heart")["text"].value) == 0.0
    assert apart(other(text)["text"].value, before) > 1e-3


@pytest.mark.parametrize("name", LAYERED)
def test_each_layer_is_told_its_own_row(name, tmp_path):
    base = LAYERED[name]()
    text = base.conditioner.text is not None
    where = xti.places(base.net, text)
    count = 1 + max(where.values())
    adapter = begin(METHODS["xti"](token="<mine>", like=like(base)), base, 0).adapter
    assert len(adapter.rows["<mine>"]) == count > 1
    before = heard(base, told(base, like(base)), where)
    fresh = rv.adapt.apply(base, adapter)
    assert all(torch.equal(a, b) for a, b in zip(before, heard(fresh, told(fresh, "<mine>"), where), strict=True))
    assert torch.equal(out(fresh, told(fresh, "<mine>")), out(base, told(base, like(base))))
    assert torch.equal(out(fresh), out(base))
    for part in (0, count - 1):
        other = begin(METHODS["xti"](token="<mine>", like=like(base)), base, 0).adapter
        with torch.no_grad():
            other.rows["<mine>"][part] += torch.randn(other.rows["<mine>"][part].shape)
        applied = rv.adapt.apply(base, rv.adapt.load(other.requires_grad_(False).save(tmp_path / "x.safetensors")))
        after = heard(applied, told(applied, "<mine>"), where)
        for path, a, b in zip(where, before, after, strict=True):
            assert (apart(a, b) > 1e-3) == (where[path] == part), path
        beside = unmerged(base, other)
        mine = out(applied, told(applied, "<mine>"))
        assert (
            apart(out(beside, told(beside, "<mine>")), mine) < 1e-5
            and apart(mine, out(base, told(base, like(base)))) > 1e-3
        )
    guided = rv.guide.cfg(applied, 2.0)
    expected = 2.0 * mine - out(base)
    with torch.no_grad():
        assert apart(guided(images(2, seed=5), 0.6, told(applied, "<mine>")).out, expected) < 1e-4


def test_what_training_moves_the_next_call_says_of_texts_too():
    base = of_texts()
    adapter = begin(METHODS["xti"](token="<mine>", like="heart"), base, 0).adapter
    beside = unmerged(base, adapter)
    first = beside.conditioner("a <mine>")
    before = {name: first[name].value.detach() for name in first}
    moved(adapter)
    after = beside.conditioner("a <mine>")
    applied = rv.adapt.apply(base, adapter).conditioner("a <mine>")
    for name in ("text", "vector"):
        assert apart(after[name].value, before[name]) > 1e-3
        assert torch.equal(after[name].value, applied[name].value)


def heard(model_, cond, where: dict[str, int]) -> list[Tensor]:
    """What each layer that listens makes of the condition."""
    found: dict[str, Tensor] = {}
    hooks = [
        model_.net.get_submodule(path).register_forward_hook(
            lambda m, a, value, path=path: found.__setitem__(path, value)
        )
        for path in where
    ]
    out(model_, cond)
    for hook in hooks:
        hook.remove()
    return [found[path] for path in where]


def test_rows_of_layers_find_what_one_row_cannot():
    """A model that is told something else in each layer is found by rows of layers; the control is one row for all."""
    base, x = model(DIT), images(2, seed=5)
    asked = rv.adapt.apply(base, moved(begin(METHODS["xti"](token="<mine>", like="0"), base, 0).adapter, 2.0))
    with torch.no_grad():
        wanted = asked(x, 0.6, told(asked, "<mine>")).out
    left = {}
    for method in ("xti", "textual"):
        adapter = begin(METHODS[method](token="<mine>", like="0"), base, 0).adapter
        beside, adam = unmerged(base, adapter), torch.optim.Adam(adapter.parameters(), 0.1)
        for step in range(100):
            loss = (beside(x, 0.6, told(beside, "<mine>")).out - wanted).square().mean()
            left[method, step] = float(loss.detach())
            adam.zero_grad()
            loss.backward()
            adam.step()
    assert left["xti", 0] == left["textual", 0]
    assert left["xti", 99] < 0.2 * left["xti", 0] and left["xti", 99] < 0.7 * left["textual", 99], left


def test_what_layers_cannot_be_told_is_said():
    base = model()
    adapter = begin(METHODS["xti"](token="<mine>", like="0"), base, 0).adapter.requires_grad_(False)
    with pytest.raises(InputError, match="rows for 3 layers"):
        rv.adapt.apply(model(DiTConfig(patch=2, width=16, depth=3, heads=2)), adapter, anyway=True)
    with pytest.raises(InputError, match="--method textual"):
        tokens = of_tokens(MaskGITConfig)
        unmerged(tokens, begin(METHODS["xti"](token="<mine>", like="1"), tokens, 0).adapter)


def test_with_a_low_rank_adapter_beside_it_each_does_what_it_does():
    base = model(UNET)
    row = moved(begin(METHODS["xti"](token="<mine>", like="0"), base, 0).adapter)
    low = moved(Adapter("lora", fingerprint(base.net), METHODS["lora"]().changes(base.net, 0)))
    both, alone = rv.adapt.apply(base, row, low), rv.adapt.apply(base, low)
    assert torch.equal(out(both, rv.Cond(label=1)), out(alone, rv.Cond(label=1)))
    assert apart(out(both, both.conditioner("<mine>")), out(alone, rv.Cond(label=0))) > 1e-3
