"""Adapters on pipelines of diffusers: words of the text encoder, LoRA to peft's and kohya's formats and back, concepts merged."""

import pytest
import torch

import reverie as rv
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.config import METHODS
from reverie.adapt.training import begin
from reverie.bridge.foreign import Foreign
from reverie.core.errors import InputError

from ..margin import apart

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def out(model, cond):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return model(x, 0.5, cond).out


def wrapped(folder, monkeypatch):
    from reverie.bridge import architecture

    with monkeypatch.context() as patch:
        patch.setattr(architecture, "network", lambda *given: None)
        return rv.load(folder)


def moved(adapter, size=0.05):
    with torch.no_grad():
        for i, parameter in enumerate(adapter.parameters()):
            parameter += size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return adapter.requires_grad_(False)


def test_a_word_is_one_row_at_the_encoder_and_other_texts_stay(sd):
    model = rv.load(sd[1])
    before = model.conditioner(["a red fox", "a blue bird"])["text"].value
    adapter = rv.adapt.fit(model, IMAGES, "textual", token="<mine>", like="fox", steps=3, batch=2, rate=0.1)
    assert list(adapter.state_dict()) == ["rows.<mine>"] and adapter.rows["<mine>"].shape == (12,)
    start = begin(METHODS["textual"](token="<mine>", like="fox"), model, 0).adapter.rows["<mine>"]
    assert (
        torch.allclose(start, model.conditioner.text.encoders[0].beginning("fox"))
        and apart(adapter.rows["<mine>"], start) > 0.01
    )
    knows = rv.adapt.apply(model, adapter)
    assert knows.conditioner.words("a <mine> bird")["<mine>"] == (2,)
    asked = [knows.conditioner(text)["text"].value for text in ("a <mine>", "a fox")]
    assert apart(*asked) > 1e-3
    assert torch.equal(knows.conditioner(["a red fox", "a blue bird"])["text"].value, before)
    assert torch.equal(model.conditioner(["a red fox", "a blue bird"])["text"].value, before)
    assert len(model.conditioner.text.encoders[0].tokenizer("<mine>").input_ids) > 3  # the base does not know it
    images = rv.sample(knows, 1, knows.conditioner("a <mine>"), steps=2, seed=0, progress="")
    assert images.shape == (1, 3, 16, 16)
    for settings in ({"token": "<mine>", "prompt": "a photo"}, {"prompt": "a photo of {}"}):
        with pytest.raises(InputError, match="where the token stands"):
            rv.adapt.fit(model, IMAGES, "lora", steps=1, **settings)
    plain = rv.adapt.fit(model, IMAGES, "lora", prompt="a red fox", steps=2, batch=1, rate=0.1)
    assert not plain.tokens and plain.changes


def test_the_rows_of_two_encoders_are_learned_together(sdxl):
    model = rv.load(sdxl[1])
    adapter = rv.adapt.fit(model, IMAGES, "textual", token="<mine>", like="fox", steps=2, batch=1, rate=0.1)
    assert adapter.rows["<mine>"].shape == (12 + 16,)
    start = begin(METHODS["textual"](token="<mine>", like="fox"), model, 0).adapter.rows["<mine>"]
    for part, first in zip(adapter.rows["<mine>"].split([12, 16]), start.split([12, 16]), strict=True):
        assert apart(part, first) > 1e-3


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_lora_goes_out_and_comes_back(sd, tmp_path, monkeypatch, form, foreign):
    model = wrapped(sd[1], monkeypatch) if foreign else rv.load(sd[1])
    assert isinstance(model.net, Foreign) == foreign
    changes = METHODS["lora"](rank=2, alpha=6.0, layers="attn|attention|conv").changes(model.net, 0)
    adapter = moved(Adapter("lora", fingerprint(model.net), changes))
    path = rv.adapt.write(adapter, tmp_path / ("x" if form == "peft" else "x.safetensors"), model, form)
    cond = model.conditioner("a red fox")
    mine, again = (out(rv.adapt.apply(model, each), cond) for each in (adapter, rv.adapt.load(path)))
    assert apart(mine, out(model, cond)) > 1e-2 and apart(again, mine) < 1e-5
    half = out(rv.adapt.apply(model, (adapter, 0.5), (rv.adapt.load(path), 0.5)), cond)
    assert apart(half, mine) < 1e-5
    other = (
        rv.load(sd[1]) if foreign else wrapped(sd[1], monkeypatch)
    )  # the names are those of diffusers, whatever runs it
    assert apart(out(rv.adapt.apply(other, rv.adapt.load(path)), cond), mine) < 1e-4


def test_peft_itself_reads_what_is_written(sd, tmp_path, tiny):
    from peft import PeftModel

    model = rv.load(sd[1])
    adapter = moved(Adapter("lora", fingerprint(model.net), METHODS["lora"](rank=2, alpha=6.0).changes(model.net, 0)))
    folder = rv.adapt.write(adapter, tmp_path / "x", model).parent
    unet = tiny.build_sd(tmp_path).unet
    told = model.conditioner("a red fox")["text"].value
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before = unet(x, 500, told).sample
        theirs = PeftModel.from_pretrained(unet, folder)(x, 500, told).sample
        ours = rv.adapt.apply(model, adapter)(x, model.schedule.point(501 / 1000), rv.Cond(text=told)).eps
    assert apart(theirs, ours) < 1e-4 and apart(before, ours) > 1e-3


@pytest.mark.parametrize("method", ["lora", "dreambooth", "custom", "svdiff"])
def test_every_method_trains_on_a_model_of_texts(sd, method):
    model = rv.load(sd[1])
    hashed = fingerprint(model.net)
    how = {"token": "<mine>", "like": "fox", "preserve": 0.0, "steps": 2, "batch": 1, "rate": 0.01}
    adapter = rv.adapt.fit(model, IMAGES, method, **how)
    knows = rv.adapt.apply(model, adapter)
    assert fingerprint(model.net) == hashed
    cond = model.conditioner("a red fox")
    assert apart(out(knows, cond), out(model, cond)) > 1e-5
    if method == "custom":
        assert all(name.endswith("cross.kv.weight") for name in adapter.changes)


def test_concepts_that_were_trained_apart_merge_in_closed_form(sd):
    model = rv.load(sd[1])
    concepts = []
    for i, token in enumerate(("<a>", "<b>")):
        config = METHODS["custom"](token=token, like=("fox", "bird")[i], preserve=0.0)
        concepts.append((moved(begin(config, model, 0).adapter, 0.2 + 0.1 * i), f"a {token}"))
    both = rv.adapt.merged(model, concepts, ["a red fox", "two blue birds", "snow"])
    knows = rv.adapt.apply(model, both)
    assert knows.conditioner.words("<a> <b>") and both.tokens == ["<a>", "<b>"]
    for adapter, prompt in concepts:
        own = rv.adapt.apply(model, adapter)
        place = own.conditioner.words(prompt)[adapter.tokens[0]]
        told = own.conditioner(prompt)["text"].value[0, list(place)]
        for name in adapter.changes:
            asked, wanted, base = (told @ each.net.get_parameter(name).T for each in (knows, own, model))
            assert apart(asked, wanted) < 1e-4 and apart(base, wanted) > 1e-2
    with pytest.raises(InputError, match="does not name <a>"):
        rv.adapt.merged(model, [(concepts[0][0], "a fox")], ["snow"])
