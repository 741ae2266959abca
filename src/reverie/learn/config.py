"""The settings of the loop. Cheap to import: the command line makes its flags from them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Every duration is a number of images seen.

    Attributes:
        images: images in all.
        batch: images a step of the optimizer.
        micro_batch: images a pass through the network, gradients of the others are accumulated; the whole batch by default.
        optimizer: AdamW, or Muon for the matrices with AdamW for the rest.
        lr: the highest learning rate.
        adam_lr: with Muon, the highest learning rate of what AdamW trains.
        weight_decay: decoupled weight decay.
        betas: of Adam.
        warmup: images over which the learning rate rises from 0.
        decay: how the learning rate falls after that.
        clip: largest norm of a player's gradient.
        ema_half_life: images in which the moving average forgets half of what it knew; None for the power-function average.
        ema_std: width of the power-function average relative to the training time (Karras et al. 2024), if there is no half-life.
        bf16: forward passes in bfloat16 where that is safe.
        log_every: images between lines of the log.
        validate_every: images between validations.
        sample_every: images between sample grids.
        save_every: images between checkpoints.
        keep: checkpoints to keep, the latest ones.
        keep_every: besides these, keep a checkpoint every so many images.
        device: cpu, cuda, …; auto takes the first accelerator there is.
        processes: processes on this machine that share each batch (under torchrun leave it at 1). Small networks learn
            nearly twice as fast in two processes of one thread as in one of two.
    """

    images: int = 500_000
    batch: int = 128
    micro_batch: int | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    adam_lr: float = 3e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 5_000
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    ema_half_life: int | None = None
    ema_std: float = 0.1
    bf16: bool = False
    log_every: int = 2_000
    validate_every: int = 50_000
    sample_every: int = 50_000
    save_every: int = 50_000
    keep: int = 2
    keep_every: int | None = None
    device: str = "auto"
    processes: int = 1
