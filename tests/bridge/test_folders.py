"""Folders as the world has them: flat, in half precision, in shards, with any scheduler; and configurations that others wrote."""

import inspect
import itertools
import json
import shutil

import pytest
import torch

import reverie as rv
from reverie import bridge
from reverie.bridge.foreign import Foreign
from reverie.core.errors import InputError, RunError
from reverie.core.paths import Table
from reverie.nets import UNet

WEIGHTS = "diffusion_pytorch_model.safetensors"


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def plain(tiny, **changes):
    """A small U-Net without texts."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return tiny.shaken(UNet2DModel(**config | changes))


@pytest.fixture(scope="module")
def ddpm(tiny, tmp_path_factory):
    """A network and the folder of its pipeline."""
    from diffusers import DDPMPipeline, DDPMScheduler

    folder, net = tmp_path_factory.mktemp("ddpm"), plain(tiny)
    DDPMPipeline(net, DDPMScheduler(clip_sample=False)).save_pretrained(folder)
    return net, folder


@pytest.fixture
def folder(sd, tmp_path):
    """A copy of a pipeline to change."""
    shutil.copytree(sd[1], tmp_path / "copy")
    return tmp_path / "copy"


def agrees(model, net, step=500, cond=None, **given):
    x = noise(2, *model.shape)
    with torch.no_grad():
        return close(model(x, model.schedule.point((step + 1) / 1000), cond).out, net(x, step, **given).sample)


def test_files_beside_the_index(ddpm, tmp_path):
    """As the first DDPM pipelines lie: what has no folder of its own is beside model_index.json."""
    net, folder = ddpm
    for file in ("model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"):
        shutil.copy(folder / file, tmp_path)
    model = rv.load(tmp_path)
    assert isinstance(model, bridge.Pretrained) and model.scheduler is not None and agrees(model, net)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        rv.load(tmp_path)


def test_half_precision_alone(sd, tiny, tmp_path):
    """A pipeline of files ….fp16.safetensors opens whole, text encoder and auto-encoder too."""
    from diffusers import StableDiffusionPipeline

    sd[0].save_pretrained(tmp_path / "p", variant="fp16")
    for file in (tmp_path / "p").rglob("*.fp16.safetensors"):
        halve(file)
    assert not list((tmp_path / "p").rglob("*l.safetensors"))
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "p", variant="fp16", safety_checker=None)
    assert next(rv.load(tmp_path / "p").net.parameters()).dtype == torch.float16
    model, pictures = bridge.load(tmp_path / "p", dtype=torch.float32), noise(1, 3, 16, 16)
    told = theirs.encode_prompt(tiny.texts, "cpu", 1, False)[0]
    assert torch.equal(model.conditioner(tiny.texts)["text"].value, told)
    assert agrees(model, theirs.unet, cond=rv.Cond(text=told), encoder_hidden_states=told)
    with torch.no_grad():
        assert close(model.space.encode(pictures), theirs.vae.encode(pictures).latent_dist.mean * 0.3)


def halve(file):
    from safetensors.torch import load_file, save_file

    save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})


def test_shards_of_a_variant(sd, folder):
    (folder / "unet" / WEIGHTS).unlink()
    sd[0].unet.save_pretrained(folder / "unet", variant="fp16", max_shard_size="30KB")
    text = noise(2, 5, 12)
    assert len(list((folder / "unet").glob("*.safetensors"))) > 3
    assert agrees(rv.load(folder), sd[0].unet, cond=rv.Cond(text=text), encoder_hidden_states=text)
    (folder / "unet" / f"{WEIGHTS}.index.fp16.json").unlink()
    with pytest.raises(RunError, match=r"unet lacks the index of its shards"):
        rv.load(folder)


def test_which_weights_are_taken(sd, folder):
    """The plain ones before any variant; of several variants none."""
    from safetensors.torch import load_file, save_file

    file, text = folder / "unet" / WEIGHTS, noise(2, 5, 12)
    zeros = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    save_file(zeros, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert agrees(rv.load(folder), sd[0].unet, cond=rv.Cond(text=text), encoder_hidden_states=text)
    file.rename(folder / "unet" / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(InputError, match="several variants, bf16, fp16"):
        rv.load(folder)


def test_a_text_encoder_that_lacks_weights(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    lost = state.pop(next(name for name in state if "q_proj.weight" in name))
    assert lost.numel()
    save_file(state, file, {"format": "pt"})
    with pytest.raises(RunError, match=r"text_encoder lack .*q_proj.weight"):
        rv.load(folder).conditioner("a")


# --- schedulers -------------------------------------------------------------------------------------------------------


def over_a_table():
    from diffusers import schedulers

    kinds = {
        name: getattr(schedulers, name)
        for name in dir(schedulers)
        if name.endswith("Scheduler") and "CogVideoX" not in name
    }
    return {name: kind for name, kind in kinds.items() if "beta_start" in inspect.signature(kind.__init__).parameters}


@pytest.mark.filterwarnings("ignore:__array")
@pytest.mark.parametrize("form", [None, "linear", "scaled_linear", "squaredcos_cap_v2"])
def test_every_scheduler_over_a_table(form):
    """What a file leaves out is as diffusers has it; CogVideoX's shift theirs."""
    kinds = over_a_table()
    assert len(kinds) > 18
    for name, kind in kinds.items():
        options = {} if form is None else {"beta_schedule": form}
        theirs = kind(**options).alphas_cumprod
        mine = bridge.Scheduler({"_class_name": name, **options}).schedule
        at = [0, 1, 10, 500, 990, 998]
        squares = torch.tensor([float(mine.alpha(mine.time(i))) ** 2 for i in at])
        assert torch.allclose(squares, theirs[at], rtol=1e-4), name


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep", "FlowMatchEulerDiscrete"])
def test_what_a_network_is_told(name):
    """The steps of a translated scheduler are the timesteps of diffusers, for any count, spacing, offset and σ."""
    import diffusers

    every = itertools.product((1000, 250, 300), (5, 16), ("linspace", "leading", "trailing"), (0, 1), (False, True))
    settings = itertools.islice(every, 0, None, 5)  # a step without a common divisor: all pairs of values
    compared = 0
    for count, steps, spacing, offset, karras in settings:
        options = {"num_train_timesteps": count, "timestep_spacing": spacing, "steps_offset": offset}
        if name.startswith("Flow"):
            options = {"num_train_timesteps": count, "shift": 1.0 + offset}
        else:
            options |= {"clip_sample": False} if name.startswith("DD") else {"use_karras_sigmas": karras}
        theirs = getattr(diffusers, f"{name}Scheduler")(**options)
        mine = bridge.Scheduler({**theirs.config, "_class_name": f"{name}Scheduler"})
        try:
            points = mine(steps)["grid"].points[:-1]
        except InputError:
            continue
        theirs.set_timesteps(steps)
        told = torch.tensor([1000.0 * (point.t if mine.time == "t" else mine.time(point)) for point in points])
        assert torch.allclose(told, theirs.timesteps.float(), atol=0.01), options
        compared += 1
    assert compared > 6


@pytest.mark.parametrize(
    "broken", [{"_class_name": "EDMEulerScheduler"}, {"prediction_type": "other"}, {"beta_start": "x"}]
)
def test_path_and_kind_by_hand(ddpm, tmp_path, broken):
    """Then no scheduler's file matters; over a table the network is told the index of the entry."""
    shutil.copytree(ddpm[1], tmp_path / "copy")
    change(tmp_path / "copy" / "scheduler" / "scheduler_config.json", **broken)
    table = Table.linear()
    assert agrees(bridge.load(tmp_path / "copy", schedule=table, kind="eps"), ddpm[0])
    (tmp_path / "copy" / "scheduler" / "scheduler_config.json").write_text("{")
    model = bridge.load(tmp_path / "copy", schedule=table, kind="eps")
    assert model.kind.name == "eps" and agrees(model, ddpm[0])


def test_nearer_to_data_than_the_table(ddpm):
    """At t = 0 a network is told its first step, never one below; inversion begins there."""
    net, folder = ddpm
    model, x = rv.load(folder), noise(2, 1, 8, 8)
    told = []
    model.net.register_forward_pre_hook(lambda module, given: told.append(given[1].flatten()))
    with torch.no_grad():
        for t in (0.0, 0.0004, torch.tensor([0.0, 0.5])):
            model(x, t)
        rv.invert(model, x, steps=5)
    times = 1000.0 * torch.cat(told)
    assert times[0] == times[1] == times[2] == 0.0 and close(times[3], torch.tensor(499.0))
    assert times.min() == 0.0 and len(times) >= 9
    with torch.no_grad():
        assert close(model(x, 0.0).out, net(x, 0).sample)


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
def test_networks_without_a_null_class(tiny, tmp_path, shift):
    """There is no trained row to be guided away from, unless one of the classes is it."""
    net = plain(tiny, num_class_embeds=3, resnet_time_scale_shift=shift)
    net.save_pretrained(tmp_path)
    model = bridge.load(tmp_path, schedule=Table.linear(), kind="eps")
    assert isinstance(model.net, UNet if shift == "default" else Foreign)
    x, cond = noise(2, 1, 8, 8), rv.Cond(label=[2, 0])
    assert agrees(model, net, cond=cond, class_labels=torch.tensor([2, 0]))
    for call in (
        lambda: model(x, 0.5),
        lambda: rv.guide.cfg(model, 2.0)(x, 0.5, cond),
        lambda: rv.sample(model, n=1, steps=2),
    ):
        with pytest.raises(InputError, match=r"a label in every sample: give label=, at guidance scale 1.*with_null"):
            call()
    with torch.no_grad():
        guided = rv.guide.cfg(model, 2.0)(
            x, model.schedule.point(501 / 1000), cond.with_null(label=torch.tensor([1]))
        ).out
        told, away = (net(x, 500, class_labels=torch.tensor(labels)).sample for labels in ([2, 0], [1, 1]))
    assert close(guided, away + 2.0 * (told - away))


@pytest.mark.parametrize("kind, width", [("timestep", 1), ("identity", 32)])
def test_embeddings_in_place_of_classes(tiny, tmp_path, kind, width):
    net = plain(tiny, class_embed_type=kind)
    net.save_pretrained(tmp_path)
    model = bridge.load(tmp_path, schedule=Table.linear(), kind="eps")
    assert {name: spec.dim for name, spec in model.conditions.items()} == {"vector": width}
    vector = 3.0 * noise(2, width, seed=5)
    given = vector[:, 0] if kind == "timestep" else vector
    assert agrees(model, net, cond=rv.Cond(vector=vector), class_labels=given)
    with pytest.raises(InputError, match="a vector in every sample"):
        model(noise(2, 1, 8, 8), 0.5)


# --- what others wrote ------------------------------------------------------------------------------------------------

STRANGE = [
    *(("unet", key, value) for key, value in (
        ("act_fn", "x"), ("act_fn", 3), ("attention_head_dim", -1), ("attention_head_dim", 0), ("block_out_channels", []),
        ("block_out_channels", "x"), ("block_out_channels", [16]), ("block_out_channels", [10**9, 10**9]), ("center_input_sample", 1),
        ("cross_attention_dim", 10**9), ("cross_attention_dim", {}), ("down_block_types", ["x", "y"]), ("down_block_types", [1, 2]),
        ("downsample_padding", 10**9), ("downsample_padding", None), ("dropout", float("nan")), ("dropout", "x"), ("freq_shift", []),
        ("freq_shift", 8), ("in_channels", 10**18), ("in_channels", True), ("layers_per_block", 10**9), ("layers_per_block", [10**9, 1]),
        ("layers_per_block", 0), ("mid_block_scale_factor", []), ("mid_block_type", "x"), ("norm_eps", None), ("norm_num_groups", 0),
        ("norm_num_groups", -1), ("norm_num_groups", 7), ("num_class_embeds", 10**12), ("out_channels", None), ("sample_size", 10**9),
        ("sample_size", "x"), ("sample_size", [8]), ("time_embedding_type", "x"), ("transformer_layers_per_block", 10**9),
        ("transformer_layers_per_block", [[10**9], 1]), ("up_block_types", []), ("_class_name", 3), ("class_embed_type", "x"),
        ("addition_embed_type", "x"), ("encoder_hid_dim_type", "x"),
    )),
    *(("vae", key, value) for key, value in (
        ("block_out_channels", [10**9]), ("latents_mean", [0.0] * 4), ("layers_per_block", 10**9), ("scaling_factor", 0.0),
        ("scaling_factor", "x"), ("scaling_factor", float("inf")), ("shift_factor", [1]), ("norm_num_groups", 0.5),
    )),
    *(("text_encoder", key, value) for key, value in (("num_hidden_layers", 10**9), ("num_hidden_layers", -1))),
    *(("scheduler", key, value) for key, value in (
        ("beta_end", None), ("beta_end", 2.0), ("beta_schedule", 3), ("beta_start", float("nan")), ("beta_start", "x"),
        ("num_train_timesteps", 10**9), ("num_train_timesteps", 0), ("num_train_timesteps", 10.5), ("num_train_timesteps", None),
        ("prediction_type", []), ("trained_betas", "x"), ("trained_betas", ["x"]), ("trained_betas", [0.5, 0.5]), ("trained_betas", 3),
        ("rescale_betas_zero_snr", "no"),
    )),
]  # fmt: skip


def test_strange_configurations(folder):
    """Each is refused by name at once; nothing of the size that it names is made."""
    for part, key, value in STRANGE:
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        good = file.read_text()
        change(file, **{key: value})
        with pytest.raises(InputError) as refused:
            rv.load(folder)
        message = str(refused.value)
        assert len(message) < 500 and "\n" not in message, (part, key, value, message)
        file.write_text(good)
    rv.load(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"steps_offset": -1}, {"steps_offset": 900}, {"steps_offset": "x"}, {"timestep_spacing": 3}, {"sigma_min": "x"},
        {"use_karras_sigmas": 3}, {"final_sigmas_type": 3}, {"interpolation_type": []},
    ],
)  # fmt: skip
def test_strange_options_of_sampling(options):
    said = {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "leading",
        "use_karras_sigmas": "sigma_min" in options,
    }
    with pytest.raises(InputError):
        bridge.Scheduler(said | options)(10)


def test_a_transformer_of_absurd_size(tiny, tmp_path):
    tiny.build_dit().save_pretrained(tmp_path)
    for key, value in (
        ("num_layers", 10**9),
        ("sample_size", 10**6),
        ("sample_size", [8, 8]),
        ("patch_size", 0),
        ("attention_head_dim", 10**9),
    ):
        good = (tmp_path / "config.json").read_text()
        change(tmp_path / "config.json", **{key: value})
        with pytest.raises(InputError, match=r"config|says"):
            bridge.load(tmp_path, schedule=Table.linear(), kind="eps")
        (tmp_path / "config.json").write_text(good)
