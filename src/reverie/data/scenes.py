"""Made scenes: two things on a soft ground, each with a place, a colour and a shape, and a caption that says so.

What an edit should do to a scene is known exactly: the same scene with one thing changed, drawn again. Scene i of a seed is a function of
the two; its picture, of any size, is drawn with smooth edges from the distance to each outline.

    scene = scenes.draw(1, seed=0)[0]              # "a red circle left of a blue square"
    after = scene.changed(1, colour="green")       # the second thing green, all else as it was
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from reverie.core.errors import InputError, unknown
from reverie.data import pixels
from reverie.data.split import held_out

NAME = "scenes"
COUNT = 4000
"""Scenes of the data set."""
SIZE = 64
"""Its side in pixels where no other is asked for."""
COLOURS = {
    "red": (0.9, 0.15, 0.15),
    "yellow": (0.95, 0.85, 0.1),
    "green": (0.15, 0.7, 0.2),
    "cyan": (0.1, 0.8, 0.85),
    "blue": (0.15, 0.25, 0.9),
    "purple": (0.65, 0.15, 0.8),
}
"""Red, green and blue in [0, 1]."""
Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y = abs(x), abs(y)
    return np.minimum(np.maximum(x - r, y - r / 3), np.maximum(x - r / 3, y - r))


SHAPES: dict[str, Distance] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(abs(x), abs(y)) - r,
    "triangle": lambda x, y, r: np.maximum(y - r, (2 * abs(x) - y - r) / 5**0.5),
    "cross": _cross,
}
"""From places beside the middle, y downwards, and half the side of the square around: how far outside of the outline, below 0 inside."""
RELATIONS = ("left of", "above")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Args:
        colour: a name of :data:`COLOURS`.
        shape: a name of :data:`SHAPES`.
        at: (y, x) of its middle, in sides of the picture.
        radius: half its side, in sides of the picture.
    """

    colour: str
    shape: str
    at: tuple[float, float]
    radius: float

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    def mask(self, size: pixels.Size) -> np.ndarray:
        """How much of each pixel it covers, float64 (H, W) in [0, 1]."""
        (height, width), (y, x) = pixels.sides(size), self.at
        side = min(height, width)
        down, right = (np.arange(n)[:, None] + 0.5 - c * n for n, c in ((height, y), (width, x)))
        return np.clip(0.5 - SHAPES[self.shape](right.T, down, self.radius * side), 0.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """Two things on a ground.

    Args:
        things: the one that the caption names first, which lies left or above, and the other.
        relation: of :data:`RELATIONS`.
        ground: colours at both ends of the ground, each (3,) in [0, 1].
        angle: of the direction from one end to the other, in radians.
    """

    things: tuple[Thing, Thing]
    relation: str
    ground: tuple[tuple[float, float, float], tuple[float, float, float]]
    angle: float

    @property
    def caption(self) -> str:
        return f"a {self.things[0]} {self.relation} a {self.things[1]}"

    def changed(self, which: int, *, colour: str | None = None, shape: str | None = None) -> "Scene":
        """The scene with one thing of another colour or shape: what an edit of its caption should give.

        Args:
            which: 0 for the thing named first, 1 for the other.
            colour, shape: what it becomes; as it is without.

        Raises:
            InputError: for an unknown colour or shape.
        """
        for kind, given, known in (("colour", colour, COLOURS), ("shape", shape, SHAPES)):
            if given is not None and given not in known:
                raise unknown(kind, given, known)
        old = self.things[which]
        new = replace(old, colour=colour or old.colour, shape=shape or old.shape)
        first, second = self.things
        return replace(self, things=(new, second) if which == 0 else (first, new))

    def picture(self, size: pixels.Size = SIZE) -> np.ndarray:
        """The scene as uint8 (3, H, W)."""
        height, width = pixels.sides(size)
        down, right = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
        along = np.clip(np.sin(self.angle) * down[:, None] + np.cos(self.angle) * right + 0.5, 0.0, 1.0)
        one, other = (np.array(end)[:, None, None] for end in self.ground)
        image = one + (other - one) * along
        for thing in self.things:
            image += thing.mask(size) * (np.array(COLOURS[thing.colour])[:, None, None] - image)
        return np.rint(255.0 * image).astype(np.uint8)


def draw(n: int, seed: int = 0) -> list[Scene]:
    """The first ``n`` scenes of a seed.

    Raises:
        InputError: for a negative number or seed.
    """
    if n < 0 or seed < 0:
        raise InputError(f"scenes are drawn by a number and a seed of at least 0: got {n} and {seed}")
    return [_drawn(np.random.default_rng([seed, i])) for i in range(n)]


def _drawn(rng: np.random.Generator) -> Scene:
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    chosen = rng.choice(len(kinds), 2, replace=False)
    upright = bool(rng.integers(2))
    things = []
    for kind, low in zip(chosen, (0.2, 0.68), strict=True):
        along, across = rng.uniform(low, low + 0.12), rng.uniform(0.35, 0.65)
        at = (along, across) if upright else (across, along)
        colour, shape = kinds[kind]
        things.append(Thing(colour, shape, at, rng.uniform(0.13, 0.18)))
    ends = np.clip(rng.uniform(0.3, 0.9, (2, 1)) + rng.uniform(-0.1, 0.1, (2, 3)), 0.0, 1.0)
    ground = tuple(tuple(map(float, end)) for end in ends)
    return Scene((things[0], things[1]), RELATIONS[upright], ground, rng.uniform(0.0, 2.0 * np.pi))  # pyright: ignore[reportArgumentType]


@lru_cache(1)
def stored(size: pixels.Size) -> dict:
    """The data set, :data:`COUNT` scenes of seed 0, as :func:`reverie.data.load` takes it; a tenth is held out."""
    every = draw(COUNT)
    columns = {
        "caption": [scene.caption for scene in every],
        "first": [str(scene.things[0]) for scene in every],
        "second": [str(scene.things[1]) for scene in every],
        "relation": [scene.relation for scene in every],
    }
    return {
        "store": np.stack([scene.picture(size) for scene in every]),
        "labels": None,
        "held_out": np.array([held_out(f"{NAME}/{i}") for i in range(COUNT)]),
        "classes": [],
        "columns": columns,
        "text": "caption",
    }
