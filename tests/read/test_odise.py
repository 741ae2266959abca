"""ODISE: the captioner starts as the null, matching and panoptic quality equal other implementations, sizes are the paper's."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.learn import Batch, Draws, Moment
from reverie.read.odise import (
    CAPTIONS,
    LABELS,
    ODISE,
    PRESETS,
    Backbone,
    Captioner,
    Helper,
    Naming,
    Vocabulary,
    masked,
    panoptic,
    quality,
)
from reverie.read.odise.criterion import Criterion, Segments, assign, dice
from reverie.read.odise.deformable import Deformable, centers
from reverie.read.odise.masks import MaskGenerator, inside
from reverie.read.odise.model import Segmenting, unpack
from reverie.read.odise.naming import fuse, helped
from reverie.read.odise.panoptics import Panoptic
from reverie.read.odise.scenes import COLOURS, GROUND, SEEN, scenes, truth, vocabulary

from ..margin import apart

NOW = Moment(0, 0, 100)
SITES = ["up.0.0.in", "up.1.0.in"]


def pooled(x):
    return F.avg_pool2d(x, 8).flatten(1)


def model(captioned=True):
    torch.manual_seed(0)
    net = rv.nets.build(
        rv.nets.UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(), heads=1, vector=5), channels=3, size=16
    )
    for p in net.parameters():
        if not p.any() and p.ndim > 1:
            nn.init.normal_(p, std=0.1)
    denoise = NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(3, 16, 16))
    captioner = Captioner(torch.zeros(5), 12, time=32) if captioned else None
    widths = [
        value.shape[1] for value in rv.nets.taps.features(denoise, SITES, torch.zeros(1, 3, 16, 16), 0.1).values()
    ]
    backbone = Backbone(
        denoise,
        SITES,
        widths,
        PRESETS["small"],
        captioner=captioner,
        embed=pooled if captioned else None,
        name="vector",
        t=0.05,
    )
    return ODISE(backbone, 7, PRESETS["small"])


def test_at_the_start_the_captioner_says_the_null_and_can_learn():
    images = scenes(0, 4).x
    captioned, plain = model(), model(captioned=False)
    null = torch.randn(3, 5)
    assert torch.equal(Captioner(null, 12)(pooled(images)), null.expand(4, 3, 5))
    for a, b in zip(captioned.backbone.values(images), plain.backbone.values(images), strict=True):
        assert torch.equal(a, b)
    sum(part for part in captioned.losses(images, unpack(scenes(0, 4)), vocabulary()).values()).backward()
    captioner = captioned.backbone.captioner
    assert captioner.tokens.gate.grad.abs().min() > 0 and captioner.time.gate.grad.abs().max() > 0
    with torch.no_grad():
        captioner.tokens.gate += 0.5
    assert apart(captioned.backbone.values(images)[0], plain.backbone.values(images)[0]) > 1e-3


def test_the_denoiser_is_neither_trained_nor_saved_and_left_as_it_was():
    it = model()
    net = it.backbone._frozen[0].net
    hooks = [len(m._forward_hooks) for m in net.modules()]
    it.losses(scenes(0, 2).x, unpack(scenes(0, 2)), vocabulary())["name"].backward()
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert not {id(p) for p in net.parameters()} & {id(p) for p in it.parameters()}
    assert all(p.grad is None for p in net.parameters())


def brute(found, true, categories):
    """Kirillov et al. 2019, equation 1, by masks: every pair of segments, one by one."""
    classes = []
    for k in range(categories):
        iou, tp, fp, fn = 0.0, 0, 0, 0
        for f, t in zip(found, true, strict=True):
            void = t.segments == 0
            mine = [f.segments == i for i, label in f.labels.items() if label == k]
            theirs = [t.segments == i for i, label in t.labels.items() if label == k]
            taken = set()
            for a in mine:
                scores = [(a & b).sum().item() / ((a & ~void) | b).sum().item() for b in theirs]
                best = max(range(len(scores)), key=scores.__getitem__, default=None)
                if best is not None and scores[best] > 0.5:
                    taken.add(best)
                    iou, tp = iou + scores[best], tp + 1
                elif (a & void).sum() <= 0.5 * a.sum():
                    fp += 1
            fn += len(theirs) - len(taken)
        if tp + fp + fn:
            classes.append(iou / (tp + 0.5 * fp + 0.5 * fn))
    return sum(classes) / len(classes)


def random_map(rng, like=None):
    if like is None:
        segments = torch.from_numpy(rng.integers(0, 5, (4, 4)).repeat(3, 0).repeat(3, 1))
        labels = {i: int(rng.integers(3)) for i in range(1, 5) if (segments == i).any()}
        return Panoptic(segments, labels)
    segments = torch.where(
        torch.from_numpy(rng.random((12, 12)) < 0.2), torch.from_numpy(rng.integers(0, 6, (12, 12))), like.segments
    )
    labels = {
        i: like.labels.get(i, 0) if rng.random() < 0.8 else int(rng.integers(3))
        for i in range(1, 6)
        if (segments == i).any()
    }
    return Panoptic(segments, labels)


def test_panoptic_quality_is_that_of_a_brute_force():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(50):
        true = [random_map(rng) for _ in range(2)]
        found = [random_map(rng, t) for t in true]
        got = quality(found, true, 3)
        assert got.pq == pytest.approx(brute(found, true, 3), abs=1e-12)
        values.append(got.pq)
    assert 0.2 < sum(values) / 50 < 0.9
    assert quality(true, true, 3).pq == 1.0
    wrong = [Panoptic(t.segments, {i: (label + 1) % 3 for i, label in t.labels.items()}) for t in true]
    assert quality(wrong, true, 3).pq < 0.5
    with pytest.raises(InputError, match="same sizes"):
        quality(true[:1], true, 3)


def test_the_assignment_is_the_cheapest():
    rng = np.random.default_rng(0)
    for n, m in [(1, 1), (1, 5), (3, 3), (4, 9), (12, 30)]:
        for _ in range(10):
            cost = rng.normal(size=(n, m))
            rows, columns = assign(cost)
            assert len(set(columns)) == n and list(rows) == list(range(n))
            assert cost[rows, columns].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-9)
    assert len(assign(np.zeros((0, 4)))[0]) == 0


def test_the_losses_of_perfect_proposals_vanish_and_do_not_depend_on_the_order_of_segments():
    batch = scenes(0, 3)
    true = unpack(batch)
    masks = torch.full((3, 5, 16, 16), -30.0)
    last = GROUND + 1
    logits = torch.zeros(3, 5, last + 1)
    logits[..., last] = 40.0
    for i, segments in enumerate(true):
        for j, (label, mask) in enumerate(zip(segments.labels, segments.masks, strict=True)):
            masks[i, 4 - j] = 60.0 * mask.float() - 30.0
            logits[i, 4 - j, last], logits[i, 4 - j, label] = 0.0, 40.0
    criterion = Criterion(points=None)
    perfect = criterion(logits, masks, true)
    assert all(value < 1e-4 for value in perfect.values())
    turned = [Segments(s.labels.flip(0), s.masks.flip(0)) for s in true]
    noise = torch.randn_like(masks)
    for key, value in criterion(logits, noise, true).items():
        torch.testing.assert_close(value, criterion(logits, noise, turned)[key])
    assert criterion(logits, noise, true)["bce"] > 1.0
    a, b = torch.randn(4, 20), (torch.rand(3, 20) > 0.5).float()
    for q, s in itertools.product(range(4), range(3)):
        p = a[q].sigmoid()
        expected = 1 - (2 * (p * b[s]).sum() + 1) / (p.sum() + b[s].sum() + 1)
        torch.testing.assert_close(dice(a, b)[q, s], expected)


def test_deformable_attention_at_its_own_place_reads_its_own_value():
    """No offset, one level: bilinear sampling at the centre of a place is its value, so the layer is its two linear maps."""
    layer = Deformable(8, 2, levels=2)
    nn.init.zeros_(layer.offsets.bias)
    sizes = [(2, 3), (4, 6)]
    x, memory = torch.randn(2, 30, 8), torch.randn(2, 30, 8)
    value = layer.value(memory)
    coarse, fine = value[:, :6].transpose(1, 2).unflatten(2, (2, 3)), value[:, 6:].transpose(1, 2).unflatten(2, (4, 6))
    out = layer(x, centers(sizes, x), memory, sizes)
    fine_here = F.interpolate(fine, (2, 3), mode="bilinear", align_corners=False)
    expected = layer.out((0.5 * (coarse + fine_here)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(out[:, :6], expected, atol=1e-5, rtol=1e-4)
    nn.init.constant_(layer.offsets.bias, 0.7)
    assert (layer(x, centers(sizes, x), memory, sizes)[:, :6] - expected).abs().max() > 0.05


def test_a_query_looks_only_inside_its_mask_and_everywhere_if_it_is_empty():
    generator = MaskGenerator(8, heads=2, queries=2, layers=3, pixel_layers=1)
    masks = torch.full((1, 2, 8, 8), -1.0)
    masks[0, 0, :4] = 1.0
    hidden = generator.hidden(masks, torch.Size((4, 4))).view(1, 2, 2, 4, 4)
    assert not hidden[0, :, 0, :2].any() and hidden[0, :, 0, 2:].all() and not hidden[0, :, 1].any()
    features = torch.randn(1, 3, 4, 4)
    half = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    half[..., :2] = True
    torch.testing.assert_close(inside(features, half)[0, 0], features[0, :, :, :2].mean((1, 2)))


def test_a_mask_is_named_by_the_nearest_word_and_the_best_synonym():
    naming = Naming(4, 3)
    words = torch.randn(4, 3)
    known = Vocabulary([["cat"], ["car", "automobile"], ["sky"]], words)
    z = torch.randn(2, 5, 4)
    logits = naming(z, known)
    cosines = F.cosine_similarity(z[:, :, None], naming.project(words)[None, None], dim=-1)
    assert logits.shape == (2, 5, 4) and naming.scale.item() == pytest.approx(1 / 0.07)
    torch.testing.assert_close(logits[..., 0] * 0.07, cosines[..., 0])
    torch.testing.assert_close(logits[..., 1] * 0.07, cosines[..., 1:3].amax(-1))
    torch.testing.assert_close(logits[..., 3] * 0.07, F.cosine_similarity(z, naming.null.expand_as(z), dim=-1))
    with torch.no_grad():
        naming.log_scale += 10.0
    assert naming.scale.item() == 100.0
    with pytest.raises(InputError, match="4 embeddings"):
        Vocabulary([["cat"], ["sky"]], words)


def test_the_fused_probability_is_the_weighted_geometric_mean():
    p, q = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.1])
    fused = fuse(p, q, torch.tensor([True, False]), torch.tensor(0.25))
    expected = [0.75 * 0.2**0.7 * 0.6**0.3, 0.75 * 0.5**0.3 * 0.1**0.7]
    torch.testing.assert_close(fused, torch.tensor(expected))


def as_seen(images):
    """A made picture-text model: each place says the word of the shape's colour it shows, never the shape."""
    palette = torch.tensor(list(COLOURS.values())).float() * 1.6 - 0.7
    nearest = (images[:, None] - palette[None, :, :, None, None]).square().sum(2).argmin(1)
    words = torch.eye(len(COLOURS))
    return words[nearest].permute(0, 3, 1, 2)


def test_masked_scores_say_what_lies_inside_the_masks():
    batch = scenes(0, 20)
    known = Vocabulary([[colour] for colour in COLOURS], torch.eye(len(COLOURS)))
    q = masked(as_seen)(batch.x, batch.extra["masks"], known)
    wanted = torch.tensor([list(COLOURS).index(SEEN[k][1]) for k in batch.extra["categories"][:, :2].flatten()])
    assert q.shape == (20, 3, len(COLOURS))
    torch.testing.assert_close(q.sum(-1), torch.ones(20, 3))
    assert (q[:, :2].argmax(-1).flatten() == wanted).double().mean() == 1.0
    other = masked(as_seen)(batch.x, batch.extra["masks"].roll(1, 0), known)
    assert (other[:, :2].argmax(-1).flatten() == wanted).double().mean() < 0.8


@pytest.mark.parametrize(("light", "shares"), [(LABELS, (0.3, 0.7)), (CAPTIONS, (0.35, 0.65))])
def test_a_helper_joins_by_the_geometric_mean_of_the_paper(light, shares):
    """One seen and one new category: p^(1−λ)·q^λ·(1 − null), with the null, made to sum to one."""
    logits, known = torch.tensor([[[1.0, 0.0, -1.0]]]), Vocabulary([["a"], ["b"]], torch.eye(2))
    q = torch.tensor([[[0.2, 0.8]]])
    helper = Helper(lambda images, masks, words: q, torch.tensor([True, False]), light)
    got = helped(logits, helper, torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4), known)[0, 0]
    e = [math.exp(v) for v in (1.0, 0.0, -1.0)]
    null, p = e[2] / sum(e), [e[0] / (e[0] + e[1]), e[1] / (e[0] + e[1])]
    raw = [
        p[0] ** (1 - shares[0]) * 0.2 ** shares[0] * (1 - null),
        p[1] ** (1 - shares[1]) * 0.8 ** shares[1] * (1 - null),
        null,
    ]
    torch.testing.assert_close(got, torch.tensor(raw) / sum(raw))
    assert got[1] > logits.softmax(-1)[0, 0, 1] + 0.1, "the helper is heard"
    with pytest.raises(InputError, match="one a category"):
        helped(
            logits, helper._replace(seen=torch.tensor([True])), torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4), known
        )


def test_segments_take_the_names_of_a_helper():
    it, batch = model(captioned=False).eval(), scenes(0, 4)
    words, sure = vocabulary(), 3
    nn.init.constant_(it.naming.log_scale, -3.0)  # undecided, so that the null does not win

    def scorer(images, masks, known):
        assert images.shape == (4, 3, 16, 16) and masks.shape == (4, 6, 16, 16) and masks.min() >= 0
        return F.one_hot(torch.full(masks.shape[:2], sure), len(known.names)).float().clamp(1e-6)

    helper = Helper(scorer, torch.zeros(len(words.names), dtype=torch.bool))
    found = it.segment(batch.x, words, least=0.0, visible=0.0, helper=helper)
    alone = it.segment(batch.x, words, least=0.0, visible=0.0)
    assert {label for m in found for label in m.labels.values()} == {sure}
    assert {label for m in alone for label in m.labels.values()} != {sure}


def test_larger_pictures_are_read_window_by_window():
    backbone = model(captioned=False).backbone
    wide = torch.cat([scenes(0, 2).x, scenes(2, 2).x], 3)
    with torch.no_grad():
        left, right = backbone(wide[..., :16]), backbone(wide[..., 16:])
        for whole, a, b in zip(backbone(wide), left, right, strict=True):
            assert torch.equal(whole, torch.cat([a, b], 3))
        for whole, a, b in zip(backbone(wide[..., :24]), left, backbone(wide[..., 8:24]), strict=True):
            n = whole.shape[3] // 3  # a third is seen by both
            torch.testing.assert_close(whole[..., :n], a[..., :n])
            torch.testing.assert_close(whole[..., n : 2 * n], 0.5 * (a[..., n:] + b[..., :n]))
            torch.testing.assert_close(whole[..., 2 * n :], b[..., n:])
        tall = backbone(F.pad(wide, (0, 0, 0, 5)))
        assert [m.shape[2:] for m in tall] == [(21, 32), (10, 16), (5, 8), (2, 4)]
        assert all(m.isfinite().all() for m in tall)
    found = model(captioned=False).eval().segment(wide, vocabulary(), least=0.0)
    assert found[0].segments.shape == (16, 32)
    with pytest.raises(InputError, match="16x16 pixels or more"):
        backbone(wide[..., :15])


def test_grounding_is_lowest_when_pictures_meet_their_own_captions():
    naming = Naming(4, 4)
    nn.init.eye_(naming.project.weight)
    words = torch.eye(4)[:, None].expand(4, 2, 4)
    z = torch.eye(4)[:, None].expand(4, 3, 4)
    own, others = naming.grounding(z, words).item(), naming.grounding(z, words.roll(1, 0)).item()
    assert own < 1e-3 < 3 < others
    blind = naming.grounding(torch.ones(4, 3, 4), words).item()
    assert blind == pytest.approx(math.log(4), abs=1e-5)


def test_masks_become_a_map_of_disjoint_segments():
    masks = torch.zeros(4, 4, 4)
    masks[0, :, :2], masks[1, :, 2:], masks[2, :, :2], masks[3, :1, :] = 1.0, 1.0, 0.9, 0.8
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.05, 0.8, 0.15], [0.1, 0.1, 0.8]])
    things = panoptic(scores, masks)
    assert things.labels == {1: 0, 2: 0} and things.segments[0].tolist() == [
        1,
        1,
        2,
        2,
    ]  # the third is covered, the last says nothing
    assert panoptic(scores, masks, stuff=(0,)).labels == {1: 0}
    assert panoptic(scores, masks, least=0.95).labels == {} and not panoptic(scores, masks, least=0.95).segments.any()


def test_made_scenes_say_what_they_show():
    batch = scenes(0, 200)
    masks, kinds = batch.extra["masks"], batch.extra["categories"]
    assert torch.equal(masks.sum(1), torch.ones(200, 16, 16))
    assert set(kinds[:, :2].flatten().tolist()) == set(range(GROUND)) and set(kinds[:, 2].tolist()) == {GROUND}
    for picture, mask, kind in zip(batch.x, masks, kinds, strict=True):
        seen = picture[:, mask[0] > 0].mean(1) > 0.1
        assert seen.tolist() == [bool(part) for part in COLOURS[SEEN[int(kind[0])][1]]]
    words = vocabulary().embeddings
    overlap = words @ words.T  # shape and colour count one each
    square = {colour: SEEN.index(("square", colour)) for colour in ("green", "magenta", "cyan")}
    assert overlap[0, 0].item() == pytest.approx(2)
    assert overlap[square["green"], square["magenta"]].abs() < 1e-5  # a shape in opposite colours
    assert overlap[square["green"], square["cyan"]].item() == pytest.approx(1 + 1 / 3)
    maps = truth(batch)
    assert maps[0].labels[3] == GROUND and quality(maps, maps, len(words)).pq == 1.0
    assert torch.equal(scenes(32, 8).x, batch.x[32:40])


def test_the_real_sizes_are_the_papers():
    """28.1 million trainable parameters on Stable Diffusion: four inputs of its decoder and four maps of its auto-encoder."""
    config = PRESETS["paper"]
    with torch.device("meta"):
        backbone = Backbone(
            None, ["a", "b", "c", "d"], (2560, 1920, 960, 640, 512, 512, 512, 512), config,
            captioner=Captioner(torch.zeros(77, 768), 768, time=1280), embed=pooled,
        )  # fmt: skip
        count = sum(p.numel() for p in ODISE(backbone, 768, config).parameters()) / 1e6
    assert count == pytest.approx(28.1, rel=0.2)


def test_a_step_of_training_lowers_the_loss_and_wrong_segments_teach_something_else():
    it = model()
    optimizer = torch.optim.AdamW(it.parameters(), 6e-3)
    task = Segmenting(it, vocabulary(new=False))
    batch = scenes(0, 4)
    losses = []
    for step in range(15):
        optimizer.zero_grad()
        parts = task.loss("odise", batch, Draws(0, 4 * step, 4), NOW)
        sum(parts.values()).backward()
        losses.append(sum(parts.values()).item())
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]
    shuffled = Batch(
        batch.x,
        extra={name: value.roll(1, 0) for name, value in batch.extra.items()},
    )
    assert sum(task.loss("odise", shuffled, Draws(0, 0, 4), NOW).values()).item() > losses[-1] + 0.5
    found = it.eval().segment(batch.x, vocabulary(), stuff=(GROUND,), least=0.0, visible=0.1)
    assert len(found) == 4 and all(m.segments.shape == (16, 16) for m in found)
    with pytest.raises(InputError, match="masks"):
        task.loss("odise", Batch(batch.x), Draws(0, 0, 4), NOW)
