"""Adapters fit as peft and diffusers make them fit, and what is no whole adapter of this model is refused by name."""

import copy
import json

import pytest
import torch

import reverie as rv
from reverie import bridge, nets
from reverie.bridge.foreign import Foreign
from reverie.cli import main
from reverie.core.errors import InputError, RunError


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


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
        patch.setattr(architecture, "network", lambda *given: None)
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


MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TARGETS_OF_PEFT = {
    "everywhere": {"target_modules": r".*(to_q|to_v)"},
    "the middle alone": {"target_modules": r".*mid_block.*to_q"},
    "convolutions": {"target_modules": ["conv1", "conv_in", "conv_shortcut"]},
    "a name's end": {"alpha_pattern": {"to_q": 9.0}},
    "no half name": {"alpha_pattern": {"q": 9.0}},
    "an expression": {"alpha_pattern": {"down_blocks.*to_q": 9.0}},
    "a dot is any letter": {"alpha_pattern": {"attn1.to.q": 9.0}},
    "the first that matches": {"alpha_pattern": {"to_q": 9.0, "attn1.to_q": 5.0}},
    "ranks": {"rank_pattern": {r"down_blocks\.0\..*": 2, "to_k": 3}, "alpha_pattern": {"to_k": 5.0}},
    "the root of the rank": {"use_rslora": True, "rank_pattern": {"to_k": 2}},
}


@pytest.mark.parametrize("case", TARGETS_OF_PEFT)
def test_adapters_of_peft(sd, tmp_path, case):
    """What peft saves of an adapted network, merged, computes what peft computes with it loaded again."""
    from peft import LoraConfig, PeftModel, get_peft_model

    options = {"target_modules": r".*(down|up)_blocks.*(to_q|to_k)"} | TARGETS_OF_PEFT[case]
    net, x, text = sd[0].unet, noise(2, 4, 8, 8), noise(2, 5, 12, seed=4)
    told = get_peft_model(copy.deepcopy(net), LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in told.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        told.save_pretrained(tmp_path / "lora")
        expected = PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "lora")(x, 500, text).sample
        model = bridge.merge(rv.load(sd[1]), tmp_path / "lora")
        assert close(model(x, model.schedule.point(501 / 1000), rv.Cond(text=text)).eps, expected)
        assert not close(net(x, 500, text).sample, expected, 1e-2)


def test_an_adapter_of_a_text_encoder_alone(sd, tiny, tmp_path):
    """As peft saves it no name tells the part; as early diffusers did, attention has the names of a U-Net's."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    encoder = copy.deepcopy(sd[0].text_encoder)
    told = get_peft_model(
        encoder, LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj", "out_proj"])
    )
    told.save_pretrained(tmp_path)
    ids = (
        sd[0].tokenizer(tiny.texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    )
    names = {
        "base_model.model.": "text_encoder.", "q_proj": "to_q", "out_proj": "to_out", ".lora_A.": "_lora.down.", ".lora_B.": "_lora.up."
    }  # fmt: skip
    early = {}
    for name, value in load_file(tmp_path / "adapter_model.safetensors").items():
        for new, old in names.items():
            name = name.replace(new, old)
        early[name] = value
    save_file(early, tmp_path / "early.safetensors")
    with torch.no_grad():
        expected = told(ids).last_hidden_state
        for file in (tmp_path, tmp_path / "early.safetensors"):
            (tmp_path / "adapter_config.json").unlink() if file != tmp_path else None  # diffusers' names: α = r
            model = bridge.merge(rv.load(sd[1]), file)
            assert close(model.conditioner(tiny.texts)["text"].value, expected), file
        assert not close(rv.load(sd[1]).conditioner(tiny.texts)["text"].value, expected, 1e-3)


def pair(module=f"unet.{MODULE}", rank=2, inner=16, outer=16):
    return {f"{module}.lora_A.weight": noise(rank, inner), f"{module}.lora_B.weight": noise(outer, rank, seed=4)}


def one(module=f"unet.{MODULE}", **changes):
    """A pair with some of its tensors changed."""
    return {name: changes.get(name.split(".")[-2], value) for name, value in pair(module).items()}


OTHERS = {
    "nowhere": (pair("unet.nowhere"), "nowhere.weight, which the model does not have"),
    "shapes": (pair("unet.conv_in"), "of another model"),
    "ranks": (one(lora_A=noise(3, 16)), "of another model"),
    "turned": (one(lora_A=noise(1, 16), lora_B=noise(1, 16)), "of another model"),
    "no up": ({f"unet.{MODULE}.lora_A.weight": noise(2, 16)}, f"{MODULE} in .* lacks its up matrix"),
    "alpha alone": (
        pair() | {"unet.conv_in.alpha": torch.tensor(4.0)},
        "adapter of conv_in in .* lacks its down matrix",
    ),
    "rank 0": (pair(rank=0), r"rank 1 or more: got torch.float32 of shape \((0, 16|16, 0)\)"),
    "a vector": (one(lora_A=noise(16)), r"rank 1 or more: got torch.float32 of shape \(16,\)"),
    "whole numbers": (one(lora_A=torch.ones(2, 16, dtype=torch.int8)), "got torch.int8"),
    "two alphas": (pair() | {f"unet.{MODULE}.alpha": noise(2)}, "one number: got"),
    "twice": (pair() | {f"unet.{MODULE}.lora.down.weight": noise(2, 16)}, "two tensors for the down of"),
    "no tensors": ({}, "no tensors, so it adapts nothing"),
    "another part": (pair("transformer.x"), "adapts the transformer, the model has: unet, text_encoder"),
    "a third encoder": (pair("text_encoder_3.x"), "adapts the text_encoder_3"),
    "another product": ({"unet.conv_in.hada_w1_a": noise(2, 2)}, "no plain low-rank product"),
    "NaN": (one(lora_A=torch.full((2, 16), torch.nan)), f"makes {MODULE}.weight infinite or NaN"),
    "infinite": (one(lora_B=torch.full((16, 2), torch.inf)), "infinite or NaN"),
    "infinite alpha": (pair() | {f"unet.{MODULE}.alpha": torch.tensor(torch.inf)}, "infinite or NaN"),
    "too strong": (pair() | {f"unet.{MODULE}.alpha": torch.tensor(3e38)}, "infinite or NaN"),
}


@pytest.fixture(scope="module")
def model(sd):
    return rv.load(sd[1])


def refused(model, path, message, error=InputError, **options):
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    with pytest.raises(error, match=message):
        bridge.merge(model, path, **options)
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())


@pytest.mark.parametrize("case", OTHERS)
def test_adapters_that_do_not_fit(model, tmp_path, case):
    from safetensors.torch import save_file

    tensors, message = OTHERS[case]
    save_file(tensors, tmp_path / "lora.safetensors")
    refused(model, tmp_path / "lora.safetensors", message)


def test_files_that_are_none(model, tmp_path):
    from safetensors.torch import save_file

    refused(model, tmp_path, "no adapter in")
    (tmp_path / "lora.bin").write_bytes(b"x")
    refused(model, tmp_path / "lora.bin", "pickles are not opened")
    (tmp_path / "lora.safetensors").write_bytes(b"x" * 30)
    refused(model, tmp_path / "lora.safetensors", "damaged", RunError)
    save_file(pair(), tmp_path / "lora.safetensors")
    refused(model, tmp_path / "lora.safetensors", "finite number: got nan", scale=float("nan"))


@pytest.mark.parametrize(
    "header, message",
    [
        ("{cut", r"'\{cut' is no JSON object"),
        ("[1]", "no JSON object"),
        ('{"text_encoder.lora_alpha": 8}', "says nothing of the unet, so its strength"),
        ('{"unet.r": 3, "unet.lora_alpha": 8}', "says rank 3 for .*to_q, its matrices have 2"),
        ('{"unet.r": 2, "unet.lora_alpha": "x"}', "lora_alpha and alpha_pattern cannot be read"),
        ('{"unet.r": 2, "unet.alpha_pattern": {"(": 3}}', "alpha_pattern cannot be read"),
        ('{"unet.r": 2, "unet.alpha_pattern": [3]}', "alpha_pattern cannot be read"),
        ('{"unet.r": 2, "unet.lora_alpha": Infinity}', "infinite or NaN"),
        ('{"unet.r": 2, "unet.use_dora": true}', "use_dora = True, an adapter without translation"),
        ('{"unet.r": 2, "unet.init_lora_weights": "pissa_niter_4"}', "also changed the weights under the adapter"),
    ],
)
def test_configurations_that_cannot_be_followed(model, tmp_path, header, message):
    from safetensors.torch import save_file

    save_file(pair(), tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": header})
    refused(model, tmp_path / "lora.safetensors", message)


def test_a_lost_configuration(model, tmp_path):
    """peft's layout always has one, and it alone says α; diffusers' files without a word have α = r."""
    from safetensors.torch import save_file

    names = {"adapter_model.safetensors": MODULE, "lora.safetensors": f"base_model.model.{MODULE}"}
    for file, module in names.items():
        save_file(pair(module), tmp_path / file)
        refused(model, tmp_path / file, r"adapter_config.json, which says its strength lora_alpha, is not beside it")


def test_a_small_file_asks_for_little(model, tmp_path):
    """14 GB of product out of 480 kB: the shapes are compared before it is made."""
    from safetensors.torch import save_file

    save_file(pair(rank=1, inner=60_000, outer=60_000), tmp_path / "lora.safetensors")
    refused(model, tmp_path / "lora.safetensors", "of another model")
