"""Taps: what is read is what passes, what is put there is used, gradients flow, and the network is never touched."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from reverie import guide
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser, Wrapper
from reverie.core.errors import InputError, RunError
from reverie.core.exact import Gaussian
from reverie.core.schedules import Flow
from reverie.nets import DiTConfig, UNetConfig, build, taps

from ..margin import apart

CONFIGS = {
    "dit": DiTConfig(patch=4, width=16, depth=3, heads=2),
    "unet": UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2),
}


def awake(net: nn.Module) -> nn.Module:
    """The network with every parameter moved off zero, as after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.fixture(params=CONFIGS)
def net(request):
    torch.manual_seed(0)
    return awake(build(CONFIGS[request.param], channels=1, size=8, classes=3))


def inputs(batch=2):
    return (
        torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
        torch.tensor(0.4),
        Cond(label=[0, 2]),
    )


def foreign():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6, attention_head_dim=4,
    )  # fmt: skip


def foreign_inputs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 2, 8, 8, generator=generator), torch.tensor(7), torch.randn(2, 5, 6, generator=generator)


def foreign_transformer():
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=2, out_channels=2, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=6, caption_projection_dim=16, pooled_projection_dim=5, pos_embed_max_size=8,
    )  # fmt: skip


def other(value: torch.Tensor) -> torch.Tensor:
    """A value that no normalisation turns back into ``value``."""
    return value + 0.5 * value.flip(-1).cos()


def seen(net, sites, *args, **kwargs):
    """What a network gives, and what passes at sites on the way."""
    read = {}

    def take(value, at):
        read[at.site] = value
        return value

    return taps.replace(net, dict.fromkeys(sites, take))(*args, **kwargs), read


def attributes(net: nn.Module) -> list[tuple[object, ...]]:
    """Everything that hangs on the modules of a network: objects by identity, their hooks by number."""
    return [
        (module, *((name, id(v), len(v) if isinstance(v, dict) else 0) for name, v in sorted(vars(module).items())))
        for module in net.modules()
    ]


@pytest.fixture(autouse=True)
def nothing_is_ever_set_on_a_network(request):
    """Before and after each test that has a network, it is the same objects with the same attributes."""
    if "net" not in request.fixturenames:
        yield
        return
    net = request.getfixturevalue("net")
    before = attributes(net)
    yield
    assert attributes(net) == before


def test_names_of_our_sites():
    dit, unet = (build(config, channels=1, size=8) for config in CONFIGS.values())
    assert dit.sites()[:3] == ["blocks.0.in", "blocks.0", "blocks.0.attention"] and dit.sites() == taps.sites(dit)
    names = unet.sites()
    assert {"down.0.0", "down.1.0.in", "middle.0", "middle.0.attention", "up.1.0", "skip.0", "skip.3"} <= set(names)
    assert "skip.0.in" not in names and "skip.4" not in names and len(names) == len(set(names))
    assert taps.sites(NetDenoiser(dit, Flow(), shape=(1, 8, 8))) == dit.sites()
    with pytest.raises(InputError, match="a network or a denoiser"):
        taps.sites(3)


def test_every_site_is_reached_and_reading_changes_nothing(net):
    plain = net(*inputs())
    out, read = seen(net, net.sites(), *inputs())
    assert torch.equal(out, plain) and sorted(read) == sorted(net.sites())


def test_what_is_read_is_what_passes(net):
    first, second = ("blocks.0", "blocks.1") if "blocks.0" in net.sites() else ("middle.0", "middle.1")
    _, read = seen(net, [first, f"{second}.in", second], *inputs())
    assert torch.equal(read[first], read[f"{second}.in"]) and apart(read[second], read[first]) > 1e-2
    module = net.get_submodule(second)
    condition = net.conditioning(inputs()[1], inputs()[2], 2)
    assert apart(module(read[first], condition), read[second]) < 1e-5


def test_a_value_put_there_is_used_and_no_other(net):
    plain = net(*inputs())
    for site in net.sites():
        assert torch.equal(taps.replace(net, {site: lambda value, at: value})(*inputs()), plain), site
        changed = taps.replace(net, {site: lambda value, at: other(value)})(*inputs())
        assert apart(changed, plain) > 1e-2, site
        there = taps.features(net, [site], *inputs())[site]
        assert torch.equal(taps.replace(net, {site: other(there)})(*inputs()), changed), site
    assert torch.equal(net(*inputs()), plain)


def test_a_residual_is_added_where_it_says(net):
    """As a hand-made sum: what follows sees value + residual. It is one a sample whatever branches a guide makes of them."""
    site = "blocks.1" if "blocks.1" in net.sites() else "skip.1"
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    value = taps.features(denoise, [site], x, 0.4, cond)[site]
    residual = torch.randn(value.shape, generator=torch.Generator().manual_seed(7))
    by_hand = taps.replace(denoise, {site: value + residual})(x, 0.4, cond).out
    assert apart(by_hand, denoise(x, 0.4, cond).out) > 1e-2
    torch.testing.assert_close(taps.add(denoise, {site: residual})(x, 0.4, cond).out, by_hand)
    torch.testing.assert_close(
        taps.add(denoise, {site: residual[:1]})(x, 0.4, cond).out,
        taps.replace(denoise, {site: value + residual[:1]})(x, 0.4, cond).out,
    )
    for order in (
        taps.add(guide.cfg(denoise, 3.0), {site: residual}),
        guide.cfg(taps.add(denoise, {site: residual}), 3.0),
    ):
        null = taps.add(denoise, {site: residual})(x, 0.4, cond.null()).out
        torch.testing.assert_close(order(x, 0.4, cond).out, null + 3.0 * (by_hand - null), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=rf"{site} holds .*: a residual of \(1, 2\)"):
        taps.add(denoise, {site: residual.new_zeros(1, 2)})(x, 0.4, cond)


def test_replacing_a_skip_leaves_the_way_down_alone():
    net = awake(build(CONFIGS["unet"], channels=1, size=8, classes=3))
    _, before = seen(net, ["middle.1", "up.0.0.in"], *inputs())
    denoise = taps.replace(NetDenoiser(net, Flow(), shape=(1, 8, 8)), {"skip.3": lambda v, at: v * 0})
    x, _, cond = inputs()
    after = taps.features(denoise, ["middle.1", "up.0.0.in"], x, 0.4, cond)
    assert torch.equal(before["middle.1"], after["middle.1"])
    assert not after["up.0.0.in"][:, -16:].any() and before["up.0.0.in"][:, -16:].any()


def test_gradients_pass_through_reading_and_replacing(net):
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, time, cond = inputs()
    x.requires_grad_()
    read = taps.features(net, [site], x, time, cond)
    (gradient,) = torch.autograd.grad(read[site].square().sum(), x)
    assert gradient.abs().max() > 0
    value = read[site].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(taps.replace(net, {site: value})(x, time, cond).square().sum(), value)
    assert gradient.abs().max() > 0
    h = 1e-2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
    sides = [taps.replace(net, {site: v})(x, time, cond).square().sum() for v in (value + h, value - h)]
    assert torch.allclose((gradient * h).sum(), (sides[0] - sides[1]) / 2, rtol=2e-2, atol=1e-4)


def test_a_tapped_network_trains_the_network(net):
    """The copy that a tapped call runs shares the weights: their gradients are the ones of the plain call."""
    site = net.sites()[1]
    plain = torch.autograd.grad(net(*inputs()).square().sum(), list(net.parameters()))
    tapped = taps.replace(net, {site: lambda value, at: value})(*inputs())
    for a, b in zip(plain, torch.autograd.grad(tapped.square().sum(), list(net.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_stopping_leaves_after_the_last_site(net):
    early, late = ("blocks.0", "blocks.2") if "blocks.0" in net.sites() else ("down.0.0", "up.0.1")
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    reached = []
    watched = taps.replace(denoise, {late: lambda value, at: reached.append(1) or value})
    full = taps.record(denoise, [early])(x, 0.4, cond)
    assert torch.equal(full.out, denoise(x, 0.4, cond).out)
    short = taps.record(watched, [early], stop=True)
    for _ in range(2):  # and again: every call stops anew
        estimate = short(x, 0.4, cond)
        assert estimate.x0.isnan().all() and not reached  # never a number that looks like an estimate
        assert torch.equal(estimate.features[early], full.features[early])
    assert set(taps.record(watched, [early, late], stop=True)(x, 0.4, cond).features) == {early, late}
    assert reached
    assert not watched(x, 0.4, cond).x0.isnan().any()


def test_a_denoiser_is_read_in_one_call(net):
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, time, cond = inputs()
    read = taps.features(denoise, [site], x, 0.4, cond)
    assert torch.equal(read[site], taps.features(net, [site], x, time, cond)[site])
    guided = guide.cfg(denoise, 3.0)
    both = taps.features(guided, [site], x, 0.4, cond)[site]
    assert len(both) == 4
    torch.testing.assert_close(both[2:], read[site])
    inside = guide.cfg(taps.record(denoise, [site]), 3.0)(x, 0.4, cond)
    torch.testing.assert_close(inside.out, guided(x, 0.4, cond).out)
    torch.testing.assert_close(inside.features[site], read[site])  # the rows of the conditional branch


def test_features_come_apart_with_the_branches(net):
    """Whatever a guide inside has made of them: its axis leads, so that a branch's rows do not lie together."""
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, _, cond = inputs()
    other = cond.index([1, 0])
    recorded = taps.record(guide.cfg(denoise, 3.0), [site])
    found = recorded.branches({"a": x, "b": -x}, 0.4, {"a": cond, "b": other})
    for estimate, state, each in ((found["a"], x, cond), (found["b"], -x, other)):
        alone = recorded(state, 0.4, each)
        torch.testing.assert_close(estimate.features[site], alone.features[site])
        torch.testing.assert_close(estimate.out, alone.out, rtol=1e-4, atol=1e-4)


def test_branches_are_named(net):
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, _, cond = inputs()
    noticed = []

    def note(value, at):
        noticed.append((at.site, at.branches, len(value)))
        assert at.point.t == 0.4
        return value

    noted = taps.replace(denoise, {site: note})
    guided = guide.cfg(noted, 3.0)
    noted(x, 0.4, cond)
    guided(x, 0.4, cond)
    guided.branches(x, 0.4, {"source": cond, "edit": cond.index([1, 0])})
    noted.branches(x, 0.4, {"alone": None})
    assert noticed == [
        (site, (), 2),
        (site, ("null", "cond"), 4),
        (site, ("source/null", "edit/null", "source/cond", "edit/cond"), 8),
        (site, ("alone",), 2),
    ]


def test_one_branch_can_be_copied_into_another():
    """With the last features of the conditional branch in both, guidance does nothing."""
    net = awake(build(CONFIGS["unet"], channels=1, size=8, classes=3))
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    x, _, cond = inputs()

    def copy(value, at):
        return at.join({name: at.split(value)["cond"] for name in at.branches})

    plain = denoise(x, 0.4, cond).x0
    guided = guide.cfg(denoise, 50.0)
    assert apart(taps.replace(guided, {"up.1.1": copy})(x, 0.4, cond).x0, plain) < 1e-5
    assert apart(guided(x, 0.4, cond).x0, plain) > 1e-2


def test_attention_can_be_replaced(net):
    plain = net(*inputs())
    site = next(site for site in net.sites() if site.endswith("attention"))
    noticed = []

    def by_hand(q, k, v, at):
        p = at.probabilities(q, k)
        noticed.append((q.shape, at.cross, at.streams, p.detach().sum(-1).sub(1).abs().max()))
        return p @ v

    assert apart(taps.attention(net, {site: by_hand})(*inputs()), plain) < 1e-5
    (what,) = noticed
    assert what[0][:2] == (2, 2) and what[1:3] == (False, ()) and what[3] < 1e-5
    same = taps.attention(net, {site: lambda q, k, v, at: at.attend(q, k, v)})
    assert apart(same(*inputs()), plain) < 1e-5
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    doubled = taps.attention(denoise, {site: lambda q, k, v, at: at.attend(q, k, 2 * v)})
    halved = taps.attention(doubled, {site: lambda q, k, v, at: at.attend(q, k, v / 2)})  # the outer calls the inner
    assert apart(doubled(x, 0.4, cond).out, plain) > 1e-2
    assert apart(halved(x, 0.4, cond).out, plain) < 1e-5


@pytest.mark.parametrize("foreigner", [False, True])
def test_of_several_taps_the_inner_acts_first(net, foreigner):
    if foreigner:
        from reverie.bridge.foreign import Foreign

        denoise = NetDenoiser(Foreign("UNet2DConditionModel", foreign()), Flow(), shape=(2, 8, 8))
        x, _, text = foreign_inputs()
        cond, site = Cond(text=text), "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    else:
        denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
        site = next(site for site in net.sites() if site.endswith("attention"))
    order = []

    def note(name):
        return lambda value, at: order.append(name) or value

    def around(name):
        return lambda q, k, v, at: order.append(name) or at.attend(q, k, v)

    twice = taps.replace(taps.replace(denoise, {site: note("inner")}), {site: note("outer")})
    twice = taps.attention(taps.attention(twice, {site: around("inner product")}), {site: around("outer product")})
    plain = denoise(x, 0.4, cond).out
    torch.testing.assert_close(twice(x, 0.4, cond).out, plain, rtol=1e-4, atol=1e-5)
    assert order == ["outer product", "inner product", "inner", "outer"]


def test_a_replaced_attention_is_told_the_branches(net):
    """The edit may look with the source's queries: then only its values differ."""
    with torch.no_grad():
        net.conditioning.label.table.weight.mul_(300.0)  # so that the branches look at different places
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = next(site for site in net.sites() if site.endswith("attention"))
    x, _, cond = inputs()
    noticed = []

    def layout_of_the_null(q, k, v, at):
        noticed.append((at.site, at.branches))
        parts = {name: at.split(value)["null"] for name, value in (("q", q), ("k", k))}
        same = {name: at.join(dict.fromkeys(at.branches, part)) for name, part in parts.items()}
        assert torch.equal(at.join(at.split(v)), v)
        return at.attend(same["q"], same["k"], v)

    plain = guide.cfg(denoise, 3.0)(x, 0.4, cond).x0
    changed = guide.cfg(taps.attention(denoise, {site: layout_of_the_null}), 3.0)(x, 0.4, cond).x0
    assert noticed == [(site, ("null", "cond"))]
    assert apart(changed, plain) > 1e-3


def test_wrong_sites_are_refused_before_anything_runs(net):
    wrong = "blocks.9" if "blocks.0" in net.sites() else "up.99"
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    for tap in (
        lambda: taps.record(denoise, [wrong]),
        lambda: taps.replace(net, {wrong: lambda v, at: v}),
        lambda: taps.add(net, {wrong: torch.zeros(1)}),
        lambda: taps.attention(net, {wrong: None}),
    ):
        with pytest.raises(InputError, match="Did you mean"):
            tap()
    with pytest.raises(InputError, match=r"is no attention; the network's are: .*attention"):
        taps.attention(net, {net.sites()[0]: lambda q, k, v, at: q})


def test_errors_in_a_tap_are_told(net):
    site = net.sites()[0]
    with pytest.raises(InputError, match=r"cannot be replaced by \(1,\)"):
        taps.replace(net, {site: torch.zeros(1)})(*inputs())
    with pytest.raises(InputError, match=f"the function for {site} gives the new value, .*: got None"):
        taps.replace(net, {site: lambda value, at: None})(*inputs())
    with pytest.raises(ZeroDivisionError):
        taps.replace(net, {site: lambda value, at: 1 / 0})(*inputs())


class Lazy(nn.Module):
    """A network that leaves its second block out."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x, time, cond=None):
        return self.blocks[0](x)


def test_a_tap_that_never_fires_is_an_error():
    denoise = NetDenoiser(Lazy(), Flow(), shape=(4,))
    for tapped in (
        taps.record(denoise, ["blocks.0", "blocks.1"]),
        taps.record(denoise, ["blocks.0", "blocks.1"], stop=True),
        taps.replace(denoise, {"blocks.0": lambda v, at: v, "blocks.1": lambda v, at: v}),
        taps.add(denoise, {"blocks.0": torch.zeros(1, 4), "blocks.1": torch.zeros(1, 4)}),
    ):
        with pytest.raises(RunError, match=r"did not pass blocks\.1, .*; it passed blocks\.0"):
            tapped(torch.zeros(2, 4), 0.5)


def test_a_denoiser_that_hands_no_call_on_says_so():
    """One of three arguments is a denoiser like any other, but nothing inside of it can be reached."""
    denoise = NetDenoiser(Lazy(), Flow(), shape=(4,))

    class Halved(Wrapper):
        def __call__(self, x, t, cond=None):
            return self.base(x / 2, t, cond)

    x = torch.ones(2, 4)
    assert torch.equal(Halved(denoise)(x, 0.5, None, Call(("a", "b"))).out, denoise(x / 2, 0.5).out)
    with pytest.raises(InputError, match=r"blocks\.0 cannot be reached inside of Halved.*argument call"):
        taps.features(Halved(denoise), ["blocks.0"], x, 0.5)
    assert taps.record(Halved(denoise), [])(x, 0.5).features == {}
    exact = Gaussian(torch.zeros(4), torch.eye(4)).denoiser(Flow())
    with pytest.raises(InputError, match="a network or a denoiser"):
        taps.record(exact, ["blocks.0"])


def test_a_network_that_asks_is_given_the_call():
    class Asking(nn.Module):
        conditions = build(CONFIGS["dit"], channels=1, size=8, classes=3).conditions

        def forward(self, x, time, cond=None, call=None):
            told.append(call)
            return x

    told, (x, _, cond) = [], inputs()
    denoise = NetDenoiser(Asking(), Flow(), shape=(1, 8, 8))
    denoise(x, 0.4, cond)
    guide.cfg(denoise, 3.0)(x, 0.4, cond)
    assert told[0] is None and told[1].branches == ("null", "cond")


def test_two_readers_of_which_the_first_to_stop_ends_the_call(net):
    early, late = ("blocks.0", "blocks.2") if "blocks.0" in net.sites() else ("down.0.0", "up.0.1")
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    for outer, inner in ((early, late), (late, early)):
        twice = taps.record(taps.record(denoise, [inner], stop=inner == early), [outer], stop=outer == early)
        estimate = twice(x, 0.4, cond)
        assert estimate.x0.isnan().all() and early in estimate.features
    estimate = taps.record(taps.record(denoise, [early]), [late])(x, 0.4, cond)
    assert set(estimate.features) == {early, late} and not estimate.x0.isnan().any()


def test_a_checkpointed_block_is_read_once():
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    net.checkpointing = True
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    runs = []
    counted = taps.replace(denoise, {"blocks.1.attention": lambda value, at: runs.append(at.again) or 1.5 * value})
    recorded = taps.record(counted, ["blocks.1.attention", "blocks.2"], stop=True)
    read = recorded(x, 0.4, cond).features
    first = read["blocks.1.attention"]
    (gradient,) = torch.autograd.grad(read["blocks.2"].sum(), net.blocks[1].attention.qkv.weight)
    assert read["blocks.1.attention"] is first and runs == [False, True]  # a replacement acts in both
    net.checkpointing = False
    plain = taps.features(counted, ["blocks.2"], x, 0.4, cond)["blocks.2"]
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.sum(), net.blocks[1].attention.qkv.weight)[0])


def test_taps_compose_with_transforms(net):
    """vmap over states and forward derivatives go through a tapped call as through any other."""
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    x = torch.randn(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(8))
    tapped = taps.add(denoise, {site: torch.ones(1, *taps.features(denoise, [site], x[0], 0.4)[site].shape[1:])})
    out = torch.func.vmap(lambda x: tapped(x, 0.4).out)(x)
    torch.testing.assert_close(out[1], tapped(x[1], 0.4).out, rtol=1e-4, atol=1e-5)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        _, tangent = torch.func.jvp(lambda x: tapped(x, 0.4).out, (x[0],), (x[1],))
    wide = NetDenoiser(copy.deepcopy(net).double(), Flow(), shape=(1, 8, 8))
    wide = taps.add(wide, {site: torch.ones(1, *taps.features(denoise, [site], x[0], 0.4)[site].shape[1:])})
    a, b, h = x[0].double(), x[1].double(), 1e-5
    with torch.no_grad():
        slope = (wide(a + h * b, 0.4).out - wide(a - h * b, 0.4).out) / (2 * h)
    torch.testing.assert_close(tangent, slope.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("how", ["module", "in place"])
def test_a_tap_fires_after_a_compiled_call_and_only_there(how):
    """The tapped call runs uncompiled; the plain ones before and after it stay compiled."""
    torch._dynamo.reset()
    net, counter = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3)), CompileCounter()
    (x, time, cond), change = inputs(), {"blocks.0": lambda v, at: other(v)}
    with torch.no_grad():
        expected = net(x, time, cond), taps.replace(net, change)(x, time, cond)
        assert apart(expected[0], expected[1]) > 1e-2
        inner = torch.compile(net, backend=counter) if how == "module" else net
        if how == "in place":
            net.compile(backend=counter)
        denoise = NetDenoiser(inner, Flow(), shape=(1, 8, 8))
        torch.testing.assert_close(denoise(x, 0.4, cond).out, expected[0])
        assert counter.frame_count == 1
        torch.testing.assert_close(taps.replace(denoise, change)(x, 0.4, cond).out, expected[1])
        around = taps.attention(denoise, {"blocks.1.attention": lambda q, k, v, at: v * 0})
        assert apart(around(x, 0.4, cond).out, expected[0]) > 1e-2
        torch.testing.assert_close(denoise(x, 0.4, cond).out, expected[0])
        assert counter.frame_count == 1 and counter.op_count > 0
    torch._dynamo.reset()


def test_a_tapped_model_may_be_inside_of_what_is_compiled():
    torch._dynamo.reset()
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    denoise, (x, _, cond) = NetDenoiser(net, Flow(), shape=(1, 8, 8)), inputs()
    tapped = taps.replace(denoise, {"blocks.0": lambda v, at: other(v)})
    with torch.no_grad():
        for model in (denoise, tapped, denoise):
            step = torch.compile(lambda x, model=model: model(x, 0.4, cond).out, backend="eager")
            torch.testing.assert_close(step(x), model(x, 0.4, cond).out)
    torch._dynamo.reset()


def test_an_unused_tap_is_no_graph_break():
    torch._dynamo.reset()
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    denoise = guide.cfg(NetDenoiser(net, Flow(), shape=(1, 8, 8)), 3.0)
    x, time, cond = inputs()
    with torch.no_grad():
        point = denoise.schedule.point(time)
        step = torch.compile(lambda x: denoise(x, point, cond).out, backend="eager", fullgraph=True)
        torch.testing.assert_close(step(x), denoise(x, point, cond).out)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("c++") is None, reason="no compiler")
def test_a_tap_fires_after_a_truly_compiled_call():
    torch._dynamo.reset()
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    compiled = torch.compile(net)
    x, time, cond = inputs()
    with torch.no_grad():
        plain = compiled(x, time, cond)
        changed = taps.replace(compiled, {"blocks.0": lambda v, at: other(v)})(x, time, cond)
        assert apart(changed, plain) > 1e-2
        assert "blocks.1" in taps.features(compiled, ["blocks.1"], x, time, cond)
        assert torch.equal(compiled(x, time, cond), plain)
    torch._dynamo.reset()


def test_sites_of_a_diffusers_unet():
    net = foreign()
    names = taps.sites(net)
    expected = {
        "down_blocks.0", "down_blocks.0.resnets.0", "down_blocks.0.attentions.0", "mid_block", "up_blocks.1.resnets.1",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2", "skip.0", "skip.3", "down_blocks.0.downsamplers.0.in",
    }  # fmt: skip
    assert expected <= set(names) and "skip.4" not in names
    with torch.no_grad():
        plain = net(*foreign_inputs()).sample
        out, read = seen(net, names, *foreign_inputs())
        assert torch.equal(out.sample, plain)
        assert sorted(read) == sorted(names)
        assert torch.equal(read["skip.0"], read["down_blocks.0.in"])
        assert torch.equal(read["skip.1"], read["down_blocks.0.attentions.0"])
        assert torch.equal(read["up_blocks.0"], read["up_blocks.1.in"])
        for site in names:
            changed = taps.replace(net, {site: lambda value, at: other(value)})(*foreign_inputs()).sample
            assert apart(changed, plain) > 1e-2, site
        assert set(taps.features(net, ["mid_block"], *foreign_inputs())) == {"mid_block"}
        assert torch.equal(net(*foreign_inputs()).sample, plain)


def test_attention_of_a_diffusers_unet():
    net = foreign()
    site = "down_blocks.0.attentions.0.transformer_blocks.0"
    noticed = {}

    def by_hand(q, k, v, at):
        noticed[at.site] = (at.cross, at.streams, at.probabilities(q, k).shape)
        return at.probabilities(q, k) @ v

    with torch.no_grad():
        plain = net(*foreign_inputs()).sample
        out = taps.attention(net, {f"{site}.attn1": by_hand, f"{site}.attn2": by_hand})(*foreign_inputs()).sample
        assert apart(out, plain) < 1e-5
        assert noticed == {f"{site}.attn1": (False, (), (2, 4, 64, 64)), f"{site}.attn2": (True, (), (2, 4, 64, 5))}
        turned = taps.attention(net, {f"{site}.attn2": lambda q, k, v, at: at.attend(q, k, -v)})
        assert apart(turned(*foreign_inputs()).sample, plain) > 1e-2


def test_joint_attention_of_a_diffusers_transformer():
    net = foreign_transformer()
    generator = torch.Generator().manual_seed(4)
    given = {
        "hidden_states": torch.randn(2, 2, 8, 8, generator=generator),
        "timestep": torch.tensor([5.0, 5.0]),
        "encoder_hidden_states": torch.randn(2, 3, 6, generator=generator),
        "pooled_projections": torch.randn(2, 5, generator=generator),
    }
    noticed = []

    def by_hand(q, k, v, at):
        noticed.append((at.cross, at.streams, q.shape[2]))
        return at.probabilities(q, k) @ v

    with torch.no_grad():
        plain = net(**given).sample
        names = taps.sites(net)
        assert apart(taps.attention(net, {"transformer_blocks.0.attn": by_hand})(**given).sample, plain) < 1e-5
        out, read = seen(net, names, **given)
        assert torch.equal(out.sample, plain)
        assert noticed == [(False, (16, 3), 19)] and read["transformer_blocks.0"].shape == (2, 16, 16)
        assert torch.equal(read["transformer_blocks.0"], read["transformer_blocks.1.in"])
        for site in ("transformer_blocks.0", "transformer_blocks.0.in", "transformer_blocks.1"):
            noised = taps.replace(net, {site: lambda value, at: other(value)})(**given).sample
            assert apart(noised, plain) > 1e-2, site


def test_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "networks" / "taps.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "taps.attention" in code
    exec(compile(code, "taps.md", "exec"), {})
