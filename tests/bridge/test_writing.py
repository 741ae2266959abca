"""What is written back diffusers loads, with equal outputs; adapters fit as peft and diffusers make them fit."""

import re
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie import bridge, nets
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Cosine, Flow
from reverie.nets.prior import Prior


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("which", ["sd", "sdxl", "sd3"])
def test_a_pipeline_comes_back(which, request, tiny, tmp_path):
    import diffusers

    pipeline, folder = request.getfixturevalue(which)
    model = rv.load(folder)
    bridge.write(model, tmp_path / "out")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None, local_files_only=True)
    assert type(again) is type(pipeline)
    again.set_progress_bar_config(disable=True)
    x = noise(2, 4, 8, 8)
    a, b = (p(tiny.texts, latents=x.clone(), num_inference_steps=2, output_type="pt").images for p in (again, pipeline))
    assert torch.equal(a, b)
    rv.load(tmp_path / "out")
    with pytest.raises(InputError, match="exists"):
        bridge.write(model, tmp_path / "out")


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_network_of_ours_becomes_theirs(tiny, tmp_path, labelled, scaled):
    import diffusers

    config = nets.UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, scaled=scaled, groups=8)
    torch.manual_seed(0)
    net = tiny.shaken(nets.build(config, channels=1, size=8, classes=3 if labelled else None))
    denoise = NetDenoiser(net, Flow(), "flow", shape=(1, 8, 8))
    bridge.write(denoise, tmp_path / "out")
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    x = noise(2, 1, 8, 8)
    cond = rv.Cond(label=[2, 0]).drop(torch.tensor([True, False])) if labelled else None
    with torch.no_grad():
        labels = torch.tensor([2, 3]) if labelled else None  # the null is the last class
        assert close(denoise(x, 0.4, cond).out, theirs(x, 400.0, labels).sample)
        again = rv.load(tmp_path / "out")
        assert again.kind.name == "straight" and isinstance(again.schedule, Flow)
        assert close(again(x, 0.4, rv.Cond(label=[2, 3]) if labelled else None).out, denoise(x, 0.4, cond).out)


@pytest.mark.parametrize("variance", [False, True])
def test_a_dit_of_ours_becomes_theirs(tiny, tmp_path, variance):
    import diffusers

    torch.manual_seed(0)
    config = nets.DiTConfig(patch=2, width=16, depth=2, heads=2, endpoint=True, variance=variance)
    net = tiny.shaken(nets.build(config, channels=4, size=8, classes=3))
    denoise = NetDenoiser(net, Flow(), "flow", shape=(4, 8, 8), learned_variance=variance)
    bridge.write(denoise, tmp_path / "out")
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    x, label = noise(2, 4, 8, 8), torch.tensor([2, 0])
    cond = rv.Cond(label=label)
    with torch.no_grad():
        expected = theirs(x, torch.tensor([400.0, 400.0]), label).sample
        assert close(net(x, torch.tensor(0.4), cond), expected)
        assert not close(net(x, torch.tensor(0.5), cond), expected, 1e-2)
        assert close(net(x, torch.tensor(0.4), None), theirs(x, torch.tensor([400.0] * 2), torch.tensor([3, 3])).sample)
        assert close(rv.load(tmp_path / "out").net(x, torch.tensor(0.4), cond), expected)


@pytest.mark.parametrize("norm", [False, True])
def test_an_mmdit_of_ours_becomes_theirs(tiny, tmp_path, norm):
    import diffusers

    torch.manual_seed(0)
    config = nets.MMDiTConfig(patch=2, width=16, depth=2, heads=2, context=6, vector=3, reach=8, norm=norm)
    net = tiny.shaken(nets.build(config, channels=2, size=8))
    bridge.write(NetDenoiser(net, Flow(), "flow", shape=(2, 8, 8)), tmp_path / "out")
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    x, text, vector = noise(2, 2, 8, 8), noise(2, 5, 6), noise(2, 3)
    with torch.no_grad():
        expected = theirs(x, text, vector, torch.tensor([400.0, 400.0])).sample
        cond = rv.Cond(text=text, vector=vector)
        assert close(net(x, torch.tensor(0.4), cond), expected)
        assert not close(net(x, torch.tensor(0.4), rv.Cond(text=text.flip(0), vector=vector)), expected, 1e-2)
        assert close(rv.load(tmp_path / "out").net(x, torch.tensor(0.4), cond), expected)


def test_a_network_that_corrects_a_closed_form_is_refused(tmp_path):
    net = nets.build(nets.UNetConfig(width=8, blocks=1, image=1), channels=1, size=16)
    net.prior = Prior(1, (1, 16, 16), 4)
    with pytest.raises(InputError, match=r"denoising\.prior"):
        bridge.write(NetDenoiser(net, Flow(), shape=(1, 16, 16)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_diffusers_lacks_is_named(tiny, tmp_path):
    unet = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "groups": 8}
    for config, message in [
        (nets.DiTConfig(patch=2, width=16, depth=1, heads=2), "this DiT: endpoint is False, not True"),
        (nets.DiTConfig(patch=2, width=16, depth=1, heads=2, endpoint=True), "this DiT: it has no classes"),
        (nets.MMDiTConfig(patch=2, width=16, depth=1, heads=2), "this MMDiT: it has no vector"),
        (nets.UViTConfig(patch=2, width=16, depth=1, heads=2), "this UViT: U-Nets, DiT and MM-DiT"),
        (nets.UNetConfig(**unet, patch=2), "patch is 2, not 1"),
        (nets.UNetConfig(**unet, resample="residual"), "resample"),
        (nets.UNetConfig(**unet | {"attention": (1, 2)}), r"heads have features of different numbers, \[4, 8\]"),
        (nets.UNetConfig(**unet | {"groups": 32}), "groups"),
    ]:
        net = nets.build(config, channels=1, size=8)
        with pytest.raises(InputError, match=message):
            bridge.write(NetDenoiser(net, Flow(), "flow", shape=(1, 8, 8)), tmp_path / "out")
    net = nets.build(nets.UNetConfig(**unet), channels=1, size=8)
    for schedule, kind in ((Cosine(), "flow"), (Flow(), "x0")):
        with pytest.raises(InputError, match="no scheduler for"):
            bridge.write(NetDenoiser(net, schedule, kind, shape=(1, 8, 8)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_page_runs(tmp_path, monkeypatch):
    """The example that needs no folder."""
    page = (Path(__file__).parents[2] / "docs" / "networks" / "bridge.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "diffusers.UNet2DModel" in block
    )
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(code, "bridge.md", "exec"), scope)
    assert scope["images"].shape == (4, 1, 16, 16) and not scope["images"].isnan().any()
