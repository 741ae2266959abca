"""Re-ranking: of several pictures that were drawn for a text, the one that a picture-text model finds nearest to it.

Ramesh et al. 2021, "Zero-shot text-to-image generation" (DALL·E), section 2.6; 16 candidates: Yu et al. 2022 (Parti), section 2.3. The
model that chooses is not to be the one that measures: what it likes is what it is shown.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.conditioner import conditioner_of
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.noise import SampleSeed, Seeds, listed, sample_seeds
from reverie.measure.retrieval import CHUNK, PictureText
from reverie.solve.sampling import sample

CANDIDATES = 16
STRIDE = 2**40
"""Between the seeds of the candidates of a sample."""


def candidates(seeds: Sequence[SampleSeed], of: int) -> list[SampleSeed]:
    """The seeds of ``of`` candidates of each sample, one sample after the other; the first candidate is the sample itself."""
    return [(seed + j * STRIDE, i) for seed, i in seeds for j in range(of)]


@torch.no_grad()
def best(looks: PictureText, pictures: Tensor, texts: Sequence[str]) -> Tensor:
    """Which of the candidates (n, k, C, H, W) in [−1, 1] for each of n texts shows it best, (n,) int64; of equals the first."""
    vectors = torch.cat([looks.pictures(part).float() for part in pictures.flatten(0, 1).split(CHUNK)])
    said = looks.texts(texts).to(vectors)
    return (vectors.unflatten(0, pictures.shape[:2]) @ said[:, :, None])[..., 0].argmax(1)


def chosen(
    draw: Callable[[Cond | None, list[SampleSeed]], Tensor],
    cond: Cond | None,
    seeds: Sequence[SampleSeed],
    texts: Sequence[str],
    looks: PictureText,
    of: int,
) -> Tensor:
    """The best of ``of`` draws for each sample, (n, C, H, W).

    Args:
        draw: conditions and seeds of n·of samples to their pictures.
        cond, seeds, texts: of n samples.
        looks: the picture-text model.
        of: candidates of a sample, at least 1.

    Raises:
        InputError: for no candidates.
    """
    if of < 1:
        raise InputError(f"the best of candidates is chosen among 1 and more: got {of}")
    rows = torch.arange(len(seeds)).repeat_interleave(of)
    drawn = draw(None if cond is None else cond.index(rows), candidates(seeds, of)).unflatten(0, (len(seeds), of))
    return drawn[torch.arange(len(seeds)), best(looks, drawn, texts).to(drawn.device)]


def reranked(
    model: Denoiser | Generator,
    text: str | Sequence[str],
    looks: PictureText,
    *,
    n: int | None = None,
    of: int = CANDIDATES,
    negative: str | Sequence[str] | None = None,
    seed: Seeds = 0,
    **how: Any,
) -> Tensor:
    """Draw ``of`` pictures for each sample and keep the one that shows the text best.

    Args:
        model: what draws by text.
        text: what to draw, one for all or one a sample.
        looks: the picture-text model that chooses: a run of the task ``towers``, or a CLIP.
        n: how many; by default one for each text or seed.
        of: candidates of each; with 1 what :func:`reverie.sample` draws.
        negative, seed, how: as of :func:`reverie.sample`.

    Returns:
        (n, C, H, W) pictures.

    Raises:
        InputError: for a model that reads no texts, other numbers of texts than samples, or no candidates.
    """
    texts = [text] if isinstance(text, str) else list(text)
    count = n or max(len(texts), len(seed) if listed(seed) else 1)  # pyright: ignore[reportArgumentType]
    cond = conditioner_of(model)(text=texts, negative=negative).expand(count)
    seeds = sample_seeds(seed, count)

    def draw(cond: Cond | None, seeds: list[SampleSeed]) -> Tensor:
        return sample(model, len(seeds), cond, seed=seeds, **how)

    return chosen(draw, cond, seeds, texts * (count // len(texts)), looks, of)
