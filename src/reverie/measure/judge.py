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
from reverie.core.errors import InputError, nearest
from reverie.core.progress import track
from reverie.data import order
from reverie.data.images import ImageSet

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

    def __init__(self, name: str, classes: list[str], channels: int, size: int):
        super().__init__()
        self.name = f"judge-{name}"
        self.data, self.classes, self.channels, self.size = name, list(classes), channels, size
        levels = max(1, math.ceil(math.log2(size / 8)))
        widths = [WIDTHS[min(level, len(WIDTHS) - 1)] for level in range(levels + 1)]
        layers, side = [*_convolution(channels, widths[0])], size
        for before, width in pairwise(widths):
            layers += [*_convolution(before, width, stride=2), *_convolution(width, width)]
            side = (side + 1) // 2
        self.trunk = nn.Sequential(*layers)
        self.pool = nn.Conv2d(widths[-1], widths[-1], side, groups=widths[-1])
        self.project = nn.Sequential(nn.Linear(widths[-1], self.dim, bias=False), nn.BatchNorm1d(self.dim))
        self.head = nn.Linear(self.dim, len(classes))

    def forward(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 64"]:
        """The features of pictures in [-1, 1]."""
        self._check(images)
        chunks = [images] if self.training else images.split(CHUNK)
        return torch.cat([self.project(self.pool(self.trunk(chunk)).flatten(1)) for chunk in chunks])

    def features(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 64"]:
        """The features of pictures in [-1, 1]: the penultimate layer, before it is rectified."""
        return self(images)

    def logits(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Unnormalised log-probabilities of the classes for pictures in [-1, 1].

        Raises InputError for pictures of another shape or of an integer type.
        """
        return self.head(F.relu(self(images)))

    @torch.no_grad()
    def accuracy(self, images: ImageSet) -> float:
        """Fraction of a labelled set that is classified correctly."""
        pictures, labels = images.batch(range(len(images)))
        if labels is None:
            raise InputError(f"{images.name} has no labels to compare with; use a folder with one sub-folder a class.")
        return (self.logits(pictures).argmax(1) == labels).double().mean().item()

    def save(self, path: str | Path) -> None:
        """Write weights and metadata (data set, classes, channels, size, value range) to one safetensors file."""
        of = {"data": self.data, "classes": self.classes, "channels": self.channels, "size": self.size}
        tensors = {key: value for key, value in self.state_dict().items() if value.is_floating_point()}
        files.write_tensors(Path(path), tensors, {"what": "judge", **of, "range": [-1, 1]})

    def _check(self, images: Tensor) -> None:
        expected = (self.channels, self.size, self.size)
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
            f"{nearest(str(name_or_path), bundled)} Train one for your data with reverie.measure.judge.train."
        )
    try:
        with files.opened(path) as file:
            about = files.about(file, older="judge")
        weights = files.read_tensors(path)
        judge = Judge(about["data"], about["classes"], about["channels"], about["size"])
        missing, unexpected = judge.load_state_dict(weights, strict=False)
        if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
            raise KeyError("weights of another architecture")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a judge that can be read: {error}.") from error
    return judge.eval().requires_grad_(False)


def train(data: ImageSet, *, images: int = 240_000, batch: int = 100, seed: int = 0) -> Judge:
    """Train a judge on labelled pictures.

    AdamW under one cosine cycle, label smoothing 0.1, random distortions; the weights are averaged (EMA) over about the
    last tenth of the run.

    Args:
        data: the training split; labels are needed.
        images: how many distorted pictures it sees in all.
        batch: pictures per step.
        seed: of weights, order and distortions; the result is the same on the same machine kind and threads.

    Raises:
        InputError: if the data has no labels, or fewer than two classes.
    """
    if data.labels is None or len(data.classes) < 2:
        raise InputError(f"a judge learns to tell classes apart; {data.name} has {len(data.classes)}. Use sub-folders.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(data.name, data.classes, data.channels, data.size).train()
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=4e-3, weight_decay=0.02)
    steps = max(1, images // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1, pct_start=0.1)
    decay = 1 - min(1.0, 20 / steps)
    average = torch.optim.swa_utils.AveragedModel(
        judge, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    for step in track(range(steps), "training the judge", steps, "steps"):
        chosen = order.indices(seed, step * batch, batch, len(data))
        pictures = distort(data.batch(chosen)[0], rng)
        loss = F.cross_entropy(judge.logits(pictures), data.labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(judge)
    judge.load_state_dict(average.module.state_dict())
    return judge.eval().requires_grad_(False)


def distort(images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Each picture rotated (±15°), scaled (±15 % a side), sheared (±0.2), shifted (±8 %) and bent (an elastic field of
    4x4 random displacements, interpolated, standard deviation 4 % of the picture), border pixels repeated."""
    n, device = len(images), images.device

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * limit

    angle, shear = uniform(math.pi / 12), uniform(0.2)
    wide, high = 1 + uniform(0.15), 1 + uniform(0.15)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        wide * cos,
        wide * (shear * cos - sin),
        uniform(0.16),
        high * sin,
        high * (shear * sin + cos),
        uniform(0.16),
    ]
    matrix = torch.stack(rows, 1).view(n, 2, 3)
    bend = F.interpolate(torch.randn(n, 2, 4, 4, generator=rng) * 0.08, images.shape[2:], mode="bicubic")
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False) + bend.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid.to(device), mode="bilinear", padding_mode="border", align_corners=False)


def _convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
