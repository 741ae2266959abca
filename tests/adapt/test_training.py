"""What is trained: the adapter alone, at the loss that its paper has; and a row that is known comes back."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.adapt.adapter import fingerprint
from reverie.adapt.config import METHODS
from reverie.adapt.custom import constrained
from reverie.adapt.training import Personalising, begin, own
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion.denoising import Denoising

from ..margin import apart
from .small import DIT, UNET, images, model, out

NOW = Moment(0, 0, 8)
FEW = {"drawn": 2}


def task(method: str, denoise: NetDenoiser, drawn: Tensor | None = None, **settings) -> Personalising:
    config = METHODS[method](token="<mine>", **settings)
    return Personalising(begin(config, denoise, 0, drawn), config, own)


@pytest.mark.parametrize("method", METHODS)
def test_the_base_stays_and_the_gradient_reaches_the_adapter_alone(method):
    denoise = model(UNET)
    hashed, before = fingerprint(denoise.net), out(denoise, rv.Cond(label=1))
    adapter = rv.adapt.fit(denoise, images(), method, token="<mine>", like="1", steps=3, batch=2, rate=0.05, **FEW)
    assert fingerprint(denoise.net) == hashed and torch.equal(out(denoise, rv.Cond(label=1)), before)
    assert all(p.grad is None and not p.requires_grad for p in denoise.net.parameters())
    start = begin(METHODS[method](token="<mine>", like="1"), denoise, 0).adapter.state_dict()
    assert apart(adapter.rows["<mine>"], start["rows.<mine>"]) > 1e-3
    moved = [name for name, value in adapter.state_dict().items() if not torch.equal(value, start[name])]
    assert len(moved) > len(start) / 3  # the matrices A move only from the second step on
    model_ = rv.adapt.apply(denoise, adapter)
    assert apart(out(model_, model_.conditioner("<mine>")), before) > 1e-3


def test_prior_preservation_adds_the_error_of_the_class_and_weight_zero_is_the_plain_loss():
    denoise, drawn = model(), images(3, seed=9)
    batch, rng = Batch(images(2)), Draws(0, 0, 2)
    plain = task("dreambooth", denoise, preserve=0.0, like="1").loss("adapter", batch, rng, NOW)
    none = task("dreambooth", denoise, drawn, preserve=0.0, like="1").loss("adapter", batch, rng, NOW)
    kept = task("dreambooth", denoise, drawn, preserve=2.0, like="1").loss("adapter", batch, rng, NOW)
    assert set(plain) == set(none) == {"mse"} and torch.equal(plain["mse"], none["mse"])
    assert torch.equal(kept["mse"], plain["mse"])
    other = Draws(0, 0, 2, 1)
    whole = task("dreambooth", denoise, drawn, preserve=2.0, like="1")
    assert isinstance(whole.own, Denoising)
    expected = 2.0 * whole.own.errors(drawn[:2], Uniform()(other.even("time")), other, rv.Cond(label=[1, 1]))
    assert torch.allclose(kept["prior"], expected) and not torch.allclose(kept["prior"], expected / 2)
    with pytest.raises(InputError, match="--like 3"):
        task("dreambooth", denoise, drawn, preserve=1.0)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "control: frozen"])
def test_textual_inversion_finds_a_row_that_is_known(frozen):
    """What a model says under a class that is taken away is learned again as a token; a token that is not trained does not find it."""
    denoise = model(DIT, classes=2)
    x = images(64, seed=7)
    config = METHODS["textual"](token="<mine>", like="0")
    adapting = begin(config, denoise, 0)
    row = adapting.adapter.rows["<mine>"]
    known = denoise.net.conditioning.label.table.weight[1]  # pyright: ignore[reportAttributeAccessIssue]
    work = Personalising(adapting, config, own)
    assert isinstance(work.own, Denoising)
    adam = torch.optim.Adam([row], 0.0 if frozen else 0.1)
    for step in range(150):
        rng = Draws(0, 32 * step, 32)
        t = Uniform()(rng.even("time"))
        noise = rng.normal("noise", (1, 8, 8))
        some = x[torch.arange(32 * step, 32 * step + 32) % 64]
        asked = work.own.estimate(some, noise, t, work.told().expand(32))  # pyright: ignore[reportOptionalMemberAccess]
        with torch.no_grad():
            said = denoise(asked.x_t, asked.point, rv.Cond(label=[1] * 32))
        loss = (asked.out - said.out).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert (apart(row, known) < 0.1) == (not frozen)


def test_a_token_alone_learns_pictures_that_the_frozen_one_does_not():
    """By the training itself, on pictures that are one picture: the loss falls, and without a rate it stays."""
    denoise, x = model(DIT), images(1)
    losses = {}
    for rate in (0.1, 0.0):
        adapter = rv.adapt.fit(denoise, x, "textual", token="<mine>", like="1", steps=60, batch=8, rate=rate)
        work = task("textual", denoise)
        with torch.no_grad():
            work.model.adapter.rows["<mine>"].copy_(adapter.rows["<mine>"])
            losses[rate] = float(
                work.loss("adapter", Batch(x.expand(64, -1, -1, -1)), Draws(5, 0, 64), NOW)["mse"].mean()
            )
    assert losses[0.1] < 0.9 * losses[0.0]


def test_the_closed_form_gives_each_concept_its_values_and_is_the_nearest():
    w, c, v, r = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 9), (3, 9), (3, 6), (40, 9)))
    merged = constrained(w, c, v, r)
    assert (merged @ c.T - v.T).abs().max() < 1e-12
    # at the optimum the gradient of ‖(W − W₀)·C_regᵀ‖² is a combination of the constraints: none along directions that keep them
    gradient = 2 * (merged - w) @ r.T @ r
    free = torch.linalg.svd(c)[2][3:]  # directions that no concept sees
    assert (gradient @ free.T).abs().max() < 1e-9
    plain = w + (v.T - w @ c.T) @ torch.linalg.solve(c @ c.T, c)  # feasible too, nearest by another measure
    assert (plain @ c.T - v.T).abs().max() < 1e-12 and (2 * (plain - w) @ r.T @ r @ free.T).abs().max() > 1e-2
    assert ((merged - w) @ r.T).square().sum() < ((plain - w) @ r.T).square().sum()
    with pytest.raises(InputError, match="depend on each other"):
        constrained(w, torch.cat([c, c[:1]]), torch.cat([v, v[:1]]), r)
    with pytest.raises(InputError, match="do not span"):
        constrained(w, c, v, r[:5])


def test_custom_diffusion_changes_what_listens_to_the_condition_and_compresses():
    for config, part in ((DIT, "modulation"), (UNET, "modulation")):
        names = METHODS["custom"](token="<mine>").changes(model(config).net, 0)
        assert names and all(part in name for name in names)
    texts = rv.nets.UNetConfig(
        width=8, multipliers=(1,), blocks=1, attention=(1,), heads=2, groups=4, context=8, length=3
    )
    names = METHODS["custom"](token="<mine>").changes(model(texts, None).net, 0)
    assert names and all(name.endswith("cross.kv.weight") for name in names)
    denoise = model(UNET)
    adapter = rv.adapt.fit(denoise, images(), "custom", token="<mine>", preserve=0.0, steps=4, batch=2, rate=0.01)
    small, exact = rv.adapt.compressed(adapter), rv.adapt.compressed(adapter, 1.0)
    cond = rv.Cond(label=3)
    whole = out(rv.adapt.apply(denoise, adapter), cond)
    assert apart(out(rv.adapt.apply(denoise, exact), cond), whole) < 1e-5
    off = apart(out(rv.adapt.apply(denoise, small), cond), whole)
    assert 1e-6 < off < apart(out(denoise, rv.Cond(label=1)), whole)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in adapter.parameters())


def test_a_model_that_is_told_nothing_needs_no_token():
    denoise = model(UNET, None)
    adapter = rv.adapt.fit(denoise, images(), "lora", steps=2, batch=2, rate=0.1)
    assert not adapter.tokens and apart(out(rv.adapt.apply(denoise, adapter)), out(denoise)) > 1e-4
    with pytest.raises(InputError, match="told nothing"):
        rv.adapt.fit(denoise, images(), "lora", token="<mine>")
    with pytest.raises(InputError, match="textual trains a token"):
        rv.adapt.fit(denoise, images(), "textual")


def test_what_cannot_be_is_said():
    denoise = model()
    for words, method, settings in (
        ("by which token", "lora", {}),
        ("angle brackets", "lora", {"token": "mine"}),
        ("unknown method 'lara'", "lara", {}),
        ("has the settings", "lora", {"token": "<mine>", "ranks": 3}),
        ("no layer matches", "lora", {"token": "<mine>", "layers": "attenshun"}),
        ("out of range", "lora", {"token": "<mine>", "like": "7"}),
    ):
        with pytest.raises(InputError, match=words):
            rv.adapt.fit(denoise, images(), method, **settings)
    with pytest.raises(InputError, match="finite"):
        rv.adapt.fit(denoise, images() * float("nan"), token="<mine>")
