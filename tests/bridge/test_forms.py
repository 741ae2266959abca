"""The forms of pipelines of Stable Diffusion 1, XL and 3: image to image, inpainting, ControlNet; prompts of unequal length and guidance.

Each is opened from the folder that diffusers' own pipeline saved, which draws beside ours from the same noise.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import reverie as rv
from reverie import bridge, guide
from reverie.core.errors import InputError
from reverie.diffusion.control import control
from reverie.nets import UNet

NEGATIVE = "blurry"


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-4):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


class Given:
    """A noise tape whose first draw is known."""

    def __init__(self, z):
        self.z = z

    def draw(self, stream, number, shape, span=None):
        assert (stream, number) == ("init", 0)
        return self.z


def ours(model, cond, scale, z=None, **how):
    """The codes that a guided run of ours ends with; ``z`` noises the picture that it begins with."""
    tape = None if z is None else Given(z)
    with torch.no_grad():
        guided = guide.cfg(model, scale) if isinstance(scale, torch.Tensor) or scale != 1.0 else model
        *_, last = rv.iterate(guided, cond=cond, tape=tape, **how)
    return last.x


def of_form(name, pipeline, tmp, **more):
    """The parts of a pipeline as one of another class, saved by itself, and what we open of it."""
    import diffusers

    other = getattr(diffusers, name).from_pipe(pipeline, **more)
    other.set_progress_bar_config(disable=True)
    other.save_pretrained(tmp / name)
    return other, rv.load(tmp / name)


IMG2IMG = {
    "sd": "StableDiffusionImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "sd3": "StableDiffusion3Img2ImgPipeline",
}


@pytest.mark.parametrize("form", IMG2IMG)
@pytest.mark.parametrize("steps, strength", [(6, 0.5), (7, 0.6), (5, 1.0)])
def test_image_to_image(form, steps, strength, tiny, tmp_path, request, monkeypatch):
    """The last steps of the same grid, from a picture: its mean code, noised. The control: another strength."""
    pipeline, model = of_form(IMG2IMG[form], request.getfixturevalue(form)[0], tmp_path)
    pictures, z = noise(2, 3, 16, 16, seed=8).clamp(-1, 1), noise(2, 4, 8, 8)
    with torch.no_grad():
        codes = model.space.encode(pictures)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *a, **k: z)
    b = pipeline(
        tiny.texts, image=codes, strength=strength, guidance_scale=3.0, num_inference_steps=steps, output_type="latent",
        negative_prompt=[NEGATIVE] * 2,
    ).images  # fmt: skip
    cond = model.conditioner(tiny.texts, negative=NEGATIVE)
    assert close(ours(model, cond, 3.0, z, x=pictures, **model.scheduler(steps, strength)), b)
    assert not close(ours(model, cond, 3.0, z, x=pictures, **model.scheduler(steps, 0.3)), b, 1e-3)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_image_to_image_by_the_steps_of_other_schedulers(scheduler, sd, tiny, tmp_path, monkeypatch):
    """Karras' grid, whose points are not those of the table; a solver with a history begins it there."""
    import diffusers

    kind = getattr(diffusers, scheduler)(**tiny.betas, use_karras_sigmas=True)
    pipeline, model = of_form(IMG2IMG["sd"], sd[0], tmp_path, scheduler=kind)
    pictures, z = noise(2, 3, 16, 16, seed=8).clamp(-1, 1), noise(2, 4, 8, 8)
    with torch.no_grad():
        codes = model.space.encode(pictures)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *a, **k: z)
    b = pipeline(
        tiny.texts, image=codes, strength=0.7, guidance_scale=2.0, num_inference_steps=8, output_type="latent"
    ).images
    cond = model.conditioner(tiny.texts)
    assert close(ours(model, cond, 2.0, z, x=pictures, **model.scheduler(8, 0.7)), b)
    assert not close(ours(model, cond, 2.0, z, x=pictures, **model.scheduler(8, 0.6)), b, 1e-3)


def test_strengths_that_leave_nothing(sd):
    scheduler = rv.load(sd[1]).scheduler
    for strength in (0.0, 1.1):
        with pytest.raises(InputError, match=r"strength is in \(0, 1\]"):
            scheduler(10, strength)
    with pytest.raises(InputError, match="leaves none of 10 steps"):
        scheduler(10, 0.05)


class Mean:
    """A posterior whose draw is its mean, as our spaces code."""

    def __init__(self, out):
        self.latent_dist = self
        self.sample = lambda generator=None, mean=out.latent_dist.mode(): mean


def begun(pipeline, model, z, steps):
    """Their initial noise on our scale: that of Euler's method varies only its σ."""
    exploding = type(pipeline.scheduler).__name__.startswith("Euler")
    pipeline.scheduler.set_timesteps(steps)
    alpha = model.scheduler(steps)["grid"].points[0].alpha if exploding else 1.0
    return z * float(pipeline.scheduler.init_noise_sigma) * alpha


INPAINT = {"sd": "StableDiffusionInpaintPipeline", "sdxl": "StableDiffusionXLInpaintPipeline"}


@pytest.mark.parametrize("form", INPAINT)
def test_inpainting(form, tiny, tmp_path):
    """Nine channels: the noise, the hole, and what is around it, in both branches. The control: the hole elsewhere."""
    build = {"sd": tiny.build_sd, "sdxl": tiny.build_sdxl}[form]
    pipeline, model = of_form(INPAINT[form], build(tmp_path, in_channels=9), tmp_path)
    assert isinstance(model.net, UNet) and model.shape == (4, 8, 8) and "image" in model.conditions
    picture, hole = noise(1, 3, 16, 16, seed=8).clamp(-1, 1), torch.zeros(1, 1, 16, 16)
    hole[..., 4:11, 2:9] = 1.0
    z, encode = noise(2, 4, 8, 8), pipeline.vae.encode
    pipeline.vae.encode = lambda x: Mean(encode(x))
    b = pipeline(
        tiny.texts, image=picture, mask_image=hole, latents=z, guidance_scale=3.0, num_inference_steps=5, output_type="latent",
        negative_prompt=[NEGATIVE] * 2, height=16, width=16, strength=1.0,
    ).images  # fmt: skip

    def drawn(hole):
        cond = model.conditioner(tiny.texts, negative=NEGATIVE, image=bridge.inpainting(model, picture, hole))
        return ours(model, cond, 3.0, x=begun(pipeline, model, z, 5), **model.scheduler(5))

    assert close(drawn(hole), b)
    assert not close(drawn(hole.flip(-1)), b, 1e-3)
    bridge.write(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["_class_name"] == INPAINT[form]


def test_what_fills_no_holes_says_so(sd, tiny, tmp_path):
    model, pictures = rv.load(sd[1]), noise(1, 3, 16, 16).clamp(-1, 1)
    with pytest.raises(InputError, match="is shown 5 channels, a mask and codes: this one takes none"):
        bridge.inpainting(model, pictures, torch.ones(16, 16))
    _, model = of_form(INPAINT["sd"], tiny.build_sd(tmp_path, in_channels=9), tmp_path)
    for picture, hole, message in (
        (pictures[..., :8], torch.ones(16, 8), r"\(n, 3, 16, 16\)"),
        (pictures, torch.full((16, 16), 0.5), "threshold it first"),
        (pictures, torch.ones(8, 8), "mask of 16x16"),
        (255 * pictures, torch.ones(16, 16), r"in \[-1, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            bridge.inpainting(model, picture, hole)


CONTROL = {"sd": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline"}


@pytest.mark.parametrize("form, count", [("sd", 1), ("sd", 2), ("sdxl", 1)])
def test_controlnets_of_a_pipeline(form, count, tiny, tmp_path, request):
    """One, and two at once with weights and an interval. The control: the hint turned over."""
    from diffusers import ControlNetModel

    base = request.getfixturevalue(form)[0]
    nets = [
        tiny.shaken(ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 12)), seed=7 + i)
        for i in range(count)
    ]
    pipeline, model = of_form(CONTROL[form], base, tmp_path, controlnet=nets[0] if count == 1 else nets)
    assert len(model.controls) == count
    hints, weights = [torch.rand(2, 3, 16, 16, generator=torch.manual_seed(i)) for i in range(count)], [0.7, 0.4]
    z = noise(2, 4, 8, 8)
    alone = count == 1
    b = pipeline(
        tiny.texts, image=hints[0] if alone else hints, latents=z, guidance_scale=3.0, num_inference_steps=5, output_type="latent",
        controlnet_conditioning_scale=weights[0] if alone else weights, negative_prompt=[NEGATIVE] * 2, control_guidance_end=0.6,
        height=16, width=16,
    ).images  # fmt: skip
    how = model.scheduler(5)
    until = (
        how["grid"].points[3].lam + how["grid"].points[2].lam
    )  # logsnr between the third point, the last steered, and the fourth

    def drawn(hints):
        steered = model
        for net, hint, weight in zip(model.controls, hints, weights, strict=False):
            steered = control(steered, net, hint, weight, (-float("inf"), until))
        cond = model.conditioner(tiny.texts, negative=NEGATIVE)
        return ours(steered, cond, 3.0, x=begun(pipeline, model, z, 5), **how)

    assert close(drawn(hints), b)
    assert not close(drawn([hint.flip(-1) for hint in hints]), b, 1e-3)
    bridge.write(model, tmp_path / "again")
    again = rv.load(tmp_path / "again")
    assert [net.state_dict().keys() for net in again.controls] == [net.state_dict().keys() for net in model.controls]
    said = [json.loads((tmp_path / name / "model_index.json").read_text()) for name in (CONTROL[form], "again")]
    assert said[0]["controlnet"] == said[1]["controlnet"] and said[0]["_class_name"] == said[1]["_class_name"]


@pytest.mark.parametrize("count, bare", [(1, True), (1, False), (2, True)])
def test_controlnets_of_stable_diffusion_3(count, bare, tiny, tmp_path):
    """The same of two blocks on a transformer of four, the hint as the mean of its code; they take it in [-1, 1]. Two are not saved."""
    from diffusers import StableDiffusion3ControlNetPipeline

    base = tiny.build_sd3(tmp_path, num_layers=4)
    nets = [tiny.sd3_control(7 + i, force_zeros_for_pooled_projection=bare) for i in range(count)]
    if count == 1:
        pipeline, model = of_form("StableDiffusion3ControlNetPipeline", base, tmp_path, controlnet=nets[0])
        assert model.pipeline == "StableDiffusion3ControlNetPipeline"
    else:
        base.save_pretrained(tmp_path / "base")
        pipeline, model = (
            StableDiffusion3ControlNetPipeline.from_pipe(base, controlnet=nets),
            rv.load(tmp_path / "base"),
        )
        pipeline.set_progress_bar_config(disable=True)
        for i, net in enumerate(nets):
            net.save_pretrained(tmp_path / f"{i}")
        model.controls = tuple(rv.load(tmp_path / f"{i}") for i in range(count))
    assert len(model.controls) == count
    hints, weights = [torch.rand(2, 3, 16, 16, generator=torch.manual_seed(i)) for i in range(count)], [0.7, 0.4]
    z, encode, alone = noise(2, 4, 8, 8), pipeline.vae.encode, count == 1
    pipeline.vae.encode = lambda x: Mean(encode(x))
    b = pipeline(
        tiny.texts, control_image=2 * hints[0] - 1 if alone else [2 * hint - 1 for hint in hints], latents=z, guidance_scale=3.0,
        num_inference_steps=5, output_type="latent",
        controlnet_conditioning_scale=weights[0] if alone else weights, negative_prompt=[NEGATIVE] * 2, control_guidance_end=0.6,
        height=16, width=16,
    ).images  # fmt: skip
    how = model.scheduler(5)
    until = how["grid"].points[3].lam + how["grid"].points[2].lam

    def drawn(hints, until):
        steered = model
        for net, hint, weight in zip(model.controls, hints, weights, strict=False):
            steered = control(steered, net, hint, weight, (-float("inf"), until))
        cond = model.conditioner(tiny.texts, negative=NEGATIVE)
        return ours(steered, cond, 3.0, x=z, **how)

    assert close(drawn(hints, until), b)
    assert not close(drawn([hint.flip(-1) for hint in hints], until), b, 1e-3)
    assert not close(drawn(hints, float("inf")), b, 1e-3)
    if not alone:
        with pytest.raises(InputError, match="saves no pipeline with several SD3ControlNetModel"):
            bridge.write(model, tmp_path / "again")
        return
    bridge.write(model, tmp_path / "again")
    again = StableDiffusion3ControlNetPipeline.from_pretrained(tmp_path / "again").controlnet.state_dict()
    assert all(torch.equal(again[name], value) for name, value in nets[0].state_dict().items())


def test_inpainting_by_a_controlnet_of_stable_diffusion_3(tiny, tmp_path):
    """A hint of four channels: what is around the hole, black in it, and where it is known. The control: the hole elsewhere."""
    net = tiny.sd3_control(extra_conditioning_channels=1)
    base = tiny.build_sd3(tmp_path, num_layers=4)
    pipeline, model = of_form("StableDiffusion3ControlNetInpaintingPipeline", base, tmp_path, controlnet=net)
    picture, hole = noise(1, 3, 16, 16, seed=8).clamp(-1, 1), torch.zeros(1, 1, 16, 16)
    hole[..., 4:11, 2:9] = 1.0
    z, encode = noise(2, 4, 8, 8), pipeline.vae.encode
    pipeline.vae.encode = lambda x: Mean(encode(x))
    b = pipeline(
        tiny.texts, control_image=picture, control_mask=hole, latents=z, guidance_scale=3.0, num_inference_steps=5, output_type="latent",
        negative_prompt=[NEGATIVE] * 2, height=16, width=16, controlnet_conditioning_scale=0.95,
    ).images  # fmt: skip

    def drawn(hole):
        hint = torch.cat([(picture / 2 + 0.5) * (1 - hole), 1 - hole], dim=1)
        cond = model.conditioner(tiny.texts, negative=NEGATIVE)
        return ours(control(model, model.controls[0], hint, 0.95), cond, 3.0, x=z, **model.scheduler(5))

    assert close(drawn(hole), b)
    assert not close(drawn(hole.flip(-1)), b, 1e-3)


def test_image_to_image_with_a_hint(sd, tiny, tmp_path, monkeypatch):
    from diffusers import ControlNetModel

    net = tiny.shaken(ControlNetModel.from_unet(sd[0].unet, conditioning_embedding_out_channels=(8, 12)), seed=7)
    pipeline, model = of_form("StableDiffusionControlNetImg2ImgPipeline", sd[0], tmp_path, controlnet=net)
    pictures, z, hint = noise(2, 3, 16, 16, seed=8).clamp(-1, 1), noise(2, 4, 8, 8), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        codes = model.space.encode(pictures)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *a, **k: z)
    b = pipeline(
        tiny.texts, image=codes, control_image=hint, strength=0.5, guidance_scale=3.0, num_inference_steps=6, output_type="latent",
        height=16, width=16,
    ).images  # fmt: skip
    cond, how = model.conditioner(tiny.texts), model.scheduler(6, 0.5)
    steered = control(model, model.controls[0], hint, 0.8)  # their default
    assert close(ours(steered, cond, 3.0, z, x=pictures, **how), b)
    assert not close(ours(model, cond, 3.0, z, x=pictures, **how), b, 1e-3)


def test_a_refiner(sdxl, tiny, tmp_path, monkeypatch):
    """The second text encoder alone, and a score of beauty in place of a size."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel

    base = sdxl[0]
    config = dict(base.unet.config) | {"cross_attention_dim": 16, "projection_class_embeddings_input_dim": 5 * 4 + 10}
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=base.vae, text_encoder=None, tokenizer=None, text_encoder_2=base.text_encoder_2, tokenizer_2=base.tokenizer_2,
        unet=tiny.shaken(UNet2DConditionModel.from_config(config)), scheduler=base.scheduler, requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "refiner")
    model = rv.load(tmp_path / "refiner")
    pictures, z = noise(2, 3, 16, 16, seed=8).clamp(-1, 1), noise(2, 4, 8, 8)
    with torch.no_grad():
        codes = model.space.encode(pictures)
    monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *a, **k: z)
    b = pipeline(
        tiny.texts, image=codes, strength=0.5, guidance_scale=3.0, num_inference_steps=6, output_type="latent",
        negative_prompt=[NEGATIVE] * 2,
    ).images  # fmt: skip
    cond, how = model.conditioner(tiny.texts, negative=NEGATIVE), model.scheduler(6, 0.5)
    assert close(ours(model, cond, 3.0, z, x=pictures, **how), b)
    same = cond.with_null(vector=torch.cat([cond["vector"].null[:, :10], cond["vector"].value[:, 10:]], dim=1))
    assert not close(
        ours(model, same, 3.0, z, x=pictures, **how), b, 1e-4
    )  # the lower score of the other branch is read
    bridge.write(model, tmp_path / "again")
    assert type(pipeline).from_pretrained(tmp_path / "again").config.requires_aesthetics_score


def windows(pipeline, text, count):
    """The features of a prompt beyond the encoder's length, read in windows one behind the other, as long prompts are."""
    words = text.split()
    size = -(-len(words) // count)
    parts = [" ".join(words[i * size : (i + 1) * size]) for i in range(count)]
    told, _ = pipeline.encode_prompt(parts, "cpu", 1, False)
    return told.flatten(0, 1)[None]


def test_prompts_of_unequal_length_and_guidance(sd):
    """Two prompts of a batch, of 32 and 16 tokens, led away from 16 and 32, at scales of their own: as diffusers' parts draw each alone."""
    pipeline, folder = sd
    model, scales, steps = rv.load(folder), (3.0, 1.5), 5
    told = [windows(pipeline, "a red fox in deep snow under a pale sun", 2), windows(pipeline, "two blue birds", 1)]
    away = [windows(pipeline, "grey", 1), windows(pipeline, "noise and blur and dust", 2)]
    z = noise(2, 4, 8, 8)
    pipeline.scheduler.set_timesteps(steps)
    expected = []
    for i in range(2):
        x = z[i : i + 1]
        for step in pipeline.scheduler.timesteps:
            with torch.no_grad():
                yes, no = (pipeline.unet(x, step, features[i]).sample for features in (told, away))
            x = pipeline.scheduler.step(no + scales[i] * (yes - no), step, x).prev_sample
        expected.append(x)

    def one(i):
        """A prompt and what it is led away from, padded to one length with masks."""
        masks = (torch.arange(32)[None] < features[i].shape[1] for features in (told, away))
        values = (F.pad(features[i], (0, 0, 0, 32 - features[i].shape[1])) for features in (told, away))
        (value, null), (mask, null_mask) = values, masks
        return rv.Cond(text=rv.core.condition.Entry.of(value, mask)._replace(null=null, null_mask=null_mask))

    cond = one(0).cat(one(1))
    drawn = ours(model, cond, torch.tensor(scales), x=z, **model.scheduler(steps))
    assert close(drawn, torch.cat(expected))
    swapped = ours(model, cond, torch.tensor(scales[::-1]), x=z, **model.scheduler(steps))
    assert not close(swapped, torch.cat(expected), 1e-3)
    unmasked = rv.Cond(text=cond["text"]._replace(mask=None, null_mask=None))
    assert not close(
        ours(model, unmasked, torch.tensor(scales), x=z, **model.scheduler(steps)), torch.cat(expected), 1e-3
    )


def test_a_text_beyond_the_encoder_says_what_is_kept(sd):
    conditioner = rv.load(sd[1]).conditioner
    with pytest.warns(UserWarning, match="has 22 tokens, the text encoder takes 16: the first 16 are kept"):
        conditioner(" ".join("abcdefghij" * 2))


def test_ip_adapters_are_refused_by_name(sd, tiny, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "ip-adapter_sd15.safetensors"
    save_file({"image_proj.proj.weight": torch.ones(4, 4), "ip_adapter.1.to_k_ip.weight": torch.ones(4, 4)}, file)
    model = rv.load(sd[1])
    for refused in (rv.adapt.load, lambda path: bridge.merge(model, path)):
        with pytest.raises(InputError, match="is an IP-Adapter"):
            refused(file)
    pipeline, folder = tiny.build_sd(tmp_path), tmp_path / "with"
    pipeline.save_pretrained(folder)
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"encoder_hid_dim_type": "ip_image_proj"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"saved with an IP-Adapter in it.*unload_ip_adapter"):
        rv.load(folder)


def test_the_size_of_stable_diffusion_15_is_what_the_page_says():
    """Counted without memory, from the configuration of the published folder; our network has as many parameters as theirs."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from reverie.bridge import architecture

    sides = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    read = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        parts = [
            unet, AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **sides), CLIPTextModel(read),
        ]  # fmt: skip
        net = architecture.network("UNet2DConditionModel", dict(unet.config))
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert isinstance(net, UNet) and sum(p.numel() for p in net.parameters()) == counts[0]
    page = (Path(__file__).parents[2] / "docs" / "networks" / "bridge.md").read_text("utf-8")
    gigabytes = [f"{size * sum(counts) / 1e9:.1f} GB" for size in (4, 2)]
    assert all(said in page for said in (*(f"{count:,}" for count in counts), *gigabytes)), (counts, gigabytes)
