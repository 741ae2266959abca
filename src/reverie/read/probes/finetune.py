"""Fine-tuning: the network as far as one block becomes a classifier, and learns together with its head.

As in Xiang et al. 2023 (section 5) and Chen et al. 2024 (l-DAE, section 6): pictures enter at a fixed, small noise, the block's map is
averaged over places, and everything up to it is trained at a lower rate than the head.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.denoiser import NetDenoiser
from reverie.core.noise import Tape
from reverie.data import order
from reverie.learn.descend import descend
from reverie.read.extract import pooled
from reverie.read.maps import STREAM, check_images, level, maps, noisy
from reverie.read.probes.probe import check_labels


class Classifier(nn.Module):
    """A network up to ``site`` with a linear head; pictures (B, C, H, W) in [−1, 1] -> logits (B, classes).

    Args:
        denoise: where the network comes from; it is copied.
        site: the block that the head reads.
        t: the time that pictures enter at; without noise they enter as α·x0.
        classes: how many.
    """

    def __init__(self, denoise: NetDenoiser, site: str, t: float, classes: int) -> None:
        super().__init__()
        self.model = copy.copy(denoise)
        self.model.net = self.net = copy.deepcopy(denoise.net).requires_grad_(True)
        self.site, self.point = site, level(denoise, None, t)
        with torch.no_grad():
            blank = torch.zeros(1, *denoise.space.data_shape(denoise.shape), device=denoise.device)
            self.shape, width = denoise.space.encode(blank).shape[1:], self.features(blank).shape[1]
        self.head = nn.Linear(width, classes, device=denoise.device)

    def features(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        x_t = noisy(self.model.space.encode(images), self.point, noise)
        return pooled(maps(self.model, x_t, self.point, [self.site])[self.site], 1)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.head(self.features(images, noise))


def finetune(
    denoise: NetDenoiser,
    images: Tensor,
    labels: Tensor,
    *,
    site: str,
    t: float = 0.02,
    epochs: int = 30,
    batch: int = 64,
    lr: float = 1e-3,
    network_lr: float = 1e-4,
    seed: int = 0,
) -> Classifier:
    """A classifier from a denoiser: AdamW with cosine decay, fresh noise in every pass.

    Args:
        denoise: stays as it is.
        images: (N, C, H, W) in [−1, 1].
        labels: (N,) class numbers.
        site, t: what the head reads, and at which time.
        epochs, batch: of the training.
        lr, network_lr: of the head, and of the network; 0 trains the head alone.
        seed: of head, order and noise.

    Raises:
        InputError: for bad images, labels of another length, or an unknown site.
    """
    check_images(images, denoise.space.data_shape(denoise.shape))
    check_labels(images, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(denoise, site, t, int(labels.max()) + 1)
    groups = [{"params": model.head.parameters(), "lr": lr}, {"params": model.net.parameters(), "lr": network_lr}]
    batch, device = min(batch, len(labels)), denoise.device

    def loss(step: int) -> Tensor:
        rows = order.indices(seed, step * batch, batch, len(labels))
        noise = Tape([(seed, step * batch + i) for i in range(batch)]).draw(STREAM, 0, model.shape)
        return F.cross_entropy(model(images[rows].to(device), noise), labels[rows].to(device))

    descend(torch.optim.AdamW(groups), loss, max(1, epochs * len(labels) // batch), label="fine-tuning")
    return model.eval().requires_grad_(False)
