"""CLIP from a local folder of transformers, as a picture-text model.

Radford et al. 2021. Pictures are brought to CLIP's side and normalised by what ``preprocessor_config.json`` says, or as OpenAI's were.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.condition import Entry
from reverie.core.errors import InputError, RunError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of a channel in [0, 1]; OpenAI's."""


class CLIP:
    """A :class:`~reverie.measure.retrieval.PictureText` of transformers' ``CLIPModel``.

    Args:
        folder: with ``config.json``, the weights as safetensors, and the tokenizer.

    Raises:
        InputError: when there is no CLIP in the folder, or transformers is not installed.
        RunError: when transformers cannot load it.
    """

    data = ""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder).expanduser()
        if not is_clip(path):
            raise InputError(f"{path} holds no CLIP: it takes config.json with the model_type clip, and its weights")
        try:
            from transformers import CLIPModel, CLIPTokenizer
        except ImportError:
            raise InputError(
                "CLIP is opened by transformers, which is not installed: pip install reverie[bridge]"
            ) from None
        try:
            model: Any = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # whatever transformers makes of a strange folder
            raise RunError(f"the CLIP in {path} could not be loaded: {error}") from error
        self.model = model.eval().requires_grad_(False)
        self.name = f"clip-{path.resolve().name}"
        self.side: int = self.model.config.vision_config.image_size
        self.length: int = self.model.config.text_config.max_position_embeddings
        said = path / "preprocessor_config.json"
        about = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else {}
        self.mean, self.std = (
            torch.tensor(about.get(key, usual)).view(3, 1, 1)
            for key, usual in (("image_mean", MEAN), ("image_std", STD))
        )

    @property
    def seen(self) -> str:
        """The pictures it was trained on, in words: its folder does not say."""
        return "pictures that its folder does not name"

    def to(self, device: torch.device | str | None = None) -> Self:
        """Itself, moved."""
        self.model.to(device)
        return self

    def pictures(self, images: Tensor) -> Tensor:
        """Unit vectors (N, D) of pictures (N, 1 or 3, H, W) in [−1, 1], their shorter side brought to CLIP's, the middle cut out.

        Raises:
            InputError: for another number of channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(f"CLIP looks at pictures (N, 1 or 3, H, W): got {tuple(images.shape)}")
        height, width = images.shape[2:]
        share = self.side / min(height, width)
        size = (max(self.side, round(height * share)), max(self.side, round(width * share)))
        x = images.float().expand(-1, 3, -1, -1)
        if size != (height, width):
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1.0, 1.0)
        top, left = ((side - self.side) // 2 for side in size)
        x = x[:, :, top : top + self.side, left : left + self.side]
        x = ((x + 1.0) / 2.0 - self.mean.to(x)) / self.std.to(x)
        pooled = self.model.vision_model(pixel_values=x.to(self.model.device)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of texts; of a longer one as many tokens as CLIP takes, with a warning."""
        return F.normalize(self.model.text_projection(self._read(texts)[0].pooler_output), dim=1)

    def read(self, texts: Sequence[str]) -> Entry:
        """The features of the tokens of texts, (N, L, width), with which of them are real; else as :meth:`texts`."""
        out, mask = self._read(texts)
        return Entry.of(out.last_hidden_state, mask.bool())

    def _read(self, texts: Sequence[str]) -> tuple[Any, Tensor]:
        """What the text model gives, and which tokens are real (N, L)."""
        rows = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        ids, mask = rows.input_ids, rows.attention_mask
        if ids.shape[1] > self.length:
            warnings.warn(
                f"a text of {ids.shape[1]} tokens is longer than CLIP reads: the first {self.length} are kept",
                stacklevel=3,
            )
            rows = self.tokenizer(
                list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
            )
            ids, mask = rows.input_ids, rows.attention_mask
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        return self.model.text_model(input_ids=ids, attention_mask=mask), mask

    def logits(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """(N, M) of unit vectors (N, D) and (M, D), as CLIP scales them."""
        return self.model.logit_scale.exp() * pictures @ texts.T


def is_clip(folder: Path) -> bool:
    """Whether a folder says that a CLIP of transformers is in it."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "clip"
    except (OSError, ValueError, AttributeError):
        return False
