"""The judge: a small classifier that says which class a picture shows, and whose penultimate layer is a feature space.

It shares nothing with the generator it judges: other weights, other architecture, trained apart. The bundled judge of
``mnist5k`` has seen its 4,000 training digits only, under random distortions (Simard et al., "Best practices for
convolutional neural networks applied to visual document analysis", ICDAR 2003).
"""

import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from reverie.core import files
from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.errors import InputError, nearest
from reverie.core.task import Moment, Player, Task

FOLDER = Path(__file__).parent / "judges"
WIDTHS = (16, 32, 64, 96, 128)
CHUNK = 250


class Judge(nn.Module):
    """A convolutional classifier of square pictures with 64 features.

    Two convolutions per level, each level half as large, until the sides have at most 8 pixels; then a learned
    weighting of the positions (a depthwise convolution as large as the picture), 64 normalised features, and one linear
    layer from their rectified values to the classes. A judge is a `FeatureExtractor`.
    """

    dim = 64

    def __init__(self, name: str, classes: list[str], channels: int, size: int | tuple[int, ...]):
        super().__init__()
        self.name = f"judge-{name}"
        self.data, self.classes, self.channels = name, list(classes), channels
        self.size: tuple[int, ...] = (size, size) if isinstance(size, int) else tuple(size)
        levels = max(1, math.ceil(math.log2(max(self.size) / 8)))
        widths = [WIDTHS[min(level, len(WIDTHS) - 1)] for level in range(levels + 1)]
        layers, sides = [*_convolution(channels, widths[0])], self.size
        for before, width in pairwise(widths):
            layers += [*_convolution(before, width, stride=2), *_convolution(width, width)]
            sides = tuple((side + 1) // 2 for side in sides)
        self.trunk = nn.Sequential(*layers)
        self.pool = nn.Conv2d(widths[-1], widths[-1], sides, groups=widths[-1])  # pyright: ignore[reportArgumentType]
        self.project = nn.Sequential(nn.Linear(widths[-1], self.dim, bias=False), nn.BatchNorm1d(self.dim))
        self.head = nn.Linear(self.dim, len(classes))

    def forward(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 64"]:
        """The features of pictures in [-1, 1]."""
        self._check_pictures(images)
        chunks = [images] if self.training else images.split(CHUNK)
        return torch.cat([self.project(self.pool(self.trunk(chunk)).flatten(1)) for chunk in chunks])

    def features(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 64"]:
        """The features of pictures in [-1, 1]: the penultimate layer, before it is rectified."""
        return self(images)

    def stages(self, images: Real[Tensor, "n c h w"]) -> list[Tensor]:
        """The feature maps (n, c', h', w') after each rectifier, of pictures in [-1, 1], for a perceptual loss."""
        self._check_pictures(images)
        found, x = [], images
        for layer in self.trunk:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    def logits(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Unnormalised log-probabilities of the classes for pictures in [-1, 1].

        Raises InputError for pictures of another shape or of an integer type.
        """
        return self.head(F.relu(self(images)))

    @torch.no_grad()
    def accuracy(self, images: Dataset) -> float:
        """Fraction of a labelled set that is classified correctly."""
        some = images.batch(range(len(images)))
        pictures, labels = some.x, some.label
        if labels is None:
            raise InputError(f"{images.name} has no labels to compare with; use a folder with one sub-folder a class.")
        return (self.logits(pictures).argmax(1) == labels).double().mean().item()

    def save(self, path: str | Path) -> None:
        """Write weights and metadata (data set, classes, channels, size, value range) to one safetensors file."""
        of = {"data": self.data, "classes": self.classes, "channels": self.channels, "size": list(self.size)}
        tensors = {key: value for key, value in self.state_dict().items() if value.is_floating_point()}
        files.write_tensors(Path(path), tensors, {"what": "judge", **of, "range": [-1, 1]})

    def _check_pictures(self, images: Tensor) -> None:
        expected = (self.channels, *self.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not images.is_floating_point():
            raise InputError(
                f"{self.name} judges floating-point pictures (N, {', '.join(map(str, expected))}) in [-1, 1]; "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )


def load(name_or_path: str | Path) -> Judge:
    """The bundled judge of a data set (``mnist5k``), or one that `Judge.save` wrote.

    Raises InputError if there is none, or the file is not a judge.
    """
    bundled = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    path = FOLDER / f"{name_or_path}.safetensors" if str(name_or_path) in bundled else Path(name_or_path)
    if not path.is_file():
        raise InputError(
            f"no judge {str(name_or_path)!r}: bundled are {', '.join(bundled)}, and there is no file {path.absolute()}."
            f"{nearest(str(name_or_path), bundled)} Train one for your data with `reverie judge`."
        )
    try:
        with files.opened(path) as file:
            about = files.about(file, older="judge")
        weights, size = files.read_tensors(path), about["size"]
        judge = Judge(
            about["data"], about["classes"], about["channels"], size if isinstance(size, int) else tuple(size)
        )
        missing, unexpected = judge.load_state_dict(weights, strict=False)
        if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
            raise KeyError("weights of another architecture")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a judge that can be read: {error}.") from error
    return judge.eval().requires_grad_(False)


class Judging(Task):
    """Cross-entropy with label smoothing on pictures that are distorted at random.

    Args:
        judge: what is trained; its moving average is what judges.
        held_out: pictures to validate on.
        smoothing: share of the label that is spread over all classes.
        distorted: whether pictures are distorted.
    """

    def __init__(self, judge: Judge, held_out: Dataset, *, smoothing: float = 0.1, distorted: bool = True) -> None:
        self.judge, self.held_out, self.smoothing, self.distorted = judge, held_out, smoothing, distorted
        self.players = {"judge": Player(judge)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        assert batch.label is not None
        x = distort(batch.x, rng) if self.distorted else batch.x
        logits = self.judge.logits(x)
        return {"entropy": F.cross_entropy(logits, batch.label, label_smoothing=self.smoothing, reduction="none")}

    def validate(self) -> dict[str, float | list[float]]:
        """Share of held-out pictures that are classified correctly."""
        return {"accuracy": self.judge.accuracy(self.held_out)} if len(self.held_out) else {}


def distort(images: Float[Tensor, "n c h w"], rng: Draws) -> Float[Tensor, "n c h w"]:
    """Each picture rotated (±15°), scaled (±15 % a side), sheared (±0.2), shifted (±8 %) and bent (an elastic field of
    4x4 random displacements, interpolated, standard deviation 4 % of the picture), border pixels repeated."""

    def uniform(stream: str, limit: float) -> Tensor:
        return ((rng.uniform(stream) * 2 - 1) * limit).to(images)

    angle, shear = uniform("angle", math.pi / 12), uniform("shear", 0.2)
    wide, high = 1 + uniform("wide", 0.15), 1 + uniform("high", 0.15)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        wide * cos,
        wide * (shear * cos - sin),
        uniform("right", 0.16),
        high * sin,
        high * (shear * sin + cos),
        uniform("down", 0.16),
    ]
    matrix = torch.stack(rows, 1).view(-1, 2, 3)
    bend = F.interpolate(rng.normal("bend", (2, 4, 4)).to(images) * 0.08, images.shape[2:], mode="bicubic")
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False) + bend.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
