"""DragonDiffusion (Mou et al. 2024, "DragonDiffusion: enabling drag-style manipulation on diffusion models"): move, resize and paste.

What is in one mask of the source is to be in another of the edit. Features of the network say how far that is so: an energy on their
cosines, differentiated in x_t, is added to the score, while the source runs along its stored inversion beside and its keys and values are
looked up. A mask may be of another size than the one it is filled from: the source's cells are stretched to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, grid_sample, interpolate

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.edit.branches import EDIT, SOURCE, START, attentions, changed_attention, late
from reverie.edit.inversion.record import Inversion
from reverie.edit.masactrl import Mutual
from reverie.edit.replay import replay
from reverie.guide.energy import Gradient
from reverie.guide.gradient import add_score, need_gradients, trace
from reverie.guide.pixels import as_mask, mask_of
from reverie.nets import taps

Weights = tuple[float, float, float]
"""Of what moves, of what stays, and of what is left behind."""


class Regions:
    """Where features are compared: boxes of the object in the source and in the edit, and the masks, (1, 1, H, W)."""

    def __init__(self, source: Tensor, edit: Tensor) -> None:
        self.source, self.edit = source, edit
        self.left = source * (1.0 - edit)
        self.kept = (1.0 - source) * (1.0 - edit)
        self.boxes = tuple(_box(mask) for mask in (source, edit))

    def energy(self, edit: Tensor, source: Tensor, weights: Weights) -> Tensor:
        """Of features (n, C, h, w), (n,): ``w/(1 + 4·mean cos)`` where cosines are wanted, and their mean where they are not."""
        here, kept, left = (
            interpolate(mask, edit.shape[2:], mode="area")[:, 0] for mask in (self.edit, self.kept, self.left)
        )
        moved = self._moved(source)

        def mean(other: Tensor, mask: Tensor) -> Tensor:
            cosine = 0.5 * (cosine_similarity(edit, other, dim=1) + 1.0)
            return (cosine * mask).sum((1, 2)) / mask.sum().clamp(min=1e-6)

        move, stay, leave = weights
        energy = move / (1.0 + 4.0 * mean(moved, here)) + stay / (1.0 + 4.0 * mean(source, kept))
        return energy + leave * mean(source, left)

    def _moved(self, features: Tensor) -> Tensor:
        """The source's features with its box brought to the edit's: the cell at the same share of the box."""
        (y, x, h, w), (to_y, to_x, to_h, to_w) = self.boxes
        rows, columns = features.shape[2:]
        at_y = (torch.arange(rows).to(features) + 0.5) / rows
        at_x = (torch.arange(columns).to(features) + 0.5) / columns
        at_y, at_x = y + (at_y - to_y) * h / to_h, x + (at_x - to_x) * w / to_w
        grid = torch.stack([at_x.expand(rows, columns), at_y[:, None].expand(rows, columns)], -1)
        grid = (2.0 * grid - 1.0).expand(len(features), -1, -1, -1)
        return grid_sample(features, grid, padding_mode="border", align_corners=False)


class Energetic(Gradient):
    """The energy's gradient in the edit's state, added to its score."""

    def __init__(
        self, base: Denoiser, sites: Sequence[str], regions: Regions, weights: Weights, scale: float, until: float
    ) -> None:
        super().__init__(base)
        self.places = taps.find(base, sites)
        self.regions, self.weights, self.scale, self.until = regions, weights, scale, until

    def energy(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> tuple[Estimate, Tensor]:
        """The base's estimate of both branches, and the energy of each picture, summed over sites."""
        seen: list[Tensor] = []

        def look(value: Tensor, at: taps.At) -> None:
            parts = at.split(value)
            for name in parts:
                if name.split("/")[0] == EDIT and not name.endswith("/null"):
                    source = parts[name.replace(EDIT, SOURCE, 1)].detach()
                    seen.append(self.regions.energy(parts[name], source, self.weights))

        call = (call or Call()).changed(taps.Edit(self.places, dict.fromkeys(self.places, look)))
        return self.base(x, point, cond, call), torch.stack(seen).sum(0)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point = self.point(t, x)
        if point.alpha == 0.0 or 2.0 * point.lam > self.until:
            return self.base(x, point, cond, call)
        energies: list[Tensor] = []

        def evaluate(x: Tensor) -> Estimate:
            estimate, energy = self.energy(x, point, cond, call)
            energies.append(energy)
            return estimate

        with torch.enable_grad():
            estimate = trace(evaluate, x)
            gradient = estimate.vjp(energies[0])
        mine = torch.cat([torch.zeros_like(part) if i == 0 else part for i, part in enumerate(gradient.chunk(2))])
        return add_score(estimate, -self.scale * mine)


def dragon(
    denoise: Denoiser,
    code: Inversion,
    source_mask: Tensor,
    mask: Tensor,
    *,
    sites: Sequence[str] | None = None,
    weights: Weights = (4.0, 6.0, 0.2),
    strength: float = 500.0,
    until: float = 4.0,
    start: float = START,
    scale: float | None = None,
    skip: int = 0,
) -> Tensor:
    """Move or resize what is in one mask to another.

    Args:
        denoise: the model, unguided; its network has attention.
        code: an inversion of the pictures.
        source_mask: 1 where the object is, (H, W) or (1, 1, H, W).
        mask: 1 where it is to be; of another size it is stretched.
        sites: whose features (n, C, h, w) are compared; by default the second and third blocks on the way up.
        weights: of what moves, of what stays, and of what is left behind.
        strength: of the energy's gradient, added to the score.
        until: logsnr up to which the energy acts.
        start: logsnr from which on the source's keys and values are looked up; inf for never.
        scale: of classifier-free guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: with gradients off, for masks of another size or empty, an inversion that does not fit, or a network without such sites.
    """
    need_gradients("dragon")
    code.check(denoise)
    masks = [mask_of(code.images[:, :1], as_mask(each))[:1].to(code.code) for each in (source_mask, mask)]
    if not all(bool(each.any()) for each in masks):
        raise InputError("a mask of the object is empty: say where it is and where it is to be")
    if sites is None:
        sites = [site for site in taps.sites(denoise) if site in ("up.0.1", "up.1.0")]
        if not sites:
            raise InputError(
                "dragon compares features (n, C, h, w) of a U-Net: name some of rv.taps.sites(denoise) as sites="
            )
    mutual = changed_attention(denoise, late(attentions(denoise)), Mutual(start, None, denoise.shape))
    guided = Energetic(code.guided(mutual, scale), sites, Regions(*masks), weights, strength, until)
    with torch.no_grad():
        return replay(guided, code.at(skip), {SOURCE: code.cond, EDIT: code.cond}, follow=code.second is None)[EDIT]


def _box(mask: Tensor) -> tuple[float, float, float, float]:
    """Top, left, height and width of where a mask (1, 1, H, W) is 1, in shares of the picture."""
    rows, columns = mask[0, 0].amax(1).nonzero(), mask[0, 0].amax(0).nonzero()
    h, w = mask.shape[2:]
    top, left = int(rows[0]), int(columns[0])
    return top / h, left / w, (int(rows[-1]) + 1 - top) / h, (int(columns[-1]) + 1 - left) / w
