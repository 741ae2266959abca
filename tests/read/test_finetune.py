"""Fine-tuning: the network learns what its frozen features do not say, and the denoiser stays as it was."""

import pytest
import torch

from reverie.core.errors import InputError
from reverie.read.probes import probe
from reverie.read.probes.finetune import finetune


def test_the_network_learns_with_its_head(unet):
    """Which of two stripes lies above: the mean over places of early features says little of it."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 2
    images = 0.3 * torch.randn(240, 1, 8, 8, generator=rng)
    row = torch.randint(0, 6, (240,), generator=rng)
    for i in range(240):
        images[i, 0, row[i]] += 0.8 if y[i] else -0.8
        images[i, 0, row[i] + 1] += -0.8 if y[i] else 0.8
    images = images.clamp(-1, 1)
    before = {key: value.clone() for key, value in unet.net.state_dict().items()}
    right = {}
    for name, lr in (("tuned", 3e-3), ("frozen", 0.0)):
        model = finetune(unet, images[:160], y[:160], site="down.0.0", t=0.05, epochs=12, batch=32, lr=3e-3, network_lr=lr)  # fmt: skip
        right[name] = probe.accuracy(model(images[160:]), y[160:])
    assert right["tuned"] > 0.85, right
    assert right["frozen"] < right["tuned"] - 0.15, right
    assert all(torch.equal(value, before[key]) for key, value in unet.net.state_dict().items())


def test_bad_input(unet):
    with pytest.raises(InputError, match="for 4 pictures"):
        finetune(unet, torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.long), site="down.0.0")
