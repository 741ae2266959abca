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


@pytest.fixture(scope="module")
def deep(tiny, tmp_path_factory):
    """A pipeline like Stable Diffusion 3 whose transformer has five blocks, and its folder."""
    folder = tmp_path_factory.mktemp("deep")
    pipeline = tiny.build_sd3(folder, num_layers=5)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"


@pytest.mark.parametrize("changes", [{}, {"qk_norm": "rms_norm", "num_layers": 3, "extra_conditioning_channels": 1}])
@pytest.mark.parametrize("bare", [True, False])
def test_a_folder_of_stable_diffusion_3_gives_the_same_residuals(changes, bare, deep, tiny, tmp_path):
    """Of each of its blocks, to 1e-5; bare, it is told zeros for the pooled vector. The controls: another hint, step, and other vector."""
    net = tiny.sd3_control(force_zeros_for_pooled_projection=bare, **changes)
    net.save_pretrained(tmp_path / "controlnet")
    model, ours = rv.load(deep[1]), rv.load(tmp_path / "controlnet")
    assert isinstance(ours, ControlNet) and ours.base is None and not any(p.requires_grad for p in ours.parameters())
    assert ours.channels == 3 + changes.get("extra_conditioning_channels", 0)
    cond = model.conditioner(tiny.texts)
    x, code = noise(2, 4, 8, 8), noise(2, 4 + ours.channels - 3, 8, 8, seed=4)

    def residuals(code, step, bare):
        vector = cond["vector"].value
        with torch.no_grad():
            return net(
                x, code, 1.0, cond["text"].value, torch.zeros_like(vector) if bare else vector, torch.full((2,), step), return_dict=False
            )[0]  # fmt: skip

    with torch.no_grad():
        added = list(ours(x, torch.tensor(STEP / 1000), cond, code).values())
    expected = residuals(code, float(STEP), bare)
    assert len(added) == len(expected) and all(close(a, b) for a, b in zip(added, expected, strict=True))
    for other in ((code.flip(-1), float(STEP), bare), (code, STEP + 50.0, bare), (code, float(STEP), not bare)):
        assert not all(close(a, b, 1e-3) for a, b in zip(added, residuals(*other), strict=True))


def test_the_steered_transformer_is_theirs(deep, tiny, tmp_path):
    """Two copied blocks serve the first four of five, and two such are summed with weights; the hint is coded by the model's space."""
    pipeline, folder = deep
    nets = [tiny.sd3_control(seed, force_zeros_for_pooled_projection=seed == 7) for seed in (7, 8)]
    for i, net in enumerate(nets):
        net.save_pretrained(tmp_path / f"{i}")
    model, ours = rv.load(folder), [rv.load(tmp_path / f"{i}") for i in range(2)]
    cond, x = model.conditioner(tiny.texts), noise(2, 4, 8, 8)
    hints = [torch.rand(n, 3, 16, 16, generator=torch.manual_seed(n)) for n in (2, 1)]
    steered = control(control(model, ours[0], hints[0], 0.7), ours[1], hints[1], 0.4)
    t = 0.5
    text, vector, step = cond["text"].value, cond["vector"].value, torch.full((2,), 1000 * t)

    def told(shifts):
        """Their transformer, the codes of the hints less so much."""
        vae, added = pipeline.vae, []
        for net, hint, weight, shift in zip(nets, hints, (0.7, 0.4), shifts, strict=True):
            code = (vae.encode(2 * hint - 1).latent_dist.mode() - shift) * vae.config.scaling_factor
            zeroed = vector * (not net.config.force_zeros_for_pooled_projection)
            added.append(net(x, code.expand(2, -1, -1, -1), weight, text, zeroed, step, return_dict=False)[0])
        sums = [a + b for a, b in zip(*added, strict=True)]
        return pipeline.transformer(x, text, vector, step, block_controlnet_hidden_states=sums).sample

    with torch.no_grad():
        out = steered(x, t, cond).out
        shift = pipeline.vae.config.shift_factor
        assert close(out, told((0.0, shift))) and not close(out, model(x, t, cond).out, 1e-3)
        assert not close(out, told((shift, 0.0)), 1e-4)
    with pytest.raises(InputError, match="steers an MM-DiT of ours of two blocks"):
        control(rv.load(tiny_unet(tiny, tmp_path)), ours[0], hints[1])


def tiny_unet(tiny, tmp):
    tiny.build_sd(tmp).save_pretrained(tmp / "sd")
    return tmp / "sd"


@pytest.mark.parametrize("bare", [True, False])
def test_ours_of_stable_diffusion_3_is_written_for_diffusers(bare, deep, tiny, tmp_path):
    """One of ours, its weights moved, and one that was read, which comes back tensor for tensor with its settings."""
    from diffusers import SD3ControlNetModel

    model = rv.load(deep[1])
    ours = tiny.shaken(ControlNet(model.net, 3), seed=9)
    ours.bare = bare
    again = SD3ControlNetModel.from_pretrained(bridge.write_controlnet(ours, model, tmp_path / "ours")).eval()
    assert again.config.num_layers == 2 and again.config.force_zeros_for_pooled_projection == bare
    cond, x, code = model.conditioner(tiny.texts), noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=4)
    with torch.no_grad():
        vector = cond["vector"].value * (not bare)
        expected = again(x, code, 1.0, cond["text"].value, vector, torch.full((2,), 500.0), return_dict=False)[0]
        added = list(ours(x, torch.tensor(0.5), cond, code).values())
    assert len(added) == 2 and all(close(a, b) for a, b in zip(added, expected, strict=True))

    net = tiny.sd3_control(extra_conditioning_channels=1, force_zeros_for_pooled_projection=bare)
    net.save_pretrained(tmp_path / "theirs")
    bridge.write_controlnet(rv.load(tmp_path / "theirs"), model, tmp_path / "again")
    back = SD3ControlNetModel.from_pretrained(tmp_path / "again")
    said = [json.loads(each.to_json_string()) for each in (back, net)]
    assert {key: v for key, v in said[0].items() if key[0] != "_"} == {
        key: v for key, v in said[1].items() if key[0] != "_"
    }
    assert back.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(back.state_dict()[name], value) for name, value in net.state_dict().items())
    with pytest.raises(InputError, match="a ControlNet of a MMDiT"):
        bridge.write_controlnet(ours, rv.load(tiny_unet(tiny, tmp_path)), tmp_path / "other")


@pytest.mark.parametrize("bare", [True, False])
def test_one_without_a_text(bare, deep, tiny, tmp_path):
    """As for Stable Diffusion 3.5 Large: blocks of the picture alone behind the transformer's own tokens. The same residuals, which no text
    moves, the same steered transformer, and the same folder again. The control: a transformer of other tokens gives others."""
    from diffusers import SD3ControlNetModel

    net = tiny.sd3_control(
        joint_attention_dim=None,
        use_pos_embed=False,
        pos_embed_type=None,
        num_layers=3,
        force_zeros_for_pooled_projection=bare,
    )
    net.save_pretrained(tmp_path / "controlnet")
    pipeline, folder = deep
    net.pos_embed = net._get_pos_embed_from_transformer(pipeline.transformer)
    net.save_pretrained(tmp_path / "saved by its pipeline")
    model, ours = rv.load(folder), rv.load(tmp_path / "controlnet")
    again = rv.load(tmp_path / "saved by its pipeline").state_dict()
    assert all(torch.equal(again[name], value) for name, value in ours.state_dict().items())

    cond, x, code = model.conditioner(tiny.texts), noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=4)
    vector, step = cond["vector"].value, torch.full((2,), float(STEP))
    with torch.no_grad():
        expected = net(x, code, 1.0, None, vector * (not bare), step, return_dict=False)[0]
        added = ours(x, torch.tensor(STEP / 1000), cond, code, model.net).values()
        mute = rv.Cond(text=cond["text"].map(lambda v: torch.zeros_like(v)), vector=cond["vector"])
        other = ours(x, torch.tensor(STEP / 1000), mute, code, model.net).values()
        assert len(added) == 3 and all(close(a, b) for a, b in zip(added, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(added, other, strict=True))
        strange = rv.load(folder).net
        strange.embed.weight.add_(0.1)
        moved = ours(x, torch.tensor(STEP / 1000), cond, code, strange).values()
        assert not any(close(a, b, 1e-3) for a, b in zip(moved, expected, strict=True))

        hint = torch.rand(2, 3, 16, 16)
        vae = pipeline.vae
        code = (
            vae.encode(2 * hint - 1).latent_dist.mode() - (0 if bare else vae.config.shift_factor)
        ) * vae.config.scaling_factor
        told = net(x, code, 0.7, None, vector * (not bare), step, return_dict=False)[0]
        text = cond["text"].value
        steered = pipeline.transformer(x, text, vector, step, block_controlnet_hidden_states=told).sample
        assert close(control(model, ours, hint, 0.7)(x, STEP / 1000, cond).out, steered)
        assert not close(model(x, STEP / 1000, cond).out, steered, 1e-3)

    back = SD3ControlNetModel.from_pretrained(bridge.write_controlnet(ours, model, tmp_path / "written"))
    assert back.config.joint_attention_dim is None and back.config.force_zeros_for_pooled_projection == bare
    kept = {name: value for name, value in net.state_dict().items() if not name.startswith("pos_embed.")}
    assert back.state_dict().keys() == kept.keys() and all(
        torch.equal(back.state_dict()[n], v) for n, v in kept.items()
    )
    with pytest.raises(InputError, match="begins with the tokens of the network that it steers"):
        ours(x, torch.tensor(0.5), cond, code)


def test_what_of_stable_diffusion_3_has_no_translation_is_said(tiny, tmp_path):
    for changes, part in (
        ({"use_pos_embed": False}, "without translation"),
        ({"pos_embed_type": None}, "without translation"),
        ({"dual_attention_layers": (0,)}, "without translation"),
        ({"joint_attention_dim": None}, "without translation"),
        ({"caption_projection_dim": 8, "joint_attention_dim": 8}, "without translation"),
    ):
        folder = tmp_path / next(iter(changes))
        tiny.sd3_control(**changes).save_pretrained(folder)
        with pytest.raises(InputError, match=part):
            rv.load(folder)
