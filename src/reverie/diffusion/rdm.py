"""Retrieval-augmented diffusion: what is drawn is told by its neighbours in a database, so that another database draws other pictures.

Blattmann et al., "Semi-parametric neural image synthesis", NeurIPS 2022 (arXiv:2204.11824). φ maps pictures to unit vectors (a
picture-text model: then texts too). A picture x is learned under the k database vectors nearest to φ(x), as the sequence that
cross-attention reads (section 3.2); x itself is never among them. To draw, the k nearest to a query are taken: φ of a picture or a text, or
the vector of a picture of the database at random, which has itself for its first neighbour (section 3.3). The database is no weight: it is
swapped after training (section 4.3). The search is exact; faiss begins to pay beyond millions of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core import files
from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Tokens, Vector
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError, RunError
from reverie.core.generator import Frame, Generator
from reverie.core.noise import Seeds, Tape, listed, sample_seeds
from reverie.core.progress import track
from reverie.solve import Sampler

CHUNK = 256
Look = Callable[[Tensor], Tensor]
"""φ: pictures (B, C, H, W) in [−1, 1] -> vectors (B, D), on the CPU or where the pictures are."""


class Database:
    """Unit vectors of pictures, and their exact nearest neighbours.

    Args:
        vectors: (M, D), floating; they are normalised.
        name: of the pictures.
        by: the name of φ, which queries are to be made by.

    Raises:
        InputError: when there is none.
    """

    def __init__(self, vectors: Tensor, name: str = "", by: str = "") -> None:
        if vectors.ndim != 2 or not len(vectors):
            raise InputError(f"a database is of vectors (M, D), at least one: got {tuple(vectors.shape)}")
        self.vectors, self.name, self.by = F.normalize(vectors.detach().float().cpu(), dim=1), name, by

    @classmethod
    @torch.no_grad()
    def of(cls, data: Dataset, look: Look, by: str = "") -> Self:
        """That of a data set of pictures."""
        parts = range(0, len(data), CHUNK)
        found = [
            look(data.batch(range(i, min(i + CHUNK, len(data)))).x).cpu()
            for i in track(parts, "embedding the database", len(parts), "batches")
        ]
        return cls(torch.cat(found) if found else torch.zeros(0, 1), data.name, by)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.vectors.shape[1]

    def nearest(self, queries: Tensor, k: int, own: Tensor | None = None) -> Tensor:
        """The rows of the ``k`` vectors of greatest cosine with each query, the nearest first: (B, k) int64.

        Args:
            queries: (B, D).
            own: (B,) the row that each query is of, which is passed over.

        Raises:
            InputError: for vectors of another length, or a database of fewer.
        """
        if queries.shape[1:] != (self.dim,):
            raise InputError(
                f"the database {self.name} is of vectors of {self.dim} numbers{f', made by {self.by}' if self.by else ''}: a query is "
                f"(B, {self.dim}), got {tuple(queries.shape)}"
            )
        if k + (own is not None) > len(self):
            raise InputError(
                f"{k} neighbours in a database of {len(self)}: give a larger one, or train with fewer (--k)"
            )
        found = []
        for i in range(0, len(queries), CHUNK):
            cosine = queries[i : i + CHUNK].to(self.vectors) @ self.vectors.T
            if own is not None:
                cosine.scatter_(1, own[i : i + CHUNK, None], -torch.inf)
            found.append(cosine.topk(k, dim=1).indices)
        return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.int64)

    def neighbours(self, queries: Tensor, k: int) -> Tensor:
        """The ``k`` nearest vectors of each query, (B, k, D)."""
        return self.vectors[self.nearest(queries, k)]

    def save(self, path: Path) -> None:
        """Write it to a safetensors file."""
        files.write_tensors(path, {"vectors": self.vectors}, {"what": "database", "name": self.name, "by": self.by})

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            RunError: when there is none, or it is damaged.
        """
        with files.opened(path) as file:
            about = files.about(file)
            if about.get("what") != "database":
                raise RunError(f"{path} is damaged: it holds no database")
            return cls(file.get_tensor("vectors"), about["name"], about["by"])


class Retrieved(Around):
    """Pictures told by their neighbours: the condition "text" (B, k, D).

    Args:
        data: the pictures.
        database: where their neighbours are.
        queries: (N, D), φ of the pictures; None where these are the database's own, which are no neighbours of themselves.
        k: how many.
    """

    def __init__(self, data: Dataset, database: Database, queries: Tensor | None, k: int) -> None:
        super().__init__(data)
        self.database, self.k = database, k
        own = torch.arange(len(data)) if queries is None else None
        self.rows = database.nearest(database.vectors if queries is None else queries, k, own)

    @property
    def spec(self) -> DataSpec:
        spec = self.data.spec
        return DataSpec(spec.shape, {"text": Tokens(self.database.dim, self.k)}, (), spec.name, spec.range)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.data.batch(rows)
        return Batch(batch.x, Cond(text=self.database.vectors[self.rows[rows]]), batch.extra)


class RDM(Generator):
    """A denoiser with the database that tells it what to draw.

    Its condition is the "query" (B, D), φ of a picture or a text; without one, each sample is drawn by a picture of the database that its
    seed chooses.

    Args:
        denoise: takes neighbours as its condition "text", guided or not.
        database: of vectors of the length that these have.
        k: neighbours.
        how: solver, steps and grid, as of :class:`~reverie.solve.Sampler`.

    Raises:
        InputError: when the two do not fit.
    """

    def __init__(self, denoise: Denoiser, database: Database, k: int, **how: Any) -> None:
        told = denoise.conditions.get("text")
        if not isinstance(told, Tokens) or told.dim != database.dim or k > told.length:
            raise InputError(
                f"{k} neighbours of {database.dim} numbers are told to a network of at least so many tokens of that width: this one takes "
                f"{', '.join(f'{name} ({spec})' for name, spec in denoise.conditions.items()) or 'nothing'}"
            )
        self.denoise, self.database, self.k, self.how = denoise, database, k, how
        self.shape, self.conditions = denoise.space.data_shape(denoise.shape), {"query": Vector(database.dim)}

    @cached_property
    def sampler(self) -> Sampler:
        """What draws, told neighbours."""
        return Sampler(self.denoise, **self.how)

    def swapped(self, database: Database) -> RDM:
        """The same model with another database, made by the same φ.

        Raises:
            InputError: when it was made by another, or its vectors have another length.
        """
        if self.database.by and database.by and database.by != self.database.by:
            raise InputError(
                f"this model knows vectors made by {self.database.by}, the database {database.name} was made by {database.by}"
            )
        return RDM(self.denoise, database, self.k, **self.how)

    def queries(self, seeds: Seeds, n: int) -> Tensor:
        """Vectors of the database that the seeds choose, (n, D)."""
        uniform = torch.special.ndtr(Tape(sample_seeds(seeds, n), torch.float64).draw("query", 0, ()))
        return self.database.vectors[(uniform * len(self.database)).long().clamp(max=len(self.database) - 1)]

    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        if n is None:
            n = max(1 if cond is None else len(cond), len(seed) if listed(seed) else 1)  # pyright: ignore[reportArgumentType]
        if cond is not None:
            cond.check(self.conditions)
        queries = self.queries(seed, n) if cond is None or "query" not in cond else cond.expand(n)["query"].value
        told = Cond(text=self.database.neighbours(queries.cpu(), self.k).to(self.denoise.device))
        return self.sampler.sample(n, told, seed=seed, batch_size=batch_size, on_step=on_step)

    def settings(self) -> dict[str, Any]:
        return {**self.sampler.settings(), "database": self.database.name, "neighbours": self.k}

    def modules(self) -> Mapping[str, nn.Module]:
        net = getattr(self.denoise, "net", None)
        return {} if net is None else {"denoiser": net}
