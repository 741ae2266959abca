"""Folders that are damaged, pickled or unknown, and options without translation: refused by name, and nothing of theirs runs."""

import json
import pickle
import shutil
import sys

import pytest

import reverie as rv
from reverie import bridge
from reverie.core.errors import InputError, RunError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(sd, tmp_path):
    """A copy to damage."""
    shutil.copytree(sd[1], tmp_path / "copy")
    return tmp_path / "copy"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(InputError, match=r"no run in .*/nowhere"):
        rv.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither model_index.json nor config.json"):
        bridge.load(tmp_path)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiff')
    with pytest.raises(RunError, match=r"model_index.json is damaged"):
        rv.load(folder)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(RunError, match="holds no JSON object"):
        rv.load(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="neither a unet nor a transformer"):
        rv.load(folder)


def test_damaged_weights(folder):
    for part, name in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors")):
        file = folder / part / name
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:20], b"", b"{" * 100):
            file.write_bytes(damaged)
            with pytest.raises(RunError, match=rf"{part}/{name} is damaged: .*Copy or download it again"):
                rv.load(folder)
        file.write_bytes(whole)
    rv.load(folder)
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(InputError, match="unet holds no weights"):
        rv.load(folder)


def test_shards(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "unet" / WEIGHTS)
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, folder / "unet" / file)
    (folder / "unet" / WEIGHTS).unlink()
    index = {name: file for file, part in halves.items() for name in part}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    rv.load(folder)
    (folder / "unet" / "b.safetensors").unlink()
    with pytest.raises(RunError, match=r"lacks b.safetensors"):
        rv.load(folder)


class Trap:
    """Running this would leave a mark."""

    def __reduce__(self):
        return (exec, ("import sys; sys.reverie_was_tricked = True",))


def test_nothing_is_unpickled_or_run(folder):
    trap = pickle.dumps(Trap())
    pickle.loads(trap)
    assert sys.reverie_was_tricked  # the trap works: a loader that unpickles would be caught
    del sys.reverie_was_tricked
    code = "import sys; sys.reverie_was_tricked = True\n"
    (folder / "pipeline.py").write_text(code)
    (folder / "unet" / "modeling.py").write_text(code)
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(trap)
    with pytest.raises(InputError, match=r"only as a pickle \(diffusion_pytorch_model.bin\)"):
        rv.load(folder)
    shutil.rmtree(folder / "text_encoder")
    assert not hasattr(sys, "reverie_was_tricked")


def test_a_pickled_text_encoder_is_refused(folder):
    (folder / "text_encoder" / "model.safetensors").unlink()
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="text_encoder holds its weights only as a pickle"):
        rv.load(folder)
    assert not hasattr(sys, "reverie_was_tricked")


def test_classes_from_elsewhere_are_refused(folder):
    change(folder / "model_index.json", text_encoder=["my_module", "Encoder"])
    with pytest.raises(InputError, match=r"'my_module.Encoder'; there is: transformers.CLIPTextModel"):
        rv.load(folder)
    change(folder / "unet" / "config.json", _class_name="UNet2DConditionModl")
    with pytest.raises(InputError, match="Did you mean 'UNet2DConditionModel'"):
        rv.load(folder)


def test_weights_of_another_model(folder):
    change(folder / "unet" / "config.json", block_out_channels=[16, 48])
    with pytest.raises((InputError, RunError), match="shape"):
        rv.load(folder)
    change(folder / "unet" / "config.json", block_out_channels=[16, 32], layers_per_block=2)
    with pytest.raises((InputError, RunError), match=r"lack|shape"):
        rv.load(folder)


def test_a_network_alone_must_be_told_its_path(folder):
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(InputError, match="nothing says what it was trained on"):
        rv.load(folder / "unet")
    model = bridge.load(folder / "unet", schedule=rv.core.schedules.Flow(), kind="flow")
    assert isinstance(model, bridge.Pretrained) and model.scheduler is None and model.kind.name == "flow"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("PNDMScheduler", {}, "has sampling, which has no translation"),
        ("DDIMScheduler", {"clip_sample": True}, "clip_sample = True"),
        ("DDIMScheduler", {}, "clip_sample"),
        (
            "DDIMScheduler",
            {"clip_sample": False, "timestep_spacing": "linspace"},
            "timestep_spacing = 'linspace'.*stride",
        ),
        ("DDIMScheduler", {"clip_sample": False, "thresholding": True}, "thresholding"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, r"solver_order = 3.*DPMpp\(order=3\)"),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "other"}, "final_sigmas_type"),
        ("EulerDiscreteScheduler", {"sigma_max": 20.0}, "sigma_max"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, "shift_terminal"),
    ],
)
def test_options_of_sampling_are_refused_by_name(name, options, message):
    scheduler = bridge.Scheduler({"_class_name": name, **options})
    assert scheduler.schedule.alpha(0.0) == 1.0  # the model can be used, with another solver
    with pytest.raises(InputError, match=message):
        scheduler(10)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"_class_name": "MyScheduler"}, "unknown scheduler 'MyScheduler'"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "other"}, "prediction_type = 'other'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ({"_class_name": "DDIMScheduler", "steps": 0}, None),
    ],
)
def test_options_of_training_are_refused_at_once(options, message):
    if message is None:
        with pytest.raises(InputError, match="at least 1"):
            bridge.Scheduler(options)(0)
        with pytest.raises(InputError, match="knows 1000 levels"):
            bridge.Scheduler(options)(1001)
        return
    with pytest.raises(InputError, match=message):
        _ = bridge.Scheduler(options).schedule
