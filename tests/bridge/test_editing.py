"""Editing on a pipeline like Stable Diffusion, of random weights: words are aligned by its tokens, identities hold in latents."""

import math

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.edit import Inversion, inversion, masked, prompt_to_prompt, reconstruct, replay, words
from reverie.edit.branches import EDIT, SOURCE, attentions, changed_attention
from reverie.edit.prompt_to_prompt import Control
from reverie.edit.words import align
from reverie.solve import DDIM

from ..margin import apart


@pytest.fixture
def model(sd):
    return rv.load(sd[1])


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


@torch.no_grad()
def test_prompt_to_prompt_reads_the_words_of_the_tokenizer(model, tmp_path):
    x = picture()
    fox, bird = (model.conditioner(f"a red {word}") for word in ("fox", "bird"))
    source, target = (words(f"a red {word}", model.conditioner) for word in ("fox", "bird"))
    assert len(source[2].tokens) == 1 < len(target[2].tokens)
    alignment = align(source, target, length=16, replace=True)
    first, last = target[2].tokens[0], target[2].tokens[-1]
    assert alignment.mapper[source[2].tokens[0], first : last + 1].sum() == pytest.approx(1.0)
    assert (
        alignment.mapper[0, 0] == 1 and alignment.mapper[source[2].tokens[0] + 1, last + 1] == 1
    )  # the start and the end
    code = inversion.ode(model, x, fox, 3, DDIM(), scale=3.0)
    code.save(tmp_path / "fox.safetensors")
    code = Inversion.load(tmp_path / "fox.safetensors")
    edited = prompt_to_prompt(model, code, bird, alignment)
    assert edited.shape == x.shape and apart(edited, reconstruct(model, code, bird)) > 1e-4
    with pytest.raises(InputError, match="alignment is of 4 and"):
        prompt_to_prompt(model, code, bird, align(source, target, replace=True))
    control = Control(align(source, source, 16), None, math.inf, math.inf, 256, None, model.shape)
    alike = replay(code.guided(changed_attention(model, attentions(model), control)), code, {SOURCE: fox, EDIT: fox})
    assert torch.equal(alike[SOURCE], alike[EDIT])


def test_inversions_and_masks_in_latents(model):
    x, fox = picture(), model.conditioner("a red fox")
    exact = inversion.edit_friendly(model, x, fox, 4, scale=3.0)
    back, through = reconstruct(model, exact), model.space.decode(model.space.encode(x))
    assert apart(back, through) < 1e-3 < apart(reconstruct(model, exact, model.conditioner("two birds")), through)
    code = inversion.null_text(model, x, fox, 3, scale=3.0, iterations=2)
    assert code.nulls["text"].shape == (3, 1, 16, 12) and code.nulls["text"].isfinite().all()
    assert apart(reconstruct(model, code), reconstruct(model, code, model.conditioner("two birds"))) > 1e-5
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3:9, 5:12] = True
    with torch.no_grad():
        edited = masked(model, x, mask, fox, steps=3, scale=2.0)
    assert torch.equal(edited[..., ~mask], x[..., ~mask]) and apart(edited[..., mask], x[..., mask]) > 1e-2
