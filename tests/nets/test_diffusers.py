"""Our networks and diffusers' with the same random weights give the same outputs, and the weights come back unchanged."""

import pytest
import torch

from reverie.bridge import architecture, weights
from reverie.core.condition import Cond, Entry
from reverie.core.errors import RunError

from ..margin import apart

UNET = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
TEXT = UNET | {
    "in_channels": 4, "out_channels": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 24, "attention_head_dim": 4,
}  # fmt: skip
XL = TEXT | {
    "block_out_channels": (16, 32, 32), "layers_per_block": 2, "attention_head_dim": (1, 2, 2), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 3),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 8,
}  # fmt: skip
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 5,
}
SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 6,
}  # fmt: skip

CASES = {
    "ddpm": (
        "UNet2DModel",
        UNET | {"attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0},
    ),
    "unet": ("UNet2DModel", UNET | {"attention_head_dim": 8, "norm_eps": 1e-6, "num_class_embeds": 5}),
    "one-channel": (
        "UNet2DModel",
        UNET | {"in_channels": 1, "out_channels": 2, "attention_head_dim": 16, "layers_per_block": 2},
    ),
    "sd1": ("UNet2DConditionModel", TEXT),
    "sd2": ("UNet2DConditionModel", TEXT | {"attention_head_dim": (2, 4), "use_linear_projection": True}),
    "sdxl": ("UNet2DConditionModel", XL),
    "dit": ("DiTTransformer2DModel", DIT),
    "sd3": ("SD3Transformer2DModel", SD3),
    "sd3-norm": ("SD3Transformer2DModel", SD3 | {"qk_norm": "rms_norm"}),
}


def pair_of(name):
    """Their model with every parameter moved at random, ours with the same weights, and their configuration."""
    import diffusers

    kind, settings = CASES[name]
    torch.manual_seed(0)
    theirs = getattr(diffusers, kind)(**settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        if kind == "DiTTransformer2DModel":  # every block holds a copy of the embedding of time and class
            for block in theirs.transformer_blocks[1:]:
                block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    config = dict(theirs.config)
    ours = architecture.network(kind, config)
    assert ours is not None
    ours.load_state_dict(weights.to_ours(ours, config, theirs.state_dict()))
    return theirs, ours.eval(), config


def both(name, theirs, ours, batch=2):
    """Their output and ours for the same input."""
    channels, size = ours.channels, 8
    x, time = torch.randn(batch, channels, size, size), torch.tensor([801.0, 13.0])[:batch]
    given, cond = {}, {}
    if "label" in ours.conditions:
        label = torch.tensor([4, 1])[:batch]
        given, cond = {"class_labels": label}, {"label": label}
    if "text" in ours.conditions:
        text = torch.randn(batch, 7, ours.context)
        given["encoder_hidden_states"], cond["text"] = text, text
    if name == "sdxl":
        pooled, ids = torch.randn(batch, 8), torch.tensor([[8.0, 8, 0, 0, 8, 8]] * batch)
        given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        waves = theirs.add_time_proj(ids.flatten()).reshape(batch, -1)
        cond["vector"] = torch.cat([pooled, waves], dim=1)
    if name.startswith("sd3"):
        given["pooled_projections"] = cond["vector"] = torch.randn(batch, 10)
    with torch.no_grad():
        kinds = {"timestep": time} | given
        return theirs(x, **kinds).sample, ours(x, time / 1000, Cond(**cond))


@pytest.mark.parametrize("name", CASES)
def test_outputs_agree(name):
    theirs, ours, _ = pair_of(name)
    expected, actual = both(name, theirs, ours)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_counts(name):
    """A map that missed a tensor, or took one for another, would be seen: moving any of them moves the output."""
    theirs, ours, config = pair_of(name)
    torch.manual_seed(1)
    _, before = both(name, theirs, ours)
    for part in list(weights.parts(ours, config))[::7]:
        state = ours.state_dict()
        kept = state[part.ours].clone()
        state[part.ours] += 0.3 * torch.randn_like(kept)
        torch.manual_seed(1)
        assert apart(both(name, theirs, ours)[1], before) > 1e-4 or part.form == "padded", part.ours
        state[part.ours].copy_(kept)


@pytest.mark.parametrize("name", CASES)
def test_weights_come_back(name):
    theirs, ours, config = pair_of(name)
    back, expected = weights.to_theirs(ours, config), theirs.state_dict()
    assert set(back) == set(expected)
    assert all(torch.equal(back[key], expected[key]) for key in expected)
    assert {part.ours for part in weights.parts(ours, config)} == set(ours.state_dict())


def test_padding_and_absence_of_text():
    """Padding changes nothing; a text that is absent is one token of zeros."""
    theirs, ours, _ = pair_of("sd1")
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
    time, mask = torch.tensor(0.3), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out = ours(x, time, Cond(text=Entry.of(text, mask)))
    longer = Entry.of(
        torch.cat([text, torch.randn(2, 4, 24)], 1), torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], 1)
    )
    torch.testing.assert_close(ours(x, time, Cond(text=longer)), out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x[1:], time, Cond(text=text[1:, :3])), out[1:], rtol=1e-5, atol=1e-5)
    none = ours(x, time, None)
    torch.testing.assert_close(ours(x, time, Cond(text=text).null()), none, rtol=1e-5, atol=1e-5)
    assert apart(none, out) > 1e-2
    zeros = theirs(x, 300, torch.zeros(2, 1, 24)).sample
    torch.testing.assert_close(none, zeros, rtol=1e-5, atol=1e-5)


def test_what_is_not_ours_is_left_to_diffusers():
    import diffusers

    other = UNET | {"resnet_time_scale_shift": "scale_shift"}
    assert architecture.network("UNet2DModel", dict(diffusers.UNet2DModel(**other).config)) is None
    assert (
        architecture.network(
            "SD3Transformer2DModel", dict(CASES["sd3"][1]) | {"dual_attention_layers": (0,), "qk_norm": None}
        )
        is None
    )
    assert architecture.network("UNet1DModel", {}) is None


def test_weights_that_do_not_fit_are_refused_by_name():
    theirs, ours, config = pair_of("ddpm")
    state = theirs.state_dict()
    with pytest.raises(RunError, match="lack 'conv_in"):
        weights.to_ours(ours, config, {k: v for k, v in state.items() if k != "conv_in.weight"})
    with pytest.raises(RunError, match="'surplus'"):
        weights.to_ours(ours, config, state | {"surplus": torch.zeros(1)})
    with pytest.raises(RunError, match=r"'conv_in.bias' has shape \(3,\)"):
        weights.to_ours(ours, config, state | {"conv_in.bias": torch.zeros(3)})
    theirs, ours, config = pair_of("dit")
    state = theirs.state_dict()
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(RunError, match="differs"):
        weights.to_ours(ours, config, state | {name: state[name] + 1})
