"""Whole pipelines: from the same folder, noise and texts, diffusers and we compute the same."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import reverie as rv
from reverie import bridge, guide
from reverie.bridge.foreign import Foreign
from reverie.core.errors import InputError
from reverie.nets import DiT, MMDiT, UNet, taps

from ..margin import apart


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ours(model, cond, x, steps, scale):
    with torch.no_grad():
        guided = guide.cfg(model, scale) if scale != 1.0 else model
        latent = None
        for latent in rv.iterate(guided, cond=cond, x=x, **model.scheduler(steps)):  # noqa: B007
            pass
        return latent.x


def theirs(pipeline, texts, x, steps, scale, **more):
    return pipeline(
        texts, latents=x.clone(), guidance_scale=scale, num_inference_steps=steps, output_type="latent", **more
    ).images


def close(a, b, tolerance):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


def test_a_text_pipeline_opens_whole(sd, tiny):
    pipeline, folder = sd
    model = rv.load(folder)
    assert isinstance(model, bridge.Pretrained) and isinstance(model.net, UNet) and model.shape == (4, 8, 8)
    assert model.kind.name == "eps" and not model.net.training
    assert not any(p.requires_grad for p in model.net.parameters())
    cond = model.conditioner(tiny.texts, negative="blurry")
    told, away = pipeline.encode_prompt(tiny.texts, "cpu", 1, True, negative_prompt=["blurry"] * 2)
    assert torch.equal(cond["text"].value, told) and torch.equal(cond["text"].null, away)
    assert apart(model.conditioner(tiny.texts)["text"].null, away) > 1e-2  # without one it is the empty text

    x, step = noise(2, 4, 8, 8), 501
    out = model(x, model.schedule.point((step + 1) / 1000), cond)
    with torch.no_grad():
        assert close(out.eps, pipeline.unet(x, step, told).sample, 1e-5)
        assert close(model(x, out.point, cond.null()).eps, pipeline.unet(x, step, away).sample, 1e-5)
        assert not close(out.eps, pipeline.unet(x, step, told.flip(0)).sample, 1e-3)  # swapped captions are noticed
        assert not close(out.eps, pipeline.unet(x, step + 20, told).sample, 1e-3)


def test_the_auto_encoder_is_the_space(sd):
    pipeline, folder = sd
    model, pictures = rv.load(folder), noise(2, 3, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        z = pipeline.vae.encode(pictures).latent_dist.mean * 0.3
        assert close(model.space.encode(pictures), z, 1e-5)
        assert close(model.space.decode(z), pipeline.vae.decode(z / 0.3).sample, 1e-5)
    alone = rv.load(folder / "vae")
    assert isinstance(alone, bridge.KL) and close(alone.encode(pictures), z, 1e-5)
    assert alone.code_shape((3, 16, 16)) == tuple(z.shape[1:]) and alone.data_shape(tuple(z.shape[1:])) == (3, 16, 16)
    with pytest.raises(InputError, match="multiples of 2"):
        alone.code_shape((3, 15, 16))
    seen = rv.read.features(model, pictures, "middle.0", logsnr=2.0)  # asks for pictures, and codes them
    assert len(seen) == 2 and seen.isfinite().all()


def test_features_of_a_latent_model_are_read_off_pictures(sd):
    _, folder = sd
    model, pictures, cond = rv.load(folder), noise(2, 3, 16, 16).clamp(-1, 1), rv.Cond(text=noise(1, 3, 12))
    assert model.space.data_shape(model.shape) == (3, 16, 16)
    read = rv.read.features(model, pictures, sites="middle.0", t=0.5, noise=None, cond=cond, pool=None)
    point = model.schedule.point(0.5)
    with torch.no_grad():
        expected = taps.features(model, ["middle.0"], point.alpha * model.space.encode(pictures), point, cond)[
            "middle.0"
        ]
    assert read.shape == (2, 32, 4, 4) and close(read, expected, 1e-5)
    with pytest.raises(InputError, match=r"N, 3, 16, 16"):
        rv.read.features(model, noise(2, 4, 8, 8), sites="middle.0", logsnr=4.0, cond=cond)


def test_weights_keep_the_precision_of_their_file(sd, tiny, tmp_path):
    _, folder = sd
    shutil.copytree(folder, tmp_path / "half")
    for path in (tmp_path / "half").glob("*/*.safetensors"):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
        config = json.loads((path.parent / "config.json").read_text())
        (path.parent / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    half, cast = rv.load(tmp_path / "half"), rv.load(tmp_path / "half", dtype=torch.bfloat16)
    assert {p.dtype for p in half.net.parameters()} == {torch.float16} == {p.dtype for p in half.space.parameters()}
    assert half.conditioner(tiny.texts)["text"].value.dtype == torch.float16
    assert {p.dtype for p in [*cast.net.parameters(), *cast.space.parameters()]} == {torch.bfloat16}
    assert cast.conditioner(tiny.texts)["text"].value.dtype == torch.bfloat16
    drawn = []
    for model in (rv.load(folder), half, cast):
        with torch.no_grad():
            drawn.append(rv.sample(model, cond=model.conditioner(tiny.texts), steps=3))
    single, rounded, rough = drawn
    assert rounded.dtype == rough.dtype == torch.float32
    assert (rounded - single).square().mean().sqrt() < 20 * torch.finfo(torch.float16).eps * single.std()
    assert (rough - single).square().mean().sqrt() < 20 * torch.finfo(torch.bfloat16).eps * single.std()


def test_words_know_their_tokens(sd):
    pipeline, folder = sd
    words = rv.load(folder).conditioner.words("a red fox, red qed")
    ids = pipeline.tokenizer("a red fox, red qed").input_ids
    assert set(words) == {"a", "red", "fox,", "qed"} and words["a"] == (1,)
    pieces = {
        word: "".join(pipeline.tokenizer.convert_ids_to_tokens([ids[i] for i in at])) for word, at in words.items()
    }
    assert pieces["red"] == "red</w>red</w>" and pieces["fox,"].startswith("fox</w>") and len(words["qed"]) > 1


SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddim-clean": ("DDIMScheduler", {"clip_sample": False}),
    "ddim-v-zero": (
        "DDIMScheduler",
        {
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
    "ddim-linear-x0": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample", "beta_schedule": "linear"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler-trailing-end": (
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"},
    ),
    "euler-karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler-v-zero": (
        "EulerDiscreteScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "dpm-leading": ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "dpm-trailing": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "dpm-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm-cosine": ("DPMSolverMultistepScheduler", {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    "dpm-end": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    "dpm-end-high": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    "dpm-v": ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
    "dpm-first": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [5, 16])
def test_whole_runs_agree(sd, tiny, tmp_path, name, steps):
    import diffusers

    pipeline, folder = sd
    kind, options = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(**tiny.betas | options)
    if steps == 16 and options.get("timestep_spacing") == "trailing" and kind == "DDIMScheduler":
        steps = 20  # theirs leaves the grid where the steps do not divide the table
    (tmp_path / "scheduler").mkdir()
    scheduler.save_pretrained(tmp_path / "scheduler")
    config = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    model = rv.load(folder)
    said = bridge.Scheduler(config)
    model = bridge.Pretrained(
        model.net, said.schedule, said.kind, model=model.model, scheduler=said, conditioner=model.conditioner, time=said.time, space=None
    )  # fmt: skip
    before, pipeline.scheduler = pipeline.scheduler, scheduler
    z = noise(2, 4, 8, 8)
    try:
        b = theirs(pipeline, tiny.texts, z, steps, 3.0, negative_prompt=["blurry"] * 2)
    finally:
        pipeline.scheduler = before
    scheduler.set_timesteps(steps)
    start = model.scheduler(steps)["grid"].points[0]
    x = z * float(scheduler.init_noise_sigma) * (start.alpha if kind == "EulerDiscreteScheduler" else 1.0)
    a = ours(model, model.conditioner(tiny.texts, negative="blurry"), x, steps, 3.0)
    if options.get("final_sigmas_type") == "sigma_min" and kind == "EulerDiscreteScheduler":
        a = a / model.scheduler(steps)["grid"].points[-1].alpha  # theirs ends on its own, variance-exploding scale
    assert close(a, b, 1e-4), (a - b).abs().max()
    assert not close(ours(model, model.conditioner(tiny.texts), x, steps, 3.0), b, 1e-3)  # without the negative text
    assert not close(
        ours(model, model.conditioner(tiny.texts, negative="blurry"), x, steps + 1 if steps == 16 else 4, 3.0), b, 1e-3
    )


def test_a_run_ends_as_the_same_pictures(sd, tiny):
    pipeline, folder = sd
    model, x = rv.load(folder), noise(2, 4, 8, 8)
    cond = model.conditioner(tiny.texts)
    with torch.no_grad():
        a = rv.sample(guide.cfg(model, 2.0), cond=cond, x=x, **model.scheduler(5))
    b = pipeline(tiny.texts, latents=x, guidance_scale=2.0, num_inference_steps=5, output_type="pt").images
    assert a.shape == (2, 3, 16, 16) and close((a / 2 + 0.5).clamp(0, 1), b, 1e-4) and b.std() > 0.05


def test_two_encoders_and_sizes(sdxl, tiny):
    pipeline, folder = sdxl
    model = rv.load(folder)
    assert isinstance(model.net, UNet) and set(model.conditions) == {"text", "vector"}
    x = noise(2, 4, 8, 8)
    for negative in (None, "blurry"):
        cond = model.conditioner(tiny.texts, negative=negative)
        b = theirs(pipeline, tiny.texts, x, 5, 3.0, negative_prompt=None if negative is None else [negative] * 2)
        assert close(ours(model, cond, x, 5, 3.0), b, 1e-4)
    small = cond["vector"]._replace(value=cond["vector"].value.clone().index_fill_(1, torch.arange(10, 34), 0.0))
    assert not close(ours(model, rv.Cond(text=cond["text"], vector=small), x, 5, 3.0), b, 1e-3)  # the sizes are read


def test_three_encoders_and_a_flow(sd3, tiny):
    pipeline, folder = sd3
    model = rv.load(folder)
    assert isinstance(model.net, MMDiT) and model.kind.name == "straight" and model.schedule == rv.core.schedules.Flow()
    x = noise(2, 4, 8, 8)
    for scale in (1.0, 3.0):
        cond = model.conditioner(tiny.texts, negative="blurry")
        b = theirs(pipeline, tiny.texts, x, 5, scale, negative_prompt=["blurry"] * 2)
        assert close(ours(model, cond, x, 5, scale), b, 1e-4)


def test_without_the_third_encoder(tiny, tmp_path):
    pipeline = tiny.build_sd3(tmp_path, third=False)
    pipeline.save_pretrained(tmp_path / "pipeline")
    model, x = rv.load(tmp_path / "pipeline"), noise(1, 4, 8, 8)
    b = theirs(pipeline, ["a red fox"], x, 4, 2.0)
    assert close(ours(model, model.conditioner("a red fox"), x, 4, 2.0), b, 1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_classes(tiny, tmp_path, tied):
    """A DiT as published embeds time and class once; one whose blocks differ is wrapped."""
    from diffusers import DDIMScheduler, DiTPipeline

    net = tiny.build_dit(tied)
    scheduler = DDIMScheduler(clip_sample=False, beta_end=0.02)
    pipeline = DiTPipeline(net, tiny.vae(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"  # as the published folders have it
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"id2label": {"0": "cat, tom", "1": "dog", "2": "fox"}})
    )
    model = rv.load(tmp_path / "pipeline")
    assert isinstance(model.net, DiT if tied else Foreign) and model.learned_variance
    cond = model.conditioner(["fox", "cat"])
    assert cond["label"].value.tolist() == [2, 0]
    with pytest.raises(InputError, match="Did you mean 'fox'"):
        model.conditioner("fix")
    b = pipeline(
        [2, 0], guidance_scale=2.0, num_inference_steps=4, generator=torch.manual_seed(5), output_type="np"
    ).images
    x = torch.randn(2, 4, 8, 8, generator=torch.manual_seed(5))
    with torch.no_grad():
        a = rv.sample(guide.cfg(model, 2.0), cond=cond, x=x, **model.scheduler(4))
    assert close((a / 2 + 0.5).clamp(0, 1), torch.from_numpy(b).permute(0, 3, 1, 2), 1e-4)


@pytest.mark.parametrize("kind", ["ours", "wrapped"])
def test_pictures_without_conditions(tiny, tmp_path, kind):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, resnet_time_scale_shift="default" if kind == "ours" else "scale_shift",
    )  # fmt: skip
    pipeline = DDIMPipeline(tiny.shaken(net), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "pipeline")
    model = rv.load(tmp_path / "pipeline")
    assert isinstance(model.net, UNet if kind == "ours" else Foreign)
    b = pipeline(2, generator=torch.manual_seed(5), num_inference_steps=5, output_type="np").images
    x = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(5))
    with torch.no_grad():
        a = rv.sample(model, x=x, **model.scheduler(5))
    assert close((a / 2 + 0.5).clamp(0, 1), torch.from_numpy(b).permute(0, 3, 1, 2), 1e-4)


def test_a_wrapped_network_is_tapped_guided_and_masked(tiny, tmp_path):
    """A U-Net that is not ours, with a channel-concatenated picture: 4 of 9 channels go in as a condition."""
    pipeline = tiny.build_sd(tmp_path, in_channels=9, mid_block_type="UNetMidBlock2DSimpleCrossAttn")
    pipeline.unet.save_pretrained(tmp_path / "pipeline" / "unet")
    pipeline.scheduler.save_pretrained(tmp_path / "pipeline" / "scheduler")
    model = rv.load(tmp_path / "pipeline" / "unet")
    assert isinstance(model.net, Foreign) and model.shape == (4, 8, 8) and set(model.conditions) == {"text", "image"}
    x, text, image = noise(2, 4, 8, 8), noise(2, 5, 12, seed=4), noise(2, 5, 8, 8, seed=6)
    cond = rv.Cond(text=text, image=image)
    with torch.no_grad():
        b = pipeline.unet(torch.cat([x, image], 1), 500, text).sample
        a = model(x, model.schedule.point(501 / 1000), cond)
        assert close(a.eps, b, 1e-5)
        longer = rv.Cond(text=text.index_fill(1, torch.tensor([4]), 9.0)[:1], image=image[:1]).cat(cond.index([1]))
        cut = rv.core.condition.Entry.of(longer["text"].value, torch.tensor([[True] * 4 + [False], [True] * 5]))
        masked = model(x, a.point, rv.Cond(text=cut, image=image)).eps
        alone = model(x[:1], a.point, rv.Cond(text=text[:1, :4], image=image[:1])).eps
        assert close(masked[:1], alone, 1e-5) and close(masked[1:], b[1:], 1e-5)  # what is padded is not read
        read = taps.features(guide.cfg(model, 2.0), ["mid_block", "skip.1"], x, a.point, cond)
    assert read["mid_block"].shape == (4, 32, 4, 4) and set(read) == {"mid_block", "skip.1"}
    site = next(site for site in taps.sites(model) if site.endswith("attn2"))
    told = []

    def look(q, k, v, at):
        told.append((at.site, at.branches, at.cross))
        return at.attend(q, k, v)

    changed = taps.replace(model, {"mid_block": lambda value, at: told.append((at.site, at.branches)) or value})
    with torch.no_grad():
        guide.cfg(taps.attention(changed, {site: look}), 2.0)(x, a.point, cond)
    assert told == [(site, ("null", "cond"), True), ("mid_block", ("null", "cond"))]


def test_ours_of_the_same_folder_has_sites_and_cross_attention(sd, tiny):
    _, folder = sd
    model = rv.load(folder)
    crosses = [site for site in taps.sites(model) if site.endswith(".cross")]
    cond, x, seen = model.conditioner("a red fox"), noise(1, 4, 8, 8), {}
    word = model.conditioner.words("a red fox")["fox"]

    def look(q, k, v, at):
        seen[at.site] = (at.cross, at.branches, at.probabilities(q, k)[..., list(word)].shape)
        return at.attend(q, k, v)

    with torch.no_grad():
        guide.cfg(taps.attention(model, {crosses[0]: look}), 2.0)(x, 0.5, cond)
    assert seen == {crosses[0]: (True, ("null", "cond"), (2, 4, 64, 1))}


def test_old_names_of_attention_are_understood(tiny, tmp_path):
    """Files of before diffusers 0.15 call the parts of attention query, key, value and proj_attn."""
    from safetensors.torch import load_file, save_file

    tiny.vae().save_pretrained(tmp_path / "vae")
    shutil.copytree(tmp_path / "vae", tmp_path / "old")
    file = tmp_path / "old" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(file).items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = value
    assert any("proj_attn" in name for name in state)
    save_file(state, file)
    pictures = noise(1, 3, 16, 16)
    assert torch.equal(rv.load(tmp_path / "old").encode(pictures), rv.load(tmp_path / "vae").encode(pictures))
