"""Text encoders of a pipeline: what latent diffusion is told.

Stable Diffusion 1 and 2 read the last layer of one CLIP (Rombach et al. 2022); XL the last but one of two, side by side, with the pooled
vector of the second and sizes (Podell et al. 2024, section 2.2), its refiner that of the second alone; 3 the last but one of two CLIPs,
padded, followed by T5, with both pooled vectors (Esser et al. 2024, section 4).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.func import functional_call

from reverie.bridge.building import plausible
from reverie.bridge.folder import Folder
from reverie.core.condition import Entry
from reverie.core.errors import RunError
from reverie.core.text import positions, warn_of_cut

TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
Form = Literal["sd", "sdxl", "sd3"]


class Encoder:
    """A tokenizer and a text model of a pipeline; loaded when first used.

    Raises:
        InputError: when they are of a class that is not known, or the weights are missing or pickled.
        RunError: when the weights are damaged.
    """

    def __init__(self, folder: Folder, number: int, length: int | None = None) -> None:
        suffix = "" if number == 1 else f"_{number}"
        self.folder, self.length = folder, length
        self.names = f"tokenizer{suffix}", f"text_encoder{suffix}"
        self.kinds = folder.class_of(self.names[0], TOKENIZERS), folder.class_of(self.names[1], ENCODERS)
        part = folder.part(self.names[1])
        plausible(part)
        self.variant = part.variant
        self.device: torch.device | str | None = None
        self.dtype: torch.dtype | None = None
        self.learned: list[Tensor] = []

    @cached_property
    def tokenizer(self) -> Any:
        return self._loaded(0)

    @cached_property
    def model(self) -> Any:
        """The text model.

        Raises:
            RunError: when the weights are not those of its configuration.
        """
        model, found = self._loaded(
            1, use_safetensors=True, variant=self.variant, dtype=self.dtype or "auto", output_loading_info=True
        )
        if found["missing_keys"]:
            raise RunError(
                f"the weights of {self.names[1]} lack {sorted(found['missing_keys'])[0]!r}: the file is incomplete or of another model"
            )
        return model.to(device=self.device).eval().requires_grad_(False)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The encoder itself, moved and cast; a model that is not loaded yet will be loaded so."""
        self.device, self.dtype = device or self.device, dtype or self.dtype
        if "model" in vars(self):
            self.model.to(device=device, dtype=dtype)
        return self

    def _loaded(self, which: int, **options: Any) -> Any:
        import transformers

        path = self.folder.path / self.names[which]
        try:
            return getattr(transformers, self.kinds[which]).from_pretrained(path, local_files_only=True, **options)
        except Exception as error:  # whatever transformers makes of a strange configuration
            raise RunError(f"{path} could not be loaded: {error}") from error

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """(B, L) token numbers, cut and padded to the length; of a text that is cut a warning says how much is kept."""
        length, texts = self.length or self.tokenizer.model_max_length, list(texts)
        warn_of_cut(texts, [len(each) for each in self.tokenizer(texts, verbose=False).input_ids], length)
        return self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    def __call__(self, texts: Sequence[str], layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Features (B, L, D) of a hidden layer, by default the normalised last one; and the model's first output, pooled if it projects."""
        asks = torch.is_grad_enabled() and any(row.requires_grad for row in self.learned)
        tokens = self.tokens(texts).to(self.model.device)
        with torch.set_grad_enabled(asks):
            out = functional_call(self.model, self._words(), (tokens,), {"output_hidden_states": layer is not None})
        return (out.last_hidden_state if layer is None else out.hidden_states[layer]), out[0]

    def _words(self) -> dict[str, Tensor]:
        """The table of words with those that were learned, by its name in the model; nothing without."""
        if not self.learned:
            return {}
        table = self.model.get_input_embeddings().weight
        name = next(name for name, p in self.model.named_parameters() if p is table)
        first, rows = len(self.tokenizer) - len(self.learned), torch.stack(self.learned).to(table)
        return {name: torch.cat([table[:first], rows, table[first + len(rows) :]])}

    def beginning(self, word: str) -> Tensor:
        """The mean of the rows of a word's tokens, (D,)."""
        numbers = self.tokenizer(word, add_special_tokens=False).input_ids
        return self.model.get_input_embeddings().weight[numbers].detach().float().mean(0)

    def spoken(self, rows: Mapping[str, Tensor]) -> Self:
        """The encoder with further words, each one token with its row; it shares the model."""
        tokenizer, _ = copy.deepcopy(self.tokenizer), self.model
        other = copy.copy(self)
        tokenizer.add_tokens(list(rows))
        other.tokenizer, other.learned = tokenizer, [*self.learned, *rows.values()]
        return other

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        """The positions of each word of a text."""
        given = self.tokenizer(
            text,
            return_offsets_mapping=True,
            truncation=True,
            max_length=self.length or self.tokenizer.model_max_length,
        )
        special = set(self.tokenizer.all_special_ids)
        each = zip(given["offset_mapping"], given["input_ids"], strict=True)
        return positions(text, [None if token in special else at for at, token in each])


def scored(folder: Folder) -> bool:
    """Whether a pipeline tells its network how beautiful the picture is to be, as XL's refiner does."""
    return bool(folder.index.get("requires_aesthetics_score", False))


class Texts:
    """The text encoders of one pipeline together, as the model was trained with them.

    Args:
        folder: the pipeline's.
        form: how the outputs of the encoders become conditions.
        width: features of a token, for "sd3".
        sizes: for "sdxl", what stands for the size of the picture, (2, D): the sinusoids of height, width, crop (top, left), height and
            width, or, of a refiner, a score of beauty, of what is asked and of what is led away from.
        length: tokens for T5, for "sd3".
    """

    def __init__(self, folder: Folder, form: Form, width: int, sizes: Tensor | None = None, length: int = 256) -> None:
        self.form, self.width, self.sizes, self.length = form, width, sizes, length
        self.scored = scored(folder)
        self.zeros = form == "sdxl" and bool(folder.index.get("force_zeros_for_empty_prompt", True))
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")[: {"sd": 1, "sdxl": 2, "sd3": 3}[form]]
        self.encoders = [
            Encoder(folder, i, length if i == 3 else None) for i, name in enumerate(names, 1) if folder.has(name)
        ]

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        """The entries "text" and, where the model takes it, "vector", each with its null."""
        asked = self._encode(texts)
        away = self._encode([""] if negative is None else negative)
        if negative is None and self.zeros:
            away = {name: torch.zeros_like(value) for name, value in away.items()}
        if self.sizes is not None:
            for each, sizes in zip((asked, away), self.sizes, strict=True):
                each["vector"] = torch.cat(
                    [each["vector"], sizes.expand(len(each["vector"]), -1).to(each["vector"])], dim=1
                )
        return {
            name: Entry.of(value)._replace(null=away[name].expand(len(value), *away[name].shape[1:]))
            for name, value in asked.items()
        }

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        return self.encoders[0].words(text)

    def beginning(self, word: str) -> Tensor:
        """The mean of the rows of a word's tokens, of all encoders one behind the other, (D,)."""
        return torch.cat([encoder.beginning(word) for encoder in self.encoders])

    def spoken(self, rows: Mapping[str, Tensor]) -> Self:
        """The encoders with further words, each by its rows as :meth:`beginning` gives them (textual inversion); the rest is shared."""
        other = copy.copy(self)
        widths = [encoder.model.get_input_embeddings().embedding_dim for encoder in self.encoders]
        parts = {word: row.split(widths) for word, row in rows.items()}
        other.encoders = [
            encoder.spoken({word: part[i] for word, part in parts.items()}) for i, encoder in enumerate(self.encoders)
        ]
        return other

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The encoders themselves, moved and cast."""
        for encoder in self.encoders:
            encoder.to(device, dtype)
        return self

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if self.form == "sd":
            return {"text": self.encoders[0](texts)[0]}
        outs = [encoder(texts, layer=-2) for encoder in self.encoders[:2]]
        features = torch.cat([out[0] for out in outs], dim=-1)
        if self.form == "sdxl":
            return {"text": features, "vector": outs[-1][1]}
        features = torch.nn.functional.pad(features, (0, self.width - features.shape[-1]))
        last = (
            self.encoders[2](texts)[0]
            if len(self.encoders) > 2
            else features.new_zeros(len(texts), self.length, self.width)
        )
        return {"text": torch.cat([features, last], dim=1), "vector": torch.cat([out[1] for out in outs], dim=1)}
