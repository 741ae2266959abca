"""Text encoders of others, from a folder in transformers' format: CLIP, T5, MiniLM and others.

They stay as they are, so what they make of a data set's captions is made once and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.errors import InputError, RunError
from reverie.core.progress import track
from reverie.core.text import positions
from reverie.data.captions import Features

MODELS = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
"""Classes of text encoders by the type of a configuration; of any other it is AutoModel."""
MOST = 256
"""Tokens of a text where an encoder takes any number."""
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""Files of which a tokenizer has one at least; without any, transformers makes one that knows nothing."""
CHUNK = 64


class ForeignText:
    """A tokenizer and a text model of transformers; loaded when first used.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and the tokenizer's files.

    Raises:
        InputError: when there is no such folder, or no text encoder in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise InputError(
                f"no text encoder in {self.folder}: give a folder of transformers with config.json, model.safetensors and the files of a "
                "tokenizer, or bytes for our own"
            )
        transformers = _transformers()
        try:
            self.config: Any = transformers.AutoConfig.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # whatever transformers makes of a strange file
            raise InputError(f"{self.folder / 'config.json'} describes no text encoder: {error}") from error
        text = self.config.get_text_config()
        width = getattr(text, "hidden_size", None)
        if not isinstance(width, int):
            raise InputError(f"{self.folder / 'config.json'} describes no text encoder: it has no hidden_size")
        self.width = width
        self.most: int = getattr(text, "max_position_embeddings", None) or MOST
        self.device: torch.device | str | None = None
        self.dtype: torch.dtype | None = None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            InputError: when there is none, or it is of another model.
        """
        if not any((self.folder / name).is_file() for name in TOKENIZERS):
            raise InputError(
                f"no tokenizer in {self.folder}: put the files of the encoder's own there, such as {TOKENIZERS[0]}"
            )
        try:
            found = _transformers().AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # whatever transformers makes of strange files
            raise InputError(f"the tokenizer in {self.folder} could not be loaded: {error}") from error
        rows, known = self.config.get_text_config().vocab_size, len(found)
        if not 0.9 * rows <= known <= rows:
            raise InputError(
                f"the tokenizer in {self.folder} knows {known:,} tokens and the encoder {rows:,}: they are of different models; put the "
                "files of the encoder's own tokenizer there"
            )
        if found.pad_token is None:
            found.pad_token = found.eos_token or found.unk_token
        return found

    @cached_property
    def length(self) -> int:
        """The most tokens of a text."""
        return min(self.tokenizer.model_max_length, self.most)

    @cached_property
    def model(self) -> Any:
        """The text model, frozen.

        Raises:
            RunError: when the weights are missing, pickled or not those of its configuration.
        """
        transformers = _transformers()
        kind = getattr(transformers, MODELS.get(self.config.model_type, "AutoModel"))
        config = self.config.get_text_config() if self.config.model_type == "clip" else self.config
        try:
            model, found = kind.from_pretrained(
                self.folder, config=config, local_files_only=True, use_safetensors=True, dtype=self.dtype or torch.float32,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # whatever transformers makes of strange weights
            raise RunError(f"the weights of {self.folder} could not be loaded: {error}") from error
        if found["missing_keys"]:
            raise RunError(
                f"the weights of {self.folder} lack {sorted(found['missing_keys'])[0]!r}: the file is incomplete or of another model"
            )
        return model.to(device=self.device).eval().requires_grad_(False)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files of the folder: of the weights, their configuration and the tokenizer."""
        said = hashlib.sha256()
        for path in sorted(
            p for p in self.folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".txt", ".model")
        ):
            said.update(f"{path.name} {files.sha256(path)}".encode())
        return said.hexdigest()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The encoder itself, moved and cast; a model that is not loaded yet will be loaded so."""
        self.device, self.dtype = device or self.device, dtype or self.dtype
        if "model" in vars(self):
            self.model.to(device=device, dtype=dtype)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # frozen: a copy of a task needs none of its own

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The features of the last layer (B, L, width), L that of the longest text, and the mask (B, L), true at its tokens."""
        given = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        ids, mask = (given[key].to(self.model.device) for key in ("input_ids", "attention_mask"))
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text."""
        return [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        """The positions of each word of a text among its tokens."""
        given = self.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=self.length)
        special = set(self.tokenizer.all_special_ids)
        offsets = [
            None if i in special else at for at, i in zip(given["offset_mapping"], given["input_ids"], strict=True)
        ]
        return positions(text, offsets)

    def features(self, texts: Sequence[str], folder: Path) -> Features:
        """What it makes of texts, read from a file in ``folder``; made if it is not there.

        The file is named after the texts and the files of the encoder: another encoder or other texts make another file.

        Raises:
            RunError: when it cannot be written, or is damaged.
        """
        known = list(dict.fromkeys(texts))
        key = hashlib.sha256("\0".join([self.fingerprint, *known]).encode("utf-8", "surrogatepass")).hexdigest()
        path = Path(folder) / f"texts-{key[:32]}.safetensors"
        if not path.exists():
            rows: list[Tensor] = []
            for start in track(
                range(0, len(known), CHUNK), "encoding the captions", -(-len(known) // CHUNK), "batches"
            ):
                found, mask = self(known[start : start + CHUNK])
                rows += [row[real].float().cpu() for row, real in zip(found, mask, strict=True)]
            ends = torch.tensor([len(row) for row in rows]).cumsum(0)
            about = {"what": "texts", "encoder": self.folder.name}
            files.write_tensors(path, {"features": torch.cat(rows), "ends": ends}, about)
        try:
            found = files.read_tensors(path)
        except RunError as error:
            raise RunError(f"{error}. Remove it, and the captions are encoded again.") from error
        return Features({text: i for i, text in enumerate(known)}, found["features"], found["ends"])


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            "a text encoder from a folder takes transformers, which is not installed: pip install reverie[bridge]"
        ) from None
    return transformers
