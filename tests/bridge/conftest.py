"""Tiny pipelines that diffusers builds with random weights and saves."""

import json
from types import SimpleNamespace

import pytest
import torch

TEXTS = ["a red fox", "two blue birds on snow"]


def shaken(model, seed=1, scale=0.08):
    """The model with every parameter moved off its first value, so that nothing is zero or one by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def clip_tokenizer(folder):
    """A CLIP tokenizer over letters with a few merges."""
    from transformers import CLIPTokenizer

    letters = [chr(i) for i in range(97, 123)]
    merges = ["r e", "re d</w>", "f o", "fo x</w>", "b i", "bi r"]
    joined = [merge.replace(" ", "") for merge in merges]
    tokens = [*letters, *(f"{c}</w>" for c in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def t5_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(i), -3.0) for i in range(97, 123))]
    tokenizer = Tokenizer(models.Unigram(letters, unk_id=2))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=20)


def clip(width, vocabulary, projection=None, act="quick_gelu"):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2, vocab_size=vocabulary,
        max_position_embeddings=16, hidden_act=act, projection_dim=projection or width, bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1, pad_token_id=1,
    )  # fmt: skip
    return shaken((CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config), seed=width)


def vae(shift=None):
    from diffusers import AutoencoderKL

    return shaken(
        AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4, norm_num_groups=4, sample_size=16, scaling_factor=0.3, shift_factor=shift,
        )
    )  # fmt: skip


UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12, "attention_head_dim": 4,
}  # fmt: skip
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_sd(tmp, scheduler=None, **changes):
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer(tmp / "words")
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        unet=shaken(UNet2DConditionModel(**UNET | changes)), vae=vae(), tokenizer=tokenizer, text_encoder=clip(12, len(tokenizer)),
        scheduler=scheduler or DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_sdxl(tmp, **changes):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    one, two = clip_tokenizer(tmp / "one"), clip_tokenizer(tmp / "two")
    unet = UNET | {
        "cross_attention_dim": 12 + 16, "use_linear_projection": True, "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 4),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 10,
    }  # fmt: skip
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        unet=shaken(UNet2DConditionModel(**unet | changes)), vae=vae(), tokenizer=one, tokenizer_2=two, text_encoder=clip(12, len(one)),
        text_encoder_2=clip(16, len(two), projection=10, act="gelu"),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"), add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


MMDIT = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 40, "caption_projection_dim": 16, "pooled_projection_dim": 20, "pos_embed_max_size": 8,
}  # fmt: skip


def sd3_control(seed=7, **changes):
    """A ControlNet of such a pipeline's transformer, of two blocks."""
    from diffusers import SD3ControlNetModel

    return shaken(SD3ControlNetModel(**MMDIT | {"num_layers": 2} | changes), seed=seed)


def build_sd3(tmp, third=True, **changes):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    one, two, three = clip_tokenizer(tmp / "one"), clip_tokenizer(tmp / "two"), t5_tokenizer()
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(**MMDIT | {"num_layers": 2} | changes)
    t5 = T5EncoderModel(T5Config(d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=32))
    pipeline = StableDiffusion3Pipeline(
        transformer=shaken(transformer), vae=vae(0.2), tokenizer=one, tokenizer_2=two, tokenizer_3=three if third else None,
        text_encoder=clip(12, len(one), projection=12), text_encoder_2=clip(16, len(two), projection=8, act="gelu"),
        text_encoder_3=shaken(t5) if third else None, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_dit(tied=True):
    """A DiT as published embeds time and class once; without ``tied`` its blocks differ in that."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, num_embeds_ada_norm=1000
    )  # fmt: skip
    net = shaken(net)
    if tied:
        net.transformer_blocks[1].norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    return net


@pytest.fixture(scope="session")
def tiny():
    """What builds tiny pipelines."""
    return SimpleNamespace(
        build_sd=build_sd,
        build_sdxl=build_sdxl,
        build_sd3=build_sd3,
        build_dit=build_dit,
        sd3_control=sd3_control,
        shaken=shaken,
        vae=vae,
        texts=TEXTS,
        betas=BETAS,
    )


@pytest.fixture(scope="session")
def sd(tmp_path_factory):
    """A pipeline like Stable Diffusion 1 and its folder."""
    folder = tmp_path_factory.mktemp("sd")
    pipeline = build_sd(folder)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    pipeline = build_sdxl(folder)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"


@pytest.fixture(scope="session")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    pipeline = build_sd3(folder)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"
