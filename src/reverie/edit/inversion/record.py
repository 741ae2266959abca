"""An inversion as an object: all that an edit needs to come back to the picture, and to know whether it can.

A picture is inverted once and edited often, so an inversion is kept: the path, grid, solver, guidance and condition that made it, the
states on the way, and what the method stored beside them (noises, nulls, a second track). An edit that does not fit is refused with the
names of what differs: steps that do not match, another path or other weights give a wrong picture and no error anywhere else.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie import solve
from reverie.core.condition import Cond, Entry
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.files import read_about, read_tensors, write_tensors
from reverie.core.schedules import HostPoint, Point
from reverie.edit.guidance import NegativePrompt, guide
from reverie.solve.fast import network
from reverie.solve.plan import Solver

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Inversion:
    """What inverting pictures gave.

    Attributes:
        method: that made it.
        model: what it was made with, in words: path, shape, conditions, weights.
        solver: that decodes it.
        guidance: the scale it is decoded under.
        cond: of the pictures; None without.
        points: of the run, from noise to data.
        images: (n, C, H, W), as given.
        trajectory: (steps + 1, n, …), the states at the points.
        noises: (steps, n, …), what each decoding move draws; None for a deterministic one.
        nulls: (steps, n, …) by condition, the null of each move; empty for the model's own.
        second: (steps + 1, n, …), the other track of EDICT; None without.
    """

    method: str
    model: Mapping[str, str]
    solver: Solver
    guidance: float
    cond: Cond | None
    points: tuple[HostPoint, ...]
    images: Tensor
    trajectory: Tensor
    noises: Tensor | None = None
    nulls: Mapping[str, Tensor] = field(default_factory=dict)
    second: Tensor | None = None

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"Inversion({self.method}, {len(self)} pictures, {len(self.points) - 1} steps, guidance {self.guidance:g})"
        )

    @property
    def code(self) -> Tensor:
        """The noise, (n, …)."""
        return self.trajectory[0]

    def check(self, denoise: Denoiser) -> None:
        """Raise an :class:`InputError` that names what differs, unless the model is the one that the pictures were inverted with."""
        now = described(denoise)
        other = [f"{key}: {said} then, {now[key]} now" for key, said in self.model.items() if now[key] != said]
        if other:
            raise InputError(
                f"this inversion does not fit the model: {'; '.join(other)}. "
                "Invert the pictures again with this model, or edit with that one"
            )

    def guided(self, denoise: Denoiser, scale: float | None = None) -> Denoiser:
        """The model under the guidance that the inversion is decoded with, or another scale.

        Raises:
            InputError: for another scale than nulls were optimised for.
        """
        scale = self.guidance if scale is None else scale
        if self.nulls and scale != self.guidance:
            raise InputError(
                f"this inversion does not fit the edit: its nulls were optimised for guidance {self.guidance:g}, asked for {scale:g}. "
                f"Leave scale out, or invert again with scale={scale:g}"
            )
        if self.method == "negative_prompt" and self.cond is not None and scale != 1.0:
            return NegativePrompt(denoise, scale, self.cond)
        return guide(denoise, scale)

    def at(self, skip: int) -> "Inversion":
        """The inversion without the first ``skip`` moves from noise: what starts later keeps more of the picture.

        Raises:
            InputError: when no move is left.
        """
        steps = len(self.points) - 1
        if not 0 <= skip < steps:
            raise InputError(
                f"skip is how many of the {steps} moves from noise are left out, 0 to {steps - 1}: got {skip}"
            )
        if skip == 0:
            return self
        rest: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rest |= {"points": self.points[skip:], "trajectory": self.trajectory[skip:]}
        rest["noises"] = None if self.noises is None else self.noises[skip:]
        rest["nulls"] = {name: value[skip:] for name, value in self.nulls.items()}
        rest["second"] = None if self.second is None else self.second[skip:]
        return Inversion(**rest)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, with the rest as JSON in the header.

        Raises:
            RunError: when it cannot be written.
        """
        tensors = {"images": self.images, "trajectory": self.trajectory}
        tensors |= {f"nulls.{name}": value for name, value in self.nulls.items()}
        tensors |= {name: value for name in ("noises", "second") if (value := getattr(self, name)) is not None}
        for name in self.cond or ():
            entry = self.cond[name]  # pyright: ignore[reportOptionalSubscript]
            tensors |= {f"cond.{name}.{k}": v.clone() for k, v in entry._asdict().items() if v is not None}
        said = {
            "kind": "inversion",
            "format": FORMAT,
            "method": self.method,
            "model": dict(self.model),
            "solver": {"name": type(self.solver).__name__, "with": _settings(self.solver)},
            "guidance": self.guidance,
            "points": [list(point) for point in self.points],
        }
        write_tensors(Path(path), {name: value.detach().cpu() for name, value in tensors.items()}, said)

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: for a file of something else.
            RunError: when it is missing or damaged.
        """
        path = Path(path)
        said, tensors = read_about(path), read_tensors(path)
        if said.get("kind") != "inversion" or said.get("format") != FORMAT:
            raise InputError(f"{path} is no inversion: give a file that reverie invert or Inversion.save wrote")
        try:
            entries: dict[str, dict[str, Tensor | None]] = {}
            for key in [key for key in tensors if key.startswith("cond.")]:
                _, name, part = key.split(".")
                entries.setdefault(name, {"mask": None})[part] = tensors.pop(key)
            nulls = {k.removeprefix("nulls."): tensors.pop(k) for k in list(tensors) if k.startswith("nulls.")}
            return cls(
                method=str(said["method"]),
                model={str(k): str(v) for k, v in said["model"].items()},
                solver=_solver(**said["solver"]),
                guidance=float(said["guidance"]),
                cond=Cond(**{name: Entry(**entry) for name, entry in entries.items()}) if entries else None,  # pyright: ignore[reportArgumentType]
                points=tuple(Point(*map(float, point)) for point in said["points"]),
                nulls=nulls,
                **tensors,  # pyright: ignore[reportArgumentType]
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no inversion that this version reads: {error}") from error


def described(denoise: Denoiser) -> dict[str, str]:
    """What an inversion and an edit have to agree in, in words."""
    return {
        "path": repr(denoise.schedule),
        "shape": "x".join(map(str, denoise.shape)),
        "conditions": ", ".join(f"{name}: {spec}" for name, spec in denoise.conditions.items()) or "none",
        "weights": weights(denoise),
    }


def weights(denoise: Denoiser) -> str:
    """A digest of the first numbers of each of the network's parameters, "none" without a network."""
    net = network(denoise)
    if net is None:
        return "none"
    digest = hashlib.blake2b(digest_size=8)
    for name, value in net.named_parameters():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _settings(solver: Solver) -> dict[str, Any]:
    return {k: v for k, v in asdict(solver).items() if not isinstance(v, Tensor) and v is not None}  # pyright: ignore[reportArgumentType]


def _solver(name: str, **given: Any) -> Solver:
    """A solver from its name and its numbers: one of :mod:`reverie.solve`, or of an inversion."""
    from reverie.edit.inversion.edict import EDICT
    from reverie.edit.inversion.fixed_point import FixedPoint, Midpoint

    known = {each: getattr(solve, each) for each in solve.__all__}
    known |= {"EDICT": EDICT, "FixedPoint": FixedPoint, "Midpoint": Midpoint}
    if not isinstance(kind := known.get(name), type) or not hasattr(kind, "plan"):
        raise ValueError(f"it is decoded by a solver {name!r}, which is unknown")
    return kind(**given["with"])


def kept(images: Tensor) -> Tensor:
    """The pictures, as an inversion holds them: their own, not a view."""
    return torch.clone(images.detach())
