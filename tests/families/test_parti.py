"""Models of tokens that read texts: Parti a token at a time, MaskGIT and VAR by the same conditions; and a run drawn from by text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Entry, Label, Text
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.spelling import spelled
from reverie.core.task import Moment
from reverie.families.autoregressive import Autoregressive, walk
from reverie.families.config import ChoiceConfig, TileConfig
from reverie.families.token_config import MaskedSample, MaskGITConfig, PartiConfig, ScaledSample, VARConfig
from reverie.learn import TrainConfig
from reverie.nets.config import TextConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces.config import SpaceConfig

from ..margin import apart

SPACE = SpaceConfig(name="vq", patch=2, dims=4, codes=16, width=8, images=1024)
SMALL = {"width": 16, "depth": 2, "heads": 2, "text": TextConfig(width=12, depth=1, heads=2)}
CONFIGS = {
    "parti": PartiConfig(**SMALL, space=SPACE, dropout=0.0),
    "maskgit": MaskGITConfig(**SMALL, space=SPACE),
    "var": VARConfig(**SMALL, space=replace(SPACE, name="multiscale-vq")),
}
SPEC = DataSpec((3, 8, 8), {"text": Text(24)}, (), "made")
TEXTS = ["a red heart", "dog", "a long and winding road", "sun"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def of(name: str, dtype: torch.dtype = torch.float64):
    """A model, none of whose weights is small, in double precision."""
    model = CONFIGS[name].build(SPEC, 0)
    torch.manual_seed(1)
    for module in CONFIGS[name].modules(model).values():
        for p in module.parameters():
            if p.ndim > 1:  # normalisations stay as they are
                nn.init.normal_(p, std=0.4)
        module.eval().requires_grad_(False)
    space = model.net.space if name == "parti" else model.space
    space.codebook.codes.normal_()
    if name == "parti":
        model.net.codebook.copy_(space.codebook.codes)
    return model.to(dtype=dtype)


def some(model: Autoregressive, n: int = 4) -> Tensor:
    return torch.randint(0, model.net.choices, (n, model.net.length), generator=torch.Generator().manual_seed(2))


def told(model, texts=TEXTS) -> Cond:
    """Conditions of texts, the last of which is dropped."""
    cond = model.conditioner(text=texts)
    return cond.drop(torch.tensor([True] * (len(texts) - 1) + [False]))


def each(model: Autoregressive, tokens: Tensor, cond: Cond | None) -> Tensor:
    """log p of every code at every place, (B, N, codes), in one pass."""
    return model.net.out(model.net.features(model.net.codebook[tokens], cond)).log_softmax(-1)


def test_a_step_at_a_time_with_the_cache_is_the_pass_over_all():
    model, said = of("parti"), []
    tokens, cond = some(model), told(model)

    def follow(i: int, log_p: Tensor) -> Tensor:
        said.append(log_p)
        return tokens[:, i]

    walk(model.net, 4, cond, follow)
    whole = each(model, tokens, cond)
    torch.testing.assert_close(torch.stack(said, 1), whole, rtol=0, atol=1e-10)
    other = each(model, tokens, told(model, ["a blue heart", "cat", "a short one", "moon"]))
    assert apart(other[:3], whole[:3]) > 1e-2 and torch.equal(
        other[3], whole[3]
    )  # of the dropped text nothing is heard


def test_no_token_knows_those_after_it():
    model = of("parti")
    tokens, cond = some(model), told(model)
    whole, changed = each(model, tokens, cond), tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 16
    after = each(model, changed, cond)
    assert torch.equal(after[:, :8], whole[:, :8]) and (after[:, 8:] - whole[:, 8:]).abs().amax((1, 2)).min() > 1e-3


def test_guidance_leads_each_token_from_the_dropped_text_past_the_text():
    model, said = of("parti"), []
    tokens, cond = some(model), model.conditioner(text=TEXTS, negative="grey")

    def follow(i: int, log_p: Tensor) -> Tensor:
        said.append(log_p)
        return tokens[:, i]

    walk(model.net, 4, cond, follow, scale=2.5)
    text, null = each(model, tokens, cond), each(model, tokens, model.conditioner(text=["grey"] * 4))
    expected = (null + 2.5 * (text - null)).log_softmax(-1)
    torch.testing.assert_close(torch.stack(said, 1), expected, rtol=0, atol=1e-9)
    assert apart(expected, (text + 2.5 * (text - null)).log_softmax(-1)) > 1e-2  # the other convention of a scale


def test_what_is_drawn_costs_what_its_steps_said(monkeypatch: pytest.MonkeyPatch):
    model, drawn, steps = of("parti"), [], []
    cond, chain = told(model), type(model.net).chain

    def spied(n: int, cond: Cond | None):
        inner = chain(model.net, n, cond)
        log_p = next(inner)
        while True:
            steps.append(log_p)
            log_p = inner.send((yield log_p))

    kept = model.net.picture
    monkeypatch.setattr(model.net, "chain", spied)
    monkeypatch.setattr(model.net, "picture", lambda tokens: drawn.append(tokens) or kept(tokens))
    model.sample(4, cond, seed=3)
    monkeypatch.undo()
    (tokens,) = drawn
    summed = torch.stack(steps, 1).gather(2, tokens[..., None])[..., 0].sum(1)
    torch.testing.assert_close(model.nats(tokens, cond), summed, rtol=0, atol=1e-9)
    assert (model.nats(tokens, cond.null())[:3] - summed[:3]).abs().min() > 1e-3


def network_of(name: str, model, cond: Cond | None) -> Tensor:
    """What the network says of some tokens under a condition."""
    generator = torch.Generator().manual_seed(2)
    if name == "parti":
        return each(model, some(model), cond)
    tokens = torch.randint(0, 16, (4, 16 if name == "maskgit" else 21), generator=generator)
    return model.net(tokens if name == "maskgit" else model.before(tokens).double(), cond)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_dropped_text_is_no_text(name: str):
    model = of(name)
    cond = model.conditioner(text=TEXTS)
    without = network_of(name, model, None)
    torch.testing.assert_close(network_of(name, model, cond.null()), without, rtol=0, atol=1e-12)
    assert apart(network_of(name, model, cond), without) > 1e-2
    short, beside = model.conditioner(text=["sun"]), model.conditioner(text=["sun", TEXTS[2]]).index([0])
    assert beside["text"].value.shape[1] > short["text"].value.shape[1]
    padded, alone = (network_of(name, model, c.expand(4)) for c in (beside, short))
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-12)
    unmasked = Cond(text=Entry.of(beside["text"].value)).expand(4)
    assert apart(network_of(name, model, unmasked), alone) > 1e-4  # the control: padding taken for text


@pytest.mark.parametrize(
    ("name", "sample"), [("maskgit", MaskedSample(scale=3.0)), ("var", ScaledSample(scale=3.0)), ("parti", None)]
)
def test_all_draw_by_text_alike(name: str, sample):
    model = of(name, torch.float32).drawing(sample or ChoiceConfig(scale=3.0))
    four = rv.sample(model, text=TEXTS, seed=4)
    assert four.shape == (4, 3, 8, 8)
    torch.testing.assert_close(rv.sample(model, text=TEXTS[0], seed=4)[0], four[0], atol=1e-4, rtol=0)
    assert apart(rv.sample(model, text="moon", n=4, seed=4), four) > 0.05
    assert rv.sample(model, 2).shape == (2, 3, 8, 8)  # texts were dropped
    needy = CONFIGS[name].build(SPEC, 0)
    needy.unlabelled = False
    with pytest.raises(InputError, match="cannot draw without a text"):
        rv.sample(needy, 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_text_encoder_learns_beside_the_network_and_texts_are_dropped(name: str):
    config = CONFIGS[name]
    model = config.build(SPEC, 0)
    for p in model.net.parameters():  # what reads the text begins at zero, so that nothing would flow back
        p.data.add_(0.02 * torch.randn_like(p))
    pictures = torch.rand(16, 3, 8, 8) * 2 - 1
    batch = Batch(pictures, Cond(text=Entry.of(spelled(TEXTS * 4, 24))))
    task = config.task(model, rv.data.TensorSet(pictures), rv.data.TensorSet(pictures), config.Sample(), 0)
    assert set(task.players) == {"net", "text"} and set(config.modules(model)) == {"net", "text"}

    def loss(share: float) -> Tensor:
        task.drop = share
        (value,) = task.loss("net", batch, Draws(0, 0, 16), Moment(0, 0, 1)).values()
        return value

    loss(0.0).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.texts.own.blocks.parameters())
    silent = replace(batch, cond=batch.cond.null())
    never = task.loss("net", silent, Draws(0, 0, 16), Moment(0, 0, 1)).popitem()[1]
    same = [int((loss(share) - never).abs().lt(1e-7).sum()) for share in (0.0, 0.5, 1.0)]
    assert same[0] == 0 and 2 <= same[1] <= 14 and same[2] == 16


def test_what_does_not_fit_is_said():
    labelled = DataSpec((1, 8, 8), {"label": Label(3)}, ("a", "b", "c"), "made")
    with pytest.raises(InputError, match=r"parti draws what a text says.*--data.captions"):
        CONFIGS["parti"].build(labelled, 0)
    with pytest.raises(InputError, match="tile reads no captions: train parti, maskgit or var"):
        TileConfig(patch=2).build(SPEC, 0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of 8x8 with their names, a file each."""
    folder, data = tmp_path_factory.mktemp("data") / "digits", rv.data.load("digits8")
    folder.mkdir()
    for i in range(600):
        Image.fromarray(data.images[i, 0].numpy().astype(np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(WORDS[int(data.labels[i])])
    return folder


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory):
    recipe = Recipe(
        name="parti",
        data=DataConfig(name=str(digits), captions=True),
        task=PartiConfig(
            width=32, depth=2, heads=2, text=TextConfig(width=16, depth=1, heads=2), space=SPACE, dropout=0.0
        ),
        train=TrainConfig(
            images=6400, batch=64, lr=6e-3, warmup=64, save_every=3200, validate_every=3200, sample_every=6400
        ),
    )
    return rv.recipes.train(recipe, tmp_path_factory.mktemp("runs") / "parti")[0]


def test_a_run_knows_more_of_a_picture_than_how_often_its_tokens_come(run):
    """Spec F9: the cost of held-out tokens is below that of their frequencies by 30 % and more; another text costs more."""
    model, held_out = rv.load(run.folder), rv.recipes.sources.load(run.recipe, "test")
    train = rv.recipes.sources.load(run.recipe).batch(range(500)).x
    count = torch.bincount(model.net.tokens(train).flatten(), minlength=16).double() + 1.0
    batch = held_out.batch(range(len(held_out)))
    tokens, cond = model.net.tokens(batch.x), model.heard(batch)
    unigram = -(count / count.sum()).log()[tokens].sum(1).mean()
    own, other = (-model.nats(tokens, c).mean() for c in (cond, cond.index(torch.arange(len(tokens)).roll(1))))
    assert own < 0.7 * unigram and other > own + 1.0


def test_a_run_opens_with_its_text_encoder(run):
    model = rv.load(run.folder)
    weights = run.checkpoint.tensors("ema")
    assert torch.equal(weights["text.norm.weight"], model.texts.own.norm.weight)
    pictures = rv.sample(model, text=["seven", "one"], seed=1)
    assert (
        pictures.shape == (2, 1, 8, 8) and rv.sample(model, text="seven", negative="one", n=2, seed=1).isfinite().all()
    )
