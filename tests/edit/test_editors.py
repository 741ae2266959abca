"""Editors: what must not change does not, what is given is what arrives, and a model re-expressed is edited the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import pytest
import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VP, Cosine, Flow
from reverie.core.space import Identity, Space
from reverie.edit import (
    LocalBlend,
    align,
    dds,
    drag,
    dragon,
    edit,
    imagic,
    instruct,
    inversion,
    masactrl,
    masked,
    moved,
    pix2pix_zero,
    plug_and_play,
    prompt_to_prompt,
    reconstruct,
    replay,
    sdedit,
    text_direction,
    tokens_of,
    words,
)
from reverie.edit.branches import EDIT, SOURCE, Branched, attentions, changed_attention, joined
from reverie.edit.dds import direction
from reverie.edit.dragon import Regions
from reverie.edit.pix2pix_zero import Watcher, nearer
from reverie.edit.prompt_to_prompt import Control
from reverie.edit.words import same
from reverie.guide import sds
from reverie.nets import taps
from reverie.solve import DDIM, DDPM, grids, sample

from ..margin import apart
from .closed_form import As, rms
from .made import (
    A_BLUE,
    A_RED,
    F64,
    A,
    images,
    layout,
    painter,
    prompt,
    random_editor,
    random_mmdit,
    random_unet,
    text,
    word,
)

ENDS = grids.logsnr(start=-6.0, end=9.0)
drag_module = import_module("reverie.edit.drag")
NETS = {"unet": random_unet, "mmdit": random_mmdit}


def inverted(denoise: Denoiser, n: int = 1, steps: int = 4, **how) -> inversion.Inversion:
    return inversion.ode(denoise, images(n), text(0), steps, DDIM(), ENDS, **how)


def always(denoise: Denoiser, control: type[Control] = Control) -> Control:
    return control(same(3), None, math.inf, math.inf, 256, None, denoise.shape)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_equal_prompts_give_bit_equal_edits_and_given_maps_are_the_sources(net, scale):
    denoise = NETS[net]()
    code = inverted(denoise, 2, 2, scale=scale)
    given: list[bool] = []

    class Watched(Control):
        def given(self, source, edit, at, cross, own):
            new = super().given(source, edit, at, cross, own)
            n = at.streams[0] if at.streams else new.shape[2]
            given.append(torch.equal(new[:, :, :n], source[:, :, :n]) and not torch.equal(edit, source))
            return new

    def both(cond: Cond, control: type[Control] = Control):
        changed = changed_attention(denoise, attentions(denoise), always(denoise, control))
        return replay(code.guided(changed), code, {SOURCE: text(0), EDIT: cond})

    alike = both(text(0))
    assert torch.equal(alike[SOURCE], alike[EDIT])
    other = both(text(1), Watched)
    assert apart(other[EDIT], other[SOURCE]) > 1e-4
    assert sum(given) > len(given) // 2 and torch.allclose(other[SOURCE], alike[SOURCE])


def test_a_word_reweighted_by_one_is_as_it_was():
    denoise = random_unet()
    code = inverted(denoise)
    plain, one, three = (
        prompt_to_prompt(denoise, code, text(1), weights=w, cross=math.inf) for w in (None, {1: 1.0}, {1: 3.0})
    )
    assert torch.equal(plain, one) and apart(three, plain) > 1e-3
    with pytest.raises(InputError, match="by token 0 to 2: got 3"):
        prompt_to_prompt(denoise, code, text(1), weights={3: 1.0})


def test_windows_that_never_open_leave_plain_decoding():
    denoise = random_unet()
    code, shut = inverted(denoise), -math.inf
    plain = reconstruct(denoise, code, text(1))
    for closed, opened in (
        (
            prompt_to_prompt(denoise, code, text(1), cross=shut, own=shut),
            prompt_to_prompt(denoise, code, text(1), cross=math.inf),
        ),
        (
            prompt_to_prompt(
                denoise, code, text(1), cross=shut, own=shut, blend=LocalBlend((1,), (1,), start=math.inf)
            ),
            prompt_to_prompt(denoise, code, text(1), cross=math.inf, blend=LocalBlend((1,), (1,), start=math.inf)),
        ),
        (
            plug_and_play(denoise, code, text(1), until=shut, attention_until=shut),
            plug_and_play(denoise, code, text(1), until=math.inf),
        ),
        (masactrl(denoise, code, text(1), start=math.inf), masactrl(denoise, code, text(1), start=shut)),
        (pix2pix_zero(denoise, code, text(1), rate=0.0), pix2pix_zero(denoise, code, text(1), rate=5.0)),
    ):
        assert torch.allclose(closed, plain, atol=1e-9)
        assert apart(opened, plain) > 1e-4


def test_the_features_of_plug_and_play_are_the_sources():
    """Seen where the next block takes them."""
    denoise = random_unet()
    code = inverted(denoise)
    for until in (math.inf, -math.inf):
        seen: list[bool] = []

        def look(value: Tensor, at: taps.At, seen=seen) -> Tensor:
            parts = at.split(value)
            seen.append(torch.equal(parts[SOURCE], parts[EDIT]))
            return value

        watched = taps.replace(denoise, {"up.0.2.in": look})
        plug_and_play(watched, code, text(1), until=until, attention_until=-math.inf)
        assert len(seen) == 4 and all(same == (until > 0) for same in seen)


def test_masactrl_with_masks_looks_the_object_up_in_the_object():
    denoise = random_unet()
    code = inverted(denoise)
    here, there = torch.zeros(2, 8, 8, dtype=torch.bool)
    here[:, :4], there[:, 4:] = True, True
    plain = masactrl(denoise, code, text(1), start=-math.inf)
    apart_ = masactrl(denoise, code, text(1), start=-math.inf, masks=(there, here))
    assert apart(apart_, plain) > 1e-4
    with pytest.raises(InputError, match="empty or full"):
        masactrl(denoise, code, text(1), masks=(there, torch.ones(8, 8)))
    with pytest.raises(InputError, match=r"the mask is 1x4x8, the images are 1x8x8"):
        masactrl(denoise, code, text(1), masks=(there[:4], here))


def test_prompt_to_prompt_keeps_the_layout_and_changes_the_colour():
    """Things of the other colour like the other side. With the source's maps the thing stays where it was, in the new colour."""
    denoise, red, blue = painter(), prompt(A, A_RED), prompt(A, A_BLUE)
    source = sample(denoise, 4, red, steps=10, grid=ENDS, seed=1)
    code = inversion.ode(denoise, source, red, 10, grid=ENDS)
    where = layout(source)
    assert 0.2 < where.float().mean() < 0.8

    def kept(pictures: Tensor) -> float:
        same = layout(pictures)
        return float((same & where).sum() / (same | where).sum())

    edited = prompt_to_prompt(denoise, code, blue, cross=math.inf)
    assert kept(edited) > 0.95
    thing = edited.movedim(1, -1)[where].mean(0)
    assert thing[2] > 0.5 > 0.0 > thing[0]
    again = sample(denoise, 4, blue, steps=10, grid=ENDS, seed=2)
    ground = (~where)[:, None].expand_as(source)
    assert rms(edited[ground], source[ground]) < 0.5 * rms(again[ground], source[ground])
    shut = prompt_to_prompt(denoise, code, blue, cross=-math.inf)
    assert kept(again) < 0.4 and kept(shut) < 0.6
    assert kept(reconstruct(denoise, code)) > 0.95  # which is of the old colour
    assert reconstruct(denoise, code).movedim(1, -1)[where].mean(0)[0] > 0.5


def test_a_local_blend_keeps_the_source_outside_of_the_word():
    denoise, red = painter(), prompt(A, A_RED)
    source = sample(denoise, 2, red, steps=8, grid=ENDS, seed=1)
    code = inversion.ode(denoise, source, red, 8, grid=ENDS)
    blend = LocalBlend((1,), (1,), threshold=0.75, start=-math.inf)
    other, back, where = (
        prompt(word((-0.5, -0.9, -0.5), 0.0, False), A_BLUE),
        reconstruct(denoise, code),
        layout(source),
    )
    bare, blended = (prompt_to_prompt(denoise, code, other, cross=math.inf, blend=b) for b in (None, blend))
    untouched, touched = ((each - back).abs().amax(1) < 1e-9 for each in (blended, bare))
    assert untouched.float().mean() > 0.2 and not touched.any()
    assert (untouched & where).sum() <= 0.2 * where.sum()


def test_words_are_aligned():
    source, target = words(["a", "red", "heart"]), words(["a", "very", "blue", "heart"])
    refined = align(source, target)
    assert refined.mapper.nonzero().tolist() == [[0, 0], [2, 3]] and refined.own.tolist() == [0, 1, 1, 0]
    exchanged = align(source, words(["a", "blue", "heart"]), replace=True)
    assert torch.equal(exchanged.mapper, torch.eye(3)) and exchanged.own.sum() == 0
    # a start token, a word of two tokens for one of one, an end and padding
    one = [source[0]._replace(tokens=(1,)), source[1]._replace(tokens=(2,)), source[2]._replace(tokens=(3,))]
    two = [one[0], one[1]._replace(text="ultramarine", tokens=(2, 3)), one[2]._replace(tokens=(4,))]
    given = align(one, two, length=6, replace=True)
    expected = [[0, 0], [1, 1], [2, 2], [2, 3], [3, 4], [4, 5]]
    assert given.mapper.nonzero().tolist() == expected and given.mapper[2].sum() == 1.0
    with pytest.raises(InputError, match="one for one: got 3 and 4 words"):
        align(source, target, replace=True)
    with pytest.raises(
        InputError, match=r"'hart' is not in the prompt; .*a \(0\), red \(1\), heart \(2\). Did you mean 'heart'"
    ):
        tokens_of(source, "hart")
    with pytest.raises(InputError, match="list of words"):
        words("a red heart")


def gaussians() -> GaussianMixture:
    """Two classes N(∓1, .3²)."""
    means = torch.tensor([[-1.0], [1.0]], dtype=F64)
    return GaussianMixture(torch.ones(2, dtype=F64), means, 0.09 * torch.eye(1, dtype=F64).repeat(2, 1, 1), [0, 1])


def test_the_delta_score_has_no_noise_where_the_score_has():
    """Classes of equal width: ε̂ differs by −σα(μ − μ′)/V, whatever the noise; score distillation has the same mean and noise on top."""
    denoise = gaussians().denoiser(VP())
    z = torch.full((400, 1), -1.0, dtype=F64)
    level = {"levels": (0.5, 0.5), "seed": 3}
    found = direction(denoise, z, z, Cond(label=0), Cond(label=1), **level)
    point = VP().at(0.0)
    variance = point.alpha**2 * 0.09 + point.sigma**2
    assert torch.allclose(found, torch.full_like(z, -point.sigma * point.alpha * 2.0 / variance))
    assert float(direction(denoise, z, z, Cond(label=0), Cond(label=0), **level).abs().max()) == 0.0
    x, t = z.clone().requires_grad_(), VP().t_of_lam(0.0)
    loss = sds(denoise, x, Cond(label=1), times=(t, t), weight=lambda point: 1.0, seed=3)
    (noisy,) = torch.autograd.grad(loss.sum(), x)
    assert float(noisy.std()) > 0.05
    assert abs(float(noisy.mean() - found.mean())) < 4.0 * float(noisy.std()) / 20.0


def test_dds_moves_a_class_to_the_other_and_leaves_equal_prompts_alone():
    denoise = gaussians().denoiser(VP())
    x = torch.tensor([[-1.2], [-0.9]], dtype=F64)
    there = dds(denoise, x, Cond(label=0), Cond(label=1), 200, scale=1.0)
    assert torch.allclose(there, x + 2.0, atol=0.15)
    assert torch.equal(dds(denoise, x, Cond(label=0), Cond(label=0), 20, scale=7.5), x)
    net = random_unet()
    assert torch.equal(dds(net, images(2), text(0), text(0), 2), images(2))
    with pytest.raises(InputError, match="levels are"):
        dds(denoise, x, Cond(label=0), Cond(label=1), levels=(0.0, 0.5))


def test_a_step_of_pix2pix_zero_brings_the_maps_nearer():
    denoise = random_unet()
    code, both = inverted(denoise), joined({SOURCE: text(0), EDIT: text(1)}, 1)
    sites, point = attentions(denoise), code.points[1]

    def distance(x: Tensor) -> Tensor:
        watcher = Watcher()
        Branched(changed_attention(denoise, sites, watcher), (SOURCE, EDIT))(
            torch.cat([code.trajectory[1], x]), point, both
        )
        assert watcher.distance is not None
        return watcher.distance.sum()

    start = code.trajectory[1]
    towards, away = (nearer(denoise, point, start, start, both, rate) for rate in (1e-4, -1e-4))
    assert distance(towards) < distance(start) < distance(away)
    own = inversion.drawn(denoise, 1, text(0), 4)  # whose states decoding comes by again
    assert apart(pix2pix_zero(denoise, own, text(0), rate=5.0), own.images) < 1e-3
    assert (
        apart(pix2pix_zero(denoise, own, text(1), rate=5.0), own.images) > 1e-3
    )  # control: another direction than none
    delta = text_direction(Cond(text=torch.cat([text(0)["text"].value] * 2)), text(1))
    assert torch.allclose(moved(text(0), delta)["text"].value, text(1)["text"].value)
    with torch.no_grad(), pytest.raises(InputError, match="gradients"):
        pix2pix_zero(denoise, code, text(1))


class Coarse(Identity, Space):
    """Codes of half the size: what comes back is not what went in."""

    def encode(self, x):
        return torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def code_shape(self, data):
        return (data[0], data[1] // 2, data[2] // 2)

    def data_shape(self, code):
        return (code[0], code[1] * 2, code[2] * 2)


@pytest.mark.parametrize("latent", [False, True])
def test_what_lies_outside_of_the_mask_stays_bit_for_bit(latent):
    denoise, x = random_unet(), images(2)
    if latent:
        denoise.space, x = Coarse(), torch.rand(2, 1, 16, 16, dtype=F64) * 2 - 1
    mask = torch.zeros(x.shape[-2:], dtype=torch.bool)
    mask[1:6, 2:7] = True
    how = {"cond": text(1), "steps": 4, "grid": ENDS}
    for edited in (
        masked(denoise, x, mask, **how),
        masked(denoise, x, mask, start=0.6, **how),
        masked(denoise, x, mask, jump=2, repeat=2, **how),
        edit(denoise, x, text(0), text(1), "sdedit", mask=mask, steps=3).images,
    ):
        assert torch.equal(edited[:, :, ~mask], x[:, :, ~mask]) and edited.shape == x.shape
        assert ((edited - x).abs()[:, :, mask] > 1e-3).all(1).float().mean() > 0.9
    whole = masked(denoise, x, torch.ones_like(mask), start=0.7, **how)
    assert torch.allclose(whole, sample(denoise, 2, text(1), DDPM(), 4, ENDS, x=x, start=0.7))
    with pytest.raises(InputError, match="the mask is 1x4x"):
        masked(denoise, x, mask[:4], **how)
    with pytest.raises(InputError, match="threshold it first"):
        masked(denoise, x, 0.5 * mask, **how)


def test_sdedit_regresses_on_its_input_by_the_closed_form():
    """Gaussian data N(0, s²): ancestral decoding has the slope α²s²/(α²s² + σ²), the flow αs/√(α²s² + σ²)."""
    s, path = 0.5, VP()
    denoise = GaussianMixture(torch.ones(1), torch.zeros(1, 1), s**2 * torch.eye(1)[None]).denoiser(path)
    p = path.point(0.3)
    v = p.alpha**2 * s**2 + p.sigma**2

    def slope(solver, **how) -> float:
        """From two inputs under the same noise: for Gaussian data the whole run is linear."""
        low, high = (sdedit(denoise, torch.full((1, 1), x), None, 0.3, solver, 60, **how) for x in (0.0, 1.0))
        assert abs(float(low)) > 1e-2  # the noise
        return float(high - low)

    ancestral = (p.alpha * s) ** 2 / v
    assert slope(DDPM()) == pytest.approx(ancestral, abs=0.02)
    assert slope(DDIM()) == pytest.approx(p.alpha * s / v**0.5, abs=0.02)
    assert slope(DDPM(), repeats=2) == pytest.approx(ancestral**2, abs=0.01)
    once, twice = (sdedit(denoise, torch.zeros(1, 1), None, 0.3, DDPM(), 20, repeats=n, seed=1) for n in (1, 2))
    assert abs(float(twice) - float(once) * (1.0 + ancestral)) > 1e-2  # the second has noise of its own


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drag_moves_the_handle_and_a_rate_of_zero_nothing(rate):
    denoise, red = painter(), prompt(A, A_RED)
    source = sample(denoise, 1, red, steps=8, grid=ENDS, seed=1)
    code = inversion.ode(denoise, source, red, 8, DDIM(), grid=ENDS)
    how = {"site": "blocks.0", "rate": rate, "iterations": 25, "skip": 3, "search": 2}
    done = drag(denoise, code, [(3.5, 1.5)], [(3.5, 5.5)], **how)
    if rate == 0.0:
        assert torch.allclose(done.images, reconstruct(denoise, code, skip=3), atol=1e-9) and done.iterations == 25
        return
    assert abs(done.handles[0][1] - 5.5) <= 4.0 / 3.0 + 1.0
    assert apart(done.images, source) > 0.02
    half = torch.zeros(8, 8)
    half[:4] = 1
    tied = drag(denoise, code, [(1.5, 1.5)], [(1.5, 5.5)], mask=half, keep=30.0, **how)
    loose = drag(denoise, code, [(1.5, 1.5)], [(1.5, 5.5)], **how)
    outside = half == 0
    assert rms(tied.images[..., outside], source[..., outside]) < rms(loose.images[..., outside], source[..., outside])
    with pytest.raises(InputError, match=r"\(3.5, 9\) is outside of the picture, which has 8 rows and 8 columns"):
        drag(denoise, code, [(3.5, 1.5)], [(3.5, 9)], site="blocks.0")
    with pytest.raises(InputError, match="name one of"):
        drag(denoise, code, [(3.5, 1.5)], [(3.5, 5.5)])


WAYS = {
    "": lambda here, goal: way_of(here, goal),
    "control: back": lambda here, goal: (-way_of(here, goal)[0], way_of(here, goal)[1]),
    "control: across": lambda here, goal: (way_of(here, goal)[0].flip(1), way_of(here, goal)[1]),
}
way_of = drag_module._way


@pytest.mark.parametrize("way", WAYS)
def test_what_is_dragged_goes_the_way_of_its_target(way, monkeypatch):
    """One handle in the middle, targets on its four sides: it ends on that side, and the red, which lies left, goes along."""
    monkeypatch.setattr(drag_module, "_way", WAYS[way])
    denoise, red = painter(), prompt(A, A_RED)
    source = sample(denoise, 1, red, steps=8, grid=ENDS, seed=1)
    code = inversion.ode(denoise, source, red, 8, DDIM(), grid=ENDS)
    how = {"site": "blocks.0", "rate": 0.3, "iterations": 25, "skip": 3, "search": 2}

    def middle(images: Tensor) -> Tensor:
        weight = images[0, 0] - images[0, 0].amin()
        line = torch.arange(8, dtype=F64)
        return torch.stack([(weight.sum(1) * line).sum(), (weight.sum(0) * line).sum()]) / weight.sum()

    def ends(target: tuple[float, float]) -> tuple[tuple[float, float], Tensor]:
        done = drag(denoise, code, [(3.5, 3.5)], [target], **how)
        return done.handles[0], middle(done.images)

    down, up, right, left = map(ends, ((6.5, 3.5), (0.5, 3.5), (3.5, 6.5), (3.5, 0.5)))
    handles = down[0][0] - up[0][0] > 1.0 and right[0][1] - left[0][1] > 1.0
    red = float((right[1] - left[1])[1]) > 0.1
    assert (handles and red) == (way == "")


def test_the_energy_of_dragon_knows_where_an_object_is_to_be_and_of_which_size():
    """Features that differ in one box: lowest where the box has moved, and been stretched, as the masks say."""

    def scene(top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(1, 1, 16, 16, dtype=F64)
        mask[..., top : top + height, left : left + width] = 1.0
        ground = torch.tensor([1.0, 0.0, 0.2], dtype=F64).reshape(1, 3, 1, 1)
        return ground + mask * torch.tensor([-1.0, 1.0, 0.0], dtype=F64).reshape(1, 3, 1, 1), mask

    source, there = scene(2, 1, 4, 4)
    for place in ((9, 10, 4, 4), (8, 8, 6, 8)):
        wanted, here = scene(*place)
        regions = Regions(there, here)
        top, left, height, width = place
        inner = (slice(top + 1, top + height - 1), slice(left + 1, left + width - 1))  # a stretched edge is between
        assert torch.allclose(regions._moved(source)[..., *inner], wanted[..., *inner])
        copied = torch.where(there > 0, source, wanted)
        low, left_behind, stayed = (float(regions.energy(x, source, (4.0, 6.0, 0.2))) for x in (wanted, copied, source))
        assert low < left_behind < stayed


def test_dragon_moves_the_thing_and_without_strength_nothing():
    denoise, red = painter(), prompt(A, A_RED)
    source = sample(denoise, 1, red, steps=8, grid=ENDS, seed=1)
    code = inversion.ode(denoise, source, red, 8, DDIM(), grid=ENDS)
    there, here = torch.zeros(2, 8, 8)
    there[:, :4], here[:, 4:] = 1, 1
    how = {"sites": ["blocks.0"], "start": math.inf}
    assert torch.allclose(
        dragon(denoise, code, there, here, strength=0.0, **how), reconstruct(denoise, code), atol=1e-9
    )
    done, still = (dragon(denoise, code, there, to, **how) for to in (here, there))
    given, moved_, kept = (float(layout(each)[:, :, 4:].float().mean()) for each in (source, done, still))
    assert given == kept == 0.0 and moved_ > 0.4
    with pytest.raises(InputError, match="mask of the object is empty"):
        dragon(denoise, code, 0 * there, here, **how)
    with pytest.raises(InputError, match="name some of"):
        dragon(denoise, code, there, here)


def test_what_cannot_be_edited_says_why():
    denoise = random_unet()
    code = inverted(denoise)
    bare = gaussians().denoiser(VP())
    with pytest.raises(InputError, match="no cross-attention: it is told label"):
        prompt_to_prompt(bare, inversion.ode(bare, torch.zeros(1, 1), Cond(label=0), 2), Cond(label=1))
    with pytest.raises(InputError, match="does not fit the model: path"):
        prompt_to_prompt(denoise.under(Flow()), code, text(1))
    with pytest.raises(InputError, match="does not fit the model: weights"):
        masactrl(random_unet(1), code, text(1))
    with pytest.raises(InputError, match=r"no site 'up\.9'"):
        plug_and_play(denoise, code, text(1), features=["up.9"])
    with pytest.raises(InputError, match=r"unknown method 'p2q'.*Did you mean 'p2p'"):
        edit(denoise, images(), text(0), text(1), "p2q")
    with pytest.raises(InputError, match="reverie train instruct"):
        edit(denoise, images(), None, text(1), "instruct")
    with pytest.raises(InputError, match="say what to do"):
        edit(random_editor(), images())  # what was trained to edit needs no method
    with pytest.raises(InputError, match="it is by ode, the edit by edict"):
        edit(denoise, code, None, text(1), "edict")
    with pytest.raises(InputError, match="the picture itself"):
        edit(denoise, code, None, text(1), "sdedit")
    two = inversion.edict(denoise, images(), text(0), 2, ENDS, scale=1.0)
    blend = LocalBlend((1,), (1,))
    with pytest.raises(InputError, match="two states that belong together"):
        prompt_to_prompt(denoise, two, text(1), blend=blend)
    with pytest.raises(InputError, match="alignment is of 2 and 2 tokens"):
        prompt_to_prompt(denoise, code, text(1), same(2))


FEW = {"null_text": {"iterations": 2}, "fixed_point": {"iterations": 2}}


def _of(method: str, **how) -> Callable[[Denoiser], inversion.Inversion]:
    return lambda d: inversion.METHODS[method](d, images(), text(0), 3, grid=ENDS, **FEW.get(method, {}), **how)


@dataclass(frozen=True)
class Levels:
    """The same noise levels on every path, then clean data."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule, steps):
        lams = [3.0 * i / steps for i in range(1, steps)]
        return schedule.at(0.5 * self.start), *map(schedule.at, lams), schedule.clean()


EDITORS: dict[str, Callable[[Denoiser], Tensor]] = {
    **{
        name: lambda d, name=name: reconstruct(d, _of(name, scale=2.0)(d), text(1), skip=1)
        for name in inversion.METHODS
    },
    "dds": lambda d: dds(d, images(), text(0), text(1), 3),
    "imagic": lambda d: imagic(
        d, images(), text(1), optimise=3, tune=3, solver=DDIM(), steps=3, grid=Levels(start=-6.0), scale=2.0
    ),
    "instruct": lambda d: instruct(d, images(), text(1), scale=3.0, solver=DDIM(), steps=3, grid=Levels(start=-6.0)),
    "masactrl": lambda d: masactrl(d, _of("ode")(d), text(1), scale=2.0),
    "masked": lambda d: masked(d, images(), torch.eye(8), text(1), d.schedule.t_of_lam(-1.0), steps=4, grid=Levels()),
    "p2p": lambda d: prompt_to_prompt(d, _of("negative_prompt")(d), text(1), scale=2.0),
    "pix2pix_zero": lambda d: pix2pix_zero(d, _of("ode")(d), text(1), rate=2.0),
    "plug_and_play": lambda d: plug_and_play(d, _of("ode")(d), text(1), scale=2.0),
    "sdedit": lambda d: sdedit(d, images(), text(1), d.schedule.t_of_lam(-1.0), DDPM(), 3, Levels()),
    "dragon": lambda d: dragon(d, _of("ode")(d), torch.eye(8), torch.eye(8).flip(0), sites=["up.1.0"], strength=5.0),
    "drag": lambda d: (
        drag(d, _of("ode")(d), [(2, 2)], [(5, 5)], site="up.1.0", skip=1, iterations=2, mask=torch.eye(8)).images
    ),
}


@pytest.mark.parametrize("editor", EDITORS)
def test_a_model_re_expressed_is_edited_the_same(editor):
    """ε, v, x0 and flow, on two paths besides its own: the model is the same function, and so is the edit."""
    made = random_editor if editor == "instruct" else random_unet
    base = made()
    expected = EDITORS[editor](base)
    for kind, path in (("eps", VP()), ("x0", Flow()), ("flow", Flow()), ("v", Cosine())):
        found = EDITORS[editor](As(base.under(path), kind))
        assert apart(found, expected) < 1e-6, (kind, path)
    assert apart(expected, images()) > 1e-3
    other = EDITORS[editor](As(made(1), "eps"))
    assert apart(other, expected) > 1e-3
