"""Taps: what is read is what passes, what is put there is used, gradients flow, and nothing stays behind."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
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


def assert_clean(net: nn.Module) -> None:
    """No hook, no replaced function, nothing left of a tap."""
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
        assert getattr(module, "hook", None) is None
    assert not taps.active(net)


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
    with taps.record(net, net.sites()) as read:
        assert torch.equal(net(*inputs()), plain)
    assert sorted(read) == sorted(net.sites())
    assert_clean(net)


def test_what_is_read_is_what_passes(net):
    first, second = ("blocks.0", "blocks.1") if "blocks.0" in net.sites() else ("middle.0", "middle.1")
    with taps.record(net, [first, f"{second}.in", second]) as read:
        net(*inputs())
    assert torch.equal(read[first], read[f"{second}.in"]) and apart(read[second], read[first]) > 1e-2
    module = net.get_submodule(second)
    condition = net.conditioning(inputs()[1], inputs()[2], 2)
    assert apart(module(read[first], condition), read[second]) < 1e-5


def test_a_value_put_there_is_used_and_no_other(net):
    plain = net(*inputs())
    for site in net.sites():
        with taps.replace(net, {site: lambda value, at: value}):
            assert torch.equal(net(*inputs()), plain), site
        with taps.replace(net, {site: lambda value, at: other(value)}):
            changed = net(*inputs())
        assert apart(changed, plain) > 1e-2, site
        with taps.record(net, [site]) as read:
            net(*inputs())
        with taps.replace(net, {site: other(read[site])}):
            assert torch.equal(net(*inputs()), changed), site
    assert torch.equal(net(*inputs()), plain)


def test_replacing_a_skip_leaves_the_way_down_alone():
    net = awake(build(CONFIGS["unet"], channels=1, size=8, classes=3))
    with taps.record(net, ["middle.1", "up.0.0.in"]) as before:
        net(*inputs())
    with taps.replace(net, {"skip.3": lambda v, at: v * 0}), taps.record(net, ["middle.1", "up.0.0.in"]) as after:
        net(*inputs())
    assert torch.equal(before["middle.1"], after["middle.1"])
    assert not after["up.0.0.in"][:, -16:].any() and before["up.0.0.in"][:, -16:].any()


def test_gradients_pass_through_reading_and_replacing(net):
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, time, cond = inputs()
    x.requires_grad_()
    with taps.record(net, [site]) as read:
        net(x, time, cond)
    (gradient,) = torch.autograd.grad(read[site].square().sum(), x)
    assert gradient.abs().max() > 0
    value = read[site].detach().requires_grad_()
    with taps.replace(net, {site: value}):
        (gradient,) = torch.autograd.grad(net(x, time, cond).square().sum(), value)
    assert gradient.abs().max() > 0
    h = 1e-2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
    sides = []
    for v in (value + h, value - h):
        with taps.replace(net, {site: v}):
            sides.append(net(x, time, cond).square().sum())
    assert torch.allclose((gradient * h).sum(), (sides[0] - sides[1]) / 2, rtol=2e-2, atol=1e-4)


def test_stopping_leaves_after_the_last_site(net):
    early, late = ("blocks.0", "blocks.2") if "blocks.0" in net.sites() else ("down.0.0", "up.0.1")
    reached = []
    hook = net.get_submodule(late).register_forward_hook(lambda *_: reached.append(1))
    full = _recorded(net, [early])
    reached.clear()
    with taps.record(net, [early], stop=True) as read:
        assert net(*inputs()) is None
        assert net(*inputs()) is None  # and again: every call stops anew
    assert not reached and torch.equal(read[early], full[early])
    with taps.record(net, [early, late], stop=True) as read:
        net(*inputs())
    assert reached and set(read) == {early, late}
    hook.remove()
    assert net(*inputs()) is not None
    assert_clean(net)


def _recorded(net, sites):
    with taps.record(net, sites) as read:
        net(*inputs())
    return read


def test_a_denoiser_is_read_in_one_call(net):
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, t, cond = inputs()
    read = taps.read(denoise, [site], x, 0.4, cond)
    assert torch.equal(read[site], _recorded(net, [site])[site])
    with taps.record(denoise, [site], stop=True):
        assert denoise(x, 0.4, cond).x0.isnan().all()  # never a number that looks like an estimate
    guided = guide.cfg(denoise, 3.0)
    both = taps.read(guided, [site], x, 0.4, cond)[site]
    assert len(both) == 4 and apart(both[2:], read[site]) < 1e-5
    assert t is not None and not denoise(x, 0.4, cond).x0.isnan().any()


def test_branches_are_named(net):
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    guided = guide.cfg(denoise, 3.0)
    site = "blocks.1" if "blocks.1" in net.sites() else "middle.0"
    x, _, cond = inputs()
    seen = []

    def note(value, at):
        seen.append((at.site, at.branches, len(value)))
        return value

    with taps.replace(denoise, {site: note}):
        denoise(x, 0.4, cond)
        guided(x, 0.4, cond)
        guided.branches(x, 0.4, {"source": cond, "edit": cond.index([1, 0])})
        denoise.branches(x, 0.4, {"alone": None})
    assert seen == [
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
    with taps.replace(guided, {"up.1.1": copy}):
        assert apart(guided(x, 0.4, cond).x0, plain) < 1e-5
    assert apart(guided(x, 0.4, cond).x0, plain) > 1e-2


def test_attention_can_be_replaced(net):
    plain = net(*inputs())
    site = next(site for site in net.sites() if site.endswith("attention"))
    seen = []

    def by_hand(q, k, v, at):
        p = at.probabilities(q, k)
        seen.append((q.shape, at.cross, at.streams, p.detach().sum(-1).sub(1).abs().max()))
        return p @ v

    with taps.attention(net, {site: by_hand}):
        assert apart(net(*inputs()), plain) < 1e-5
    assert len(seen) == 1 and seen[0][0][:2] == (2, 2) and seen[0][1:3] == (False, ()) and seen[0][3] < 1e-5
    with taps.attention(net, {site: lambda q, k, v, at: at.attend(q, k, v)}):
        assert apart(net(*inputs()), plain) < 1e-5
    with taps.attention(net, {site: lambda q, k, v, at: at.attend(q, k, 2 * v)}):
        doubled = net(*inputs())
        with taps.attention(net, {site: lambda q, k, v, at: at.attend(q, k, v / 2)}):
            assert apart(net(*inputs()), plain) < 1e-5  # nested: inner calls outer
    assert apart(doubled, plain) > 1e-2
    assert_clean(net)


def test_a_replaced_attention_is_told_the_branches(net):
    """The edit may look with the source's queries: then only its values differ."""
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    site = next(site for site in net.sites() if site.endswith("attention"))
    x, _, cond = inputs()
    seen = []

    def layout_of_the_null(q, k, v, at):
        seen.append((at.site, at.branches))
        parts = {name: at.split(value)["null"] for name, value in (("q", q), ("k", k))}
        same = {name: at.join(dict.fromkeys(at.branches, part)) for name, part in parts.items()}
        assert torch.equal(at.join(at.split(v)), v)
        return at.attend(same["q"], same["k"], v)

    guided = guide.cfg(denoise, 3.0)
    plain = guided(x, 0.4, cond).x0
    with taps.attention(denoise, {site: layout_of_the_null}):
        changed = guided(x, 0.4, cond).x0
    assert seen == [(site, ("null", "cond"))]
    assert apart(changed, plain) > 1e-2


def test_wrong_sites_are_refused_before_anything_runs(net):
    wrong = "blocks.9" if "blocks.0" in net.sites() else "up.99"
    for tap in (
        taps.record(net, [wrong]),
        taps.replace(net, {wrong: lambda v, at: v}),
        taps.attention(net, {wrong: None}),
    ):
        with pytest.raises(InputError, match="Did you mean"), tap:
            pass
    tap = taps.attention(net, {net.sites()[0]: lambda q, k, v, at: q})
    with pytest.raises(InputError, match=r"is no attention; the network's are: .*attention"), tap:
        pass
    assert_clean(net)


def test_errors_leave_nothing_behind(net):
    site = net.sites()[0]
    plain = net(*inputs())
    with pytest.raises(InputError, match=r"cannot be replaced by \(1,\)"), taps.replace(net, {site: torch.zeros(1)}):
        net(*inputs())
    with pytest.raises(ZeroDivisionError), taps.record(net, net.sites(), stop=True):
        raise ZeroDivisionError
    with pytest.raises(RunError, match="nothing was read"), taps.record(net, [site]) as read:
        read[site]
    assert_clean(net)
    assert torch.equal(net(*inputs()), plain)


def test_two_readers_of_which_the_first_to_stop_ends_the_call(net):
    sites = net.sites()
    early, late = ("blocks.0", "blocks.2") if "blocks.0" in sites else ("down.0.0", "up.0.1")
    for outer, inner in ((early, late), (late, early)):
        with taps.record(net, [outer], stop=True) as a, taps.record(net, [inner], stop=True) as b:
            assert net(*inputs()) is None
        assert (set(a) | set(b)) == {early}  # whoever is first ends the call
    with taps.record(net, [late]) as a, taps.record(net, [early]) as b:
        assert net(*inputs()) is not None
    assert set(a) == {late} and set(b) == {early}
    assert_clean(net)


def test_a_checkpointed_block_is_read_once():
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    block = net.blocks[1]
    forward = block.forward
    block.forward = lambda x, c: checkpoint(forward, x, c, use_reentrant=False)
    x, time, cond = inputs()
    with taps.record(net, ["blocks.1.attention", "blocks.2"], stop=True) as read:
        net(x, time, cond)
        first = read["blocks.1.attention"]
        read["blocks.2"].sum().backward()
        assert read["blocks.1.attention"] is first
    assert block.attention.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("how", ["module", "in place", "function"])
def test_a_tap_fires_after_a_compiled_call(how):
    torch._dynamo.reset()
    net = awake(build(CONFIGS["dit"], channels=1, size=8, classes=3))
    called = net
    if how == "module":
        called = torch.compile(net, backend="eager")
    elif how == "in place":
        net.compile(backend="eager")
    else:
        called = torch.compile(lambda *args: net(*args), backend="eager")
    x, time, cond = inputs()
    with torch.no_grad():
        plain = called(x, time, cond)
        for owner in (net, called) if how == "module" else (net,):
            with taps.record(owner, ["blocks.1"]) as read, taps.replace(owner, {"blocks.0": lambda v, at: other(v)}):
                changed = called(x, time, cond)
            assert "blocks.1" in read and apart(changed, plain) > 1e-2
            with taps.attention(owner, {"blocks.1.attention": lambda q, k, v, at: v * 0}):
                assert apart(called(x, time, cond), plain) > 1e-2
            assert torch.equal(called(x, time, cond), plain)
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
        with taps.record(compiled, ["blocks.1"]) as read, taps.replace(compiled, {"blocks.0": lambda v, at: other(v)}):
            changed = compiled(x, time, cond)
        assert "blocks.1" in read and apart(changed, plain) > 1e-2
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
        with taps.record(net, names) as read:
            assert torch.equal(net(*foreign_inputs()).sample, plain)
        assert sorted(read) == sorted(names)
        assert torch.equal(read["skip.0"], read["down_blocks.0.in"])
        assert torch.equal(read["skip.1"], read["down_blocks.0.attentions.0"])
        assert torch.equal(read["up_blocks.0"], read["up_blocks.1.in"])
        for site in names:
            with taps.replace(net, {site: lambda value, at: other(value)}):
                assert apart(net(*foreign_inputs()).sample, plain) > 1e-2, site
        with taps.record(net, ["mid_block"], stop=True):
            assert net(*foreign_inputs()) is None
    assert_clean(net)


def test_attention_of_a_diffusers_unet():
    net = foreign()
    site = "down_blocks.0.attentions.0.transformer_blocks.0"
    seen = {}

    def by_hand(q, k, v, at):
        seen[at.site] = (at.cross, at.streams, at.probabilities(q, k).shape)
        return at.probabilities(q, k) @ v

    with torch.no_grad():
        plain = net(*foreign_inputs()).sample
        with taps.attention(net, {f"{site}.attn1": by_hand, f"{site}.attn2": by_hand}):
            assert apart(net(*foreign_inputs()).sample, plain) < 1e-5
        assert seen == {f"{site}.attn1": (False, (), (2, 4, 64, 64)), f"{site}.attn2": (True, (), (2, 4, 64, 5))}
        with taps.attention(net, {f"{site}.attn2": lambda q, k, v, at: at.attend(q, k, -v)}):
            assert apart(net(*foreign_inputs()).sample, plain) > 1e-2
    assert_clean(net)


def test_joint_attention_of_a_diffusers_transformer():
    net = foreign_transformer()
    generator = torch.Generator().manual_seed(4)
    given = {
        "hidden_states": torch.randn(2, 2, 8, 8, generator=generator),
        "timestep": torch.tensor([5.0, 5.0]),
        "encoder_hidden_states": torch.randn(2, 3, 6, generator=generator),
        "pooled_projections": torch.randn(2, 5, generator=generator),
    }
    seen = []

    def by_hand(q, k, v, at):
        seen.append((at.cross, at.streams, q.shape[2]))
        return at.probabilities(q, k) @ v

    with torch.no_grad():
        plain = net(**given).sample
        names = taps.sites(net)
        with taps.attention(net, {"transformer_blocks.0.attn": by_hand}), taps.record(net, names) as read:
            assert apart(net(**given).sample, plain) < 1e-5
        assert seen == [(False, (16, 3), 19)] and read["transformer_blocks.0"].shape == (2, 16, 16)
        assert torch.equal(read["transformer_blocks.0"], read["transformer_blocks.1.in"])
        for site in ("transformer_blocks.0", "transformer_blocks.0.in", "transformer_blocks.1"):
            with taps.replace(net, {site: lambda value, at: value + torch.randn_like(value)}):
                assert apart(net(**given).sample, plain) > 1e-2, site
    assert_clean(net)


def test_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "networks" / "taps.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "taps.attention" in code
    exec(compile(code, "taps.md", "exec"), {})
