"""How fast features are read beside the bare forward pass to the same site, and how memory grows with the data.

python bench/read_speed.py    # wants an idle core
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

import reverie as rv
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Cosine
from reverie.nets import UNet, UNetConfig
from reverie.nets.layers import channels_last

SITE, BATCH, ROUNDS = "middle.1", 64, 9


def encoder(net: UNet, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The network's own forward pass as far as the site, written out by hand."""
    condition = net.conditioning(time, None, len(x))
    x = net.embed(channels_last(net.fold(x)))
    for stages in net.down:
        for block in stages:  # pyright: ignore[reportGeneralTypeIssues]
            x = block(x, condition)
    for block in net.middle:
        x = block(x, condition)
    return x


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()  # of the processor: others may use the machine
    work()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = UNet(
        UNetConfig(width=32, multipliers=(1, 2, 4), blocks=2, attention=(4,), patch=2), channels=3, size=32
    ).eval()
    denoise = NetDenoiser(net, Cosine(), "v", shape=(3, 32, 32))
    x = torch.rand(BATCH * 4, 3, 32, 32) * 2 - 1
    t = torch.tensor(0.1)

    @torch.no_grad()
    def bare() -> list[torch.Tensor]:
        return [encoder(net, part, t).mean((2, 3)) for part in x.split(BATCH)]

    def ours(noise: str) -> object:
        return rv.read.features(denoise, x, SITE, t=0.1, noise=noise, batch_size=BATCH)

    found = rv.read.features(denoise, x, SITE, t=0.1, noise=None, batch_size=BATCH)
    with torch.no_grad():
        alpha = denoise.schedule.alpha(0.1)
        torch.testing.assert_close(found, torch.cat([encoder(net, alpha * p, t).mean((2, 3)) for p in x.split(BATCH)]))
    for noise in ("shared", "fresh"):
        ratios = [seconds(bare) / seconds(lambda noise=noise: ours(noise)) for _ in range(ROUNDS)]
        spread = f"{ROUNDS} pairs, {min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{noise} noise: {statistics.median(ratios):.3f} of the speed of the bare forward pass to {SITE} ({spread})"
        )
    with tempfile.TemporaryDirectory() as folder:
        for n in (512, 2048):
            data = (torch.rand(1, 3, 32, 32) * 2 - 1).expand(n, -1, -1, -1)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            rv.read.features(denoise, data, ["down.0.0"], t=[0.1], pool=None, out=f"{folder}/{n}", shard=128)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            size = n * 32 * 16 * 16 * 4 / 2**20
            print(f"{n} pictures, {size:.0f} MB of maps to disk: peak memory grows by {grown / 1024:.0f} MB")


if __name__ == "__main__":
    main()
