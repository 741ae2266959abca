"""ControlNet folders of diffusers: the same residuals and the same steered U-Net, both ways, alone and two at once."""

import json
import shutil

import pytest
import torch

import reverie as rv
from reverie import bridge
from reverie.core.errors import InputError
from reverie.diffusion.control import control
from reverie.nets.controlnet import ControlNet


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def theirs(sd, tiny, tmp_path_factory):
    """A ControlNet of the tiny pipeline's U-Net, with random weights, and its folder."""
    from diffusers import ControlNetModel

    pipeline, _ = sd
    net = tiny.shaken(ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 12)), seed=7)
    folder = tmp_path_factory.mktemp("control") / "controlnet"
    net.save_pretrained(folder)
    return net, folder


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


STEP = 501


def test_a_folder_gives_the_same_residuals(sd, theirs, tiny):
    """To 1e-5, at every site; the control: at another hint or step they are others."""
    net, folder = theirs
    model, ours = rv.load(sd[1]), rv.load(folder)
    assert isinstance(ours, ControlNet) and ours.base is None and not any(p.requires_grad for p in ours.parameters())
    cond = model.conditioner(tiny.texts)
    x, hint = noise(2, 4, 8, 8), torch.rand(2, 3, 16, 16)

    def residuals(hint, step):
        with torch.no_grad():
            down, middle = net(x, step, cond["text"].value, controlnet_cond=hint, return_dict=False)
        return [*down, middle]

    with torch.no_grad():
        added = list(ours(x, torch.tensor(STEP / 1000), cond, hint).values())
    expected = residuals(hint, STEP)
    assert len(added) == len(expected) and all(close(a, b) for a, b in zip(added, expected, strict=True))
    assert not all(close(a, b, 1e-3) for a, b in zip(added, residuals(hint.flip(-1), STEP), strict=True))
    assert not all(close(a, b, 1e-3) for a, b in zip(added, residuals(hint, STEP + 50), strict=True))


def test_the_steered_unet_is_theirs(sd, theirs, tiny):
    """Two at once with weights: their residuals summed in their U-Net. The model's space says the size of a hint: twice the codes'."""
    (pipeline, folder), (net, there) = sd, theirs
    model, ours = rv.load(folder), rv.load(there)
    cond = model.conditioner(tiny.texts)
    x = noise(2, 4, 8, 8)
    one, two = torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16)
    steered = control(control(model, ours, one, 0.7), ours, two, 0.4)
    point = model.schedule.point((STEP + 1) / 1000)
    with torch.no_grad():
        out = steered(x, point, cond).eps
        each = [
            net(
                x,
                STEP,
                cond["text"].value,
                controlnet_cond=hint.expand(2, -1, -1, -1),
                conditioning_scale=weight,
                return_dict=False,
            )
            for hint, weight in ((one, 0.7), (two, 0.4))
        ]
        down = [a + b for a, b in zip(each[0][0], each[1][0], strict=True)]
        expected = pipeline.unet(
            x,
            STEP,
            cond["text"].value,
            down_block_additional_residuals=down,
            mid_block_additional_residual=each[0][1] + each[1][1],
        ).sample
        assert close(out, expected) and not close(out, model(x, point, cond).eps, 1e-3)


def test_ours_is_written_for_diffusers(sd, theirs, tiny, tmp_path):
    """One of ours on the pipeline's U-Net, its weights moved, and the one that was read, which comes back tensor for tensor."""
    from diffusers import ControlNetModel

    model = rv.load(sd[1])
    ours = tiny.shaken(ControlNet(model.net, 3, (16, 16), (8, 12)), seed=9)
    again = ControlNetModel.from_pretrained(bridge.write_controlnet(ours, model, tmp_path / "ours")).eval()
    cond, x, hint = model.conditioner(tiny.texts), noise(2, 4, 8, 8), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        down, middle = again(x, STEP, cond["text"].value, controlnet_cond=hint, return_dict=False)
        added = list(ours(x, torch.tensor(STEP / 1000), cond, hint).values())
    assert all(close(a, b) for a, b in zip(added, [*down, middle], strict=True))
    bridge.write_controlnet(rv.load(theirs[1]), model, tmp_path / "again")
    back = ControlNetModel.from_pretrained(tmp_path / "again").state_dict()
    assert back.keys() == theirs[0].state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in theirs[0].state_dict().items())
    with pytest.raises(InputError, match="exists: name a new folder"):
        bridge.write_controlnet(ours, model, tmp_path / "ours")


def test_what_has_no_translation_is_said(theirs, tmp_path):
    for change, part in (
        ({"global_pool_conditions": True}, "without translation"),
        ({"class_embed_type": "timestep"}, "do not fit|without translation"),
        ({"block_out_channels": [16, 48]}, "do not fit"),
    ):
        folder = tmp_path / next(iter(change))
        shutil.copytree(theirs[1], folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=part):
            rv.load(folder)
