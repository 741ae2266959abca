"""What is written back diffusers loads, with equal outputs; adapters fit as peft and diffusers make them fit."""

import json
import re
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie import bridge, nets
from reverie.bridge.foreign import Foreign
from reverie.cli import main
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
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
        assert not close(net(x, torch.tensor(0.4), rv.Cond(text=text.flip(0), vector=vector)), expected, 1e-3)
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


def adapted(pipeline, folder, targets, text=False):
    """Random adapters put on by peft and saved by diffusers; the output of the adapted network."""
    from peft import LoraConfig, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: F401  - peft patches the modules that diffusers saves

    net = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    net.add_adapter(LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=targets))
    generator = torch.Generator().manual_seed(8)
    layers = {}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    layers["unet_lora_layers" if hasattr(pipeline, "unet") else "transformer_lora_layers"] = get_peft_model_state_dict(
        net
    )
    if text:
        pipeline.text_encoder.add_adapter(
            LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
        )
        with torch.no_grad():
            for name, parameter in pipeline.text_encoder.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        layers["text_encoder_lora_layers"] = get_peft_model_state_dict(pipeline.text_encoder)
    pipeline.save_lora_weights(folder, **{**layers, **alphas(pipeline, net, text)})


def alphas(pipeline, net, text):
    """What diffusers notes in the file's header, without which α counts as r."""
    name = "unet_lora_adapter_metadata" if hasattr(pipeline, "unet") else "transformer_lora_adapter_metadata"
    noted = {name: {"lora_alpha": 6, "r": 3}}
    return noted | ({"text_encoder_lora_adapter_metadata": {"lora_alpha": 2, "r": 2}} if text else {})


TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"]


@pytest.fixture(scope="module")
def adapters(tiny, tmp_path_factory):
    """A folder with adapters of diffusers', and what its pipeline gives with them."""
    folder = tmp_path_factory.mktemp("lora")
    pipeline = tiny.build_sd(folder)
    pipeline.save_pretrained(folder / "pipeline")
    adapted(pipeline, folder / "lora", TARGETS, text=True)
    x = noise(2, 4, 8, 8)
    with torch.no_grad():
        told = pipeline.encode_prompt(tiny.texts, "cpu", 1, False)[0]
        out = pipeline.unet(x, 500, told).sample
    return folder, x, told, out


def test_adapters_of_diffusers(adapters, tiny):
    folder, x, told, out = adapters
    model = rv.load(folder / "pipeline")
    point, plain = model.schedule.point(501 / 1000), model.conditioner(tiny.texts)
    with torch.no_grad():
        before = model(x, point, plain).eps
        assert not close(before, out, 1e-2)
        assert bridge.merge(model, folder / "lora") is model
        cond = model.conditioner(tiny.texts)
        assert close(cond["text"].value, told) and not close(plain["text"].value, told, 1e-2)
        assert close(model(x, point, cond).eps, out)
        bridge.merge(model, folder / "lora" / "pytorch_lora_weights.safetensors", scale=-1.0)
        assert close(model(x, point, plain).eps, before)


def test_adapters_reach_wrapped_networks_and_files(adapters, tiny, tmp_path, monkeypatch):
    import diffusers

    from reverie.bridge import architecture

    folder, x, told, out = adapters
    with monkeypatch.context() as patch:
        patch.setattr(architecture, "network", lambda kind, config: None)
        model = rv.load(folder / "pipeline")
    assert isinstance(model.net, Foreign)
    bridge.merge(model, folder / "lora")
    with torch.no_grad():
        assert close(model(x, model.schedule.point(501 / 1000), rv.Cond(text=told)).eps, out)
    command = ["convert", str(folder / "pipeline"), str(tmp_path / "merged"), "--lora", str(folder / "lora")]
    assert main(command) == 0
    merged = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "merged" / "unet")
    with torch.no_grad():
        assert close(merged(x, 500, told).sample, out)


def test_adapters_of_a_joint_transformer(tiny, tmp_path):
    """SD3: ours joins q, k and v of each stream; the file, put on and saved by diffusers, names them apart."""
    pipeline = tiny.build_sd3(tmp_path, third=False)
    pipeline.save_pretrained(tmp_path / "pipeline")
    adapted(pipeline, tmp_path / "lora", ["to_q", "to_v", "add_k_proj", "to_out.0", "ff.net.2"])
    x, text, vector = noise(2, 4, 8, 8), noise(2, 5, 40, seed=3), noise(2, 20, seed=4)
    model = rv.load(tmp_path / "pipeline")
    assert isinstance(model.net, nets.MMDiT)
    cond = rv.Cond(text=text, vector=vector)
    with torch.no_grad():
        out = pipeline.transformer(x, text, vector, torch.tensor([400.0, 400.0])).sample
        before = model.net(x, torch.tensor(0.4), cond)
        assert not close(before, out, 1e-2)
        bridge.merge(model, tmp_path / "lora")
        assert close(model.net(x, torch.tensor(0.4), cond), out)
        bridge.merge(model, tmp_path / "lora", -1.0)
        assert close(model.net(x, torch.tensor(0.4), cond), before)


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_of_a_dit(tiny, tmp_path, tied):
    """Diffusers puts none on a DiT, so the truth is its own weight with the product added; ours and wrapped."""
    from diffusers import DDIMScheduler, DiTPipeline
    from safetensors.torch import save_file

    net = tiny.build_dit(tied)
    DiTPipeline(net, tiny.vae(), DDIMScheduler(clip_sample=False)).save_pretrained(tmp_path / "pipeline")
    model = rv.load(tmp_path / "pipeline")
    assert isinstance(model.net, nets.DiT if tied else Foreign)
    tensors = {}
    for i, module in enumerate(("transformer_blocks.0.attn1.to_k", "transformer_blocks.1.ff.net.2")):
        weight = net.get_submodule(module).weight
        down, up = noise(3, weight.shape[1], seed=i), noise(weight.shape[0], 3, seed=i + 7)
        tensors |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": up}
        with torch.no_grad():
            weight += 0.5 * up @ down
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    x, label = noise(2, 4, 8, 8), torch.tensor([2, 0])
    point, cond = model.schedule.point(401 / 1000), rv.Cond(label=label)
    with torch.no_grad():
        expected = net(x, torch.tensor([400.0, 400.0]), label).sample[:, :4]
        assert not close(model(x, point, cond).eps, expected, 1e-2)
        bridge.merge(model, tmp_path, 0.5)
        assert close(model(x, point, cond).eps, expected)


def test_other_formats(sd, adapters, tmp_path):
    """The same product under the names of peft and of early diffusers, with its own way to say α."""
    from safetensors.torch import save_file

    model, x = rv.load(sd[1]), noise(1, 4, 8, 8)
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    down, up = noise(2, 16, seed=1), noise(16, 2, seed=2)
    old = module.replace("attn1.to_k", "attn1.processor.to_k_lora")
    forms = {
        "peft": {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up},
        "plain": {f"unet.{module}.lora.down.weight": down, f"unet.{module}.lora.up.weight": up, f"unet.{module}.alpha": torch.tensor(8.0)},
        "processor": {f"unet.{old}.down.weight": down, f"unet.{old}.up.weight": up},
    }  # fmt: skip
    for name, tensors in forms.items():
        (tmp_path / name).mkdir()
        file = "adapter_model.safetensors" if name == "peft" else "pytorch_lora_weights.safetensors"
        save_file(tensors, tmp_path / name / file)
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 2}))
    outs = {}
    cond, point = rv.Cond(text=noise(1, 3, 12)), model.schedule.point(0.5)
    with torch.no_grad():
        outs["none"] = model(x, point, cond).eps
        for name in forms:
            scale = 4.0 if name == "processor" else 1.0  # the only form that cannot say α = 4r
            bridge.merge(model, tmp_path / name, scale)
            outs[name] = model(x, point, cond).eps
            bridge.merge(model, tmp_path / name, -scale)
    assert close(outs["peft"], outs["plain"], 1e-4) and close(outs["peft"], outs["processor"], 1e-4)
    assert not close(outs["peft"], outs["none"], 1e-3)
    weight = rv.load(sd[1]).net.get_submodule("down.0.0.attention.blocks.0.attention").qkv.weight
    bridge.merge(model, tmp_path / "peft")
    merged = model.net.get_submodule("down.0.0.attention.blocks.0.attention").qkv.weight
    assert close(merged[16:32] - weight[16:32], 4.0 * up @ down, 1e-4)  # k alone
    assert torch.allclose(merged[:16], weight[:16], atol=1e-4) and torch.allclose(merged[32:], weight[32:], atol=1e-4)


def test_adapters_that_do_not_fit(sd, adapters, tmp_path):
    from safetensors.torch import save_file

    model = rv.load(sd[1])
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    one, two = noise(2, 16), noise(16, 2)
    for tensors, error, message in [
        (
            {"unet.nowhere.lora_A.weight": one, "unet.nowhere.lora_B.weight": two},
            RunError,
            "nowhere.weight, which the model does not have",
        ),
        ({"unet.conv_in.lora_A.weight": one, "unet.conv_in.lora_B.weight": two}, RunError, "of another model"),
        ({"unet.conv_in.lora_A.weight": one}, RunError, "lacks one of its two matrices"),
        (
            {"transformer.x.lora_A.weight": one, "transformer.x.lora_B.weight": two},
            InputError,
            "adapts a transformer, the model has a unet",
        ),
        ({"unet.conv_in.hada_w1_a": one}, InputError, "no plain low-rank product"),
        ({"text_encoder_3.x.lora_A.weight": one, "text_encoder_3.x.lora_B.weight": two}, InputError, "text_encoder_3"),
    ]:
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(error, match=message):
            bridge.merge(model, tmp_path / "lora.safetensors")
    (tmp_path / "lora.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(RunError, match="damaged"):
        bridge.merge(model, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match="no adapter in"):
        bridge.merge(model, tmp_path)
    (tmp_path / "lora.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pickles are not opened"):
        bridge.merge(model, tmp_path / "lora.bin")
    after = model.net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


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
