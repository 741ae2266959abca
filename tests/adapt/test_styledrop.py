"""StyleDrop: the two levels are the formula, and a style is learned from one picture while what is shown stays."""

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.adapt import styledrop
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.config import METHODS
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.families.maskgit import MaskedNet, MaskGIT
from reverie.families.token_config import MaskedSample, MaskGITConfig, VARConfig
from reverie.spaces.vq import VQ

from ..margin import apart
from .small import UNET, images, model, of_tokens, says
from .test_adapters import moved


def of_style(base) -> Adapter:
    return moved(Adapter("lora", fingerprint(base.net), METHODS["lora"]().changes(base.net, 0)))


@pytest.mark.parametrize("kind", ["unet", "maskgit", "var"])
def test_two_levels_by_hand(kind):
    base = {
        "unet": lambda: model(UNET),
        "maskgit": lambda: of_tokens(MaskGITConfig),
        "var": lambda: of_tokens(VARConfig),
    }[kind]()
    adapter, c = of_style(base), Cond(label=1)
    a, b, nothing = says(rv.adapt.apply(base, adapter), c), says(base, c), says(base)
    for style, content in ((2.0, 5.0), (0.5, 0.0), (1.0, 1.0)):
        found = says(rv.adapt.styled(base, adapter, style, content), c)
        assert apart(found, a + style * (a - b) + content * (b - nothing)) < 1e-4
        if style != content:
            assert apart(found, a + content * (a - b) + style * (b - nothing)) > 1e-3  # control: the levels exchanged
    untrained = Adapter("lora", adapter.base, METHODS["lora"]().changes(base.net, 0))
    assert apart(says(rv.adapt.styled(base, untrained, 2.0, 3.0), c), b + 3.0 * (b - nothing)) < 1e-4
    with pytest.raises(InputError, match="above 0"):
        rv.adapt.styled(base, adapter, 0.0)


SHAPES = torch.stack([torch.eye(4), torch.eye(4).flip(1), (torch.arange(16).reshape(4, 4) % 2).float()]).bool()
GREYS = torch.tensor([[-1.0], [-1 / 3], [1 / 3], [1.0]])
"""Of the paper and the ink of the first style, and of the second."""


def pictures(label: Tensor, second: Tensor) -> Tensor:
    """Shapes (B, 1, 4, 4) in one of two styles."""
    return GREYS[SHAPES[label].long() + 2 * second.long()[:, None, None], 0][:, None]


def world() -> MaskGIT:
    """A model of tokens that are pixels, which has seen each shape in both styles."""
    torch.manual_seed(0)
    space = VQ(1, 1, 1, codes=4, width=4).eval().requires_grad_(False)
    space.encoder, space.decoder = nn.Identity(), nn.Identity()
    space.codebook.codes.copy_(GREYS)
    spec, how = DataSpec((1, 4, 4), {"label": Label(3)}), MaskedSample(steps=8, scale=1.0, temperature=1.0)
    base = MaskGIT(MaskedNet(4, 16, 3, 32, 2, 2), space, spec, how)
    task, adam = base.learning(), torch.optim.Adam(base.net.parameters(), 3e-3)
    label, second = torch.arange(96) % 3, torch.arange(96) // 3 % 2 == 1
    for step in range(300):
        adam.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        rng = Draws(0, 96 * step, 96)
        told = Cond(label=label).drop(rng.uniform("drop") >= 0.1)
        loss = task.loss("net", Batch(pictures(label, second), told), rng, Moment(0, 0, 1))["surprise"].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    base.net.requires_grad_(False)
    return base


def measured(model_: MaskGIT) -> tuple[float, float]:
    """The share of pixels in the second style, and of pictures that show their shape, of all shapes."""
    label = torch.arange(3).repeat(32)
    tokens = model_.space.tokens(rv.sample(model_, 96, Cond(label=label), seed=0))
    return float((tokens >= 2).double().mean()), float((tokens % 2 == SHAPES[label].flatten(1)).all(1).double().mean())


@pytest.mark.slow
def test_a_style_is_learned_from_one_picture_and_shapes_it_did_not_show_stay():
    base = world()
    plain_style, plain_shape = measured(base)
    assert 0.4 < plain_style < 0.6 and plain_shape > 0.8
    one = pictures(torch.tensor([0]), torch.tensor([True]))
    adapter = rv.adapt.fit(base, one, like="0", steps=100, batch=8, rate=5e-3)
    style, shape = measured(rv.adapt.apply(base, adapter))
    assert style > 0.9 and shape > plain_shape - 0.05, (style, shape)
    untrained = rv.adapt.fit(base, one, like="0", steps=1, batch=1, rate=0.0)
    assert measured(rv.adapt.apply(base, untrained))[0] < 0.7  # control
    style, shape = measured(styledrop.styled(base, adapter, 1.0, 2.0))
    assert style > 0.85 and shape > plain_shape - 0.1, (style, shape)


def test_the_second_round_learns_what_a_score_chose_each_under_its_class(monkeypatch):
    base, one, seen = of_tokens(MaskGITConfig), images(1), {}
    base.space.codebook.codes.normal_()  # fresh ones are all the same
    adapter = of_style(base)

    def fit(model_, images_, method, *, cond, **how):
        seen.update(images=images_, label=cond["label"].value, **how)
        return adapter

    def score(drawn: Tensor, label: Tensor) -> Tensor:
        seen["scored"], seen["asked"] = drawn, label
        return drawn.mean((1, 2, 3))

    monkeypatch.setattr(styledrop, "fit", fit)
    rv.adapt.again(base, adapter, one, (1, 2), score, like=0, each=5, keep=2, steps=7)
    assert (
        seen["asked"].tolist() == [1] * 5 + [2] * 5 and seen["label"].tolist() == [0, 1, 1, 2, 2] and seen["steps"] == 7
    )
    bright = seen["scored"].mean((1, 2, 3)).reshape(2, 5)
    chosen = seen["images"][1:].mean((1, 2, 3)).reshape(2, 2)
    assert torch.equal(chosen, bright.topk(2, 1).values) and not torch.equal(chosen, bright[:, :2])
    assert torch.equal(seen["images"][:1], one)
