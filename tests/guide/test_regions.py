"""Texts told in regions: what a place attends to, exactly, and that discs appear where their word is told."""

import pytest
import torch
from torch import nn

from reverie import guide, nets
from reverie.core.condition import Cond, Entry
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.nets import DiTConfig, MMDiTConfig, UNetConfig
from reverie.solve import sample

from ..margin import apart
from . import discs

NETS = {
    "unet": UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, groups=4, context=8, length=9),
    "dit": DiTConfig(patch=2, width=16, depth=2, heads=2, context=8, length=9),
    "vector": DiTConfig(patch=2, width=16, depth=2, heads=2, context=8, length=9, vector=5),
}
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1
NONE, ALL = torch.zeros(8, 8), torch.ones(8, 8)


def painter(name: str) -> NetDenoiser:
    """A network with random weights that reads texts."""
    torch.manual_seed(0)
    net = nets.build(NETS[name], channels=1, size=8)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(1, 8, 8))


def text(seed: int, length: int, name: str = "unet") -> Cond:
    """Some text, its last token padding."""
    generator = torch.Generator().manual_seed(seed)
    value, mask = torch.randn(1, length, 8, generator=generator), torch.ones(1, length, dtype=torch.bool)
    mask[:, -1] = False
    vector = {"vector": torch.randn(1, 5, generator=generator)} if name == "vector" else {}
    return Cond(text=Entry.of(value, mask), **vector)


def out(denoise, cond: Cond | None) -> torch.Tensor:
    return denoise(X, 0.6, None if cond is None else cond.expand(3)).out


@pytest.mark.parametrize("name", NETS)
def test_the_whole_picture_is_the_plain_text_and_an_empty_region_is_not_heard(name: str):
    base, a, b, c = painter(name), text(1, 3, name), text(2, 5, name), text(3, 4, name)
    assert torch.equal(out(guide.regional(base, [(ALL, a)]), b), out(base, a))
    assert torch.equal(out(guide.regional(base, [(ALL, a)]), None), out(base, a))
    assert torch.equal(out(guide.regional(base, [(NONE, a)]), b), out(base, b))
    halves = out(guide.regional(base, [(LEFT, a), (1 - LEFT, b)]), c)
    assert torch.equal(out(guide.regional(base, [(LEFT, a), (NONE, c), (1 - LEFT, b)]), c), halves)
    for other in (a, b, c):
        assert apart(halves, out(base, other)) > 1e-3  # the control: a half is not the whole


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_what_no_place_hears_changes_nothing_and_the_rest_does(name: str):
    base, a, b = painter(name), text(1, 3), text(2, 5)
    halves = [(LEFT, a), (1 - LEFT, b)]
    first, second = (out(guide.regional(base, halves), text(seed, 4)) for seed in (3, 4))
    assert torch.equal(first, second)  # regions cover all: of what is told around them nothing is heard
    gap = [(LEFT, a)]
    first, second = (out(guide.regional(base, gap), text(seed, 4)) for seed in (3, 4))
    assert apart(first, second) > 1e-3


def test_one_attention_gives_each_place_what_its_own_text_gives():
    """A block of cross-attention alone: left of the middle that of one text, right of it that of the other, each from a run of its own."""
    base, a, b, c = painter("dit"), text(1, 3), text(2, 5), text(3, 4)
    base.net.blocks = base.net.blocks[:1]
    block = base.net.blocks[0]
    for module in (block.attention.out, block.mlp):
        for parameter in module.parameters():
            nn.init.zeros_(parameter)  # places know of each other by self-attention alone
    found = out(guide.regional(base, [(LEFT, a), (1 - LEFT, b)]), c)
    ours, theirs = out(base, a), out(base, b)
    torch.testing.assert_close(found[..., :4], ours[..., :4], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[..., 4:], theirs[..., 4:], atol=1e-5, rtol=0)
    assert apart(ours, theirs) > 1e-3
    overlapping = out(guide.regional(base, [(ALL, a), (LEFT, b)]), c)
    torch.testing.assert_close(overlapping[..., 4:], ours[..., 4:], atol=1e-5, rtol=0)
    assert apart(overlapping[..., :4], ours[..., :4]) > 1e-3


def test_guided_the_null_branch_hears_nothing_of_regions():
    base, a, b, c = painter("unet"), text(1, 3), text(2, 5), text(3, 4)
    told = guide.regional(base, [(LEFT, a), (1 - LEFT, b)])
    guided, null = out(guide.cfg(told, 3.0), c), out(base, None)
    torch.testing.assert_close(guided, null + 3.0 * (out(told, c) - null), atol=1e-4, rtol=1e-4)
    away = text(5, 6)
    negative = Cond(text=c["text"]._replace(null=away["text"].value, null_mask=away["text"].mask))
    guided, null = out(guide.cfg(told, 3.0), negative), out(base, away)
    torch.testing.assert_close(guided, null + 3.0 * (out(told, c) - null), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"cfg\(regional\(denoise"):
        out(guide.regional(guide.cfg(base, 3.0), [(LEFT, a)]), c)


def test_one_vector_is_the_mean_over_the_picture():
    base = painter("vector")
    a, b, c = (text(seed, 3, "vector") for seed in (1, 2, 3))
    quarter = LEFT * LEFT.T
    told = guide.regional(base, [(LEFT, a), (quarter, b)])
    assert told.shares.tolist() == [0.5, 0.375, 0.125]
    seen = []
    plain = base.net.conditioning.forward
    base.net.conditioning.forward = lambda time, cond, n: seen.append(cond["vector"].value) or plain(time, cond, n)
    out(told, c)
    mean = 0.5 * c["vector"].value + 0.375 * a["vector"].value + 0.125 * b["vector"].value
    torch.testing.assert_close(seen[0], mean.expand(3, -1))


def test_discs_are_drawn_where_their_word_is_told():
    """On the trained painter of discs: red left and blue right, then the other way round; told of both everywhere neither has a side."""
    base = discs.load()
    left = torch.zeros(discs.SIZE, discs.SIZE)
    left[:, : discs.SIZE // 2] = 1
    red, blue = (Cond(text=discs.WORDS[[colour, 3]][None]) for colour in (0, 2))
    both = discs.text(torch.tensor([0]), torch.tensor([2]))

    def across(denoise) -> torch.Tensor:
        """How far right red and blue are on the average of pictures that have them, (2,)."""
        pictures = sample(denoise, 16, both, "euler", 12, seed=0)
        found = []
        for colour in (0, 2):
            there = (pictures[:, colour] > 0).sum((1, 2)) > 4
            found.append(discs.centre(pictures[there], torch.full((int(there.sum()),), colour))[:, 1].mean())
        return torch.stack(found)

    one, other = (across(guide.regional(base, [(left, a), (1 - left, b)])) for a, b in ((red, blue), (blue, red)))
    free = across(base)
    assert one[1] - one[0] > 0.2 and other[0] - other[1] > 0.2
    assert abs(free[1] - free[0]) < 0.2  # the control: without regions neither has a side


def test_mistakes_are_named():
    base, a = painter("unet"), text(1, 3)
    with pytest.raises(InputError, match=r"a mask \(8, 8\) of zeros and ones: got \(4, 4\)"):
        guide.regional(base, [(torch.ones(4, 4), a)])
    with pytest.raises(InputError, match="zeros and ones"):
        guide.regional(base, [(0.5 * ALL, a)])
    with pytest.raises(InputError, match="got 3"):
        guide.regional(base, [(LEFT, a.expand(3))])
    small = {"patch": 4, "width": 16, "depth": 1, "heads": 2}
    net = nets.build(DiTConfig(**small), channels=1, size=8, classes=2)
    with pytest.raises(InputError, match="regions are told texts, the model takes: label"):
        guide.regional(NetDenoiser(net, Flow(), shape=(1, 8, 8)), [(ALL, a)])
    net = nets.build(MMDiTConfig(**small, context=8), channels=1, size=8)
    told = guide.regional(NetDenoiser(net, Flow(), shape=(1, 8, 8)), [(LEFT, a)])
    with pytest.raises(InputError, match="cross-attention, which this network has not"):
        out(told, a)
