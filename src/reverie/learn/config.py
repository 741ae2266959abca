"""The settings of the loop. Cheap to import: the command line makes its flags from them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from reverie.core.bounds import Bound

Count = Annotated[int, Bound(ge=1, le=10**12)]


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
        clip: largest norm of a player's gradient; 0 for no limit.
        ema_half_life: images in which the moving average forgets half of what it knew; None for the power-function average.
        ema_std: width of the power-function average relative to the training time (Karras et al. 2024), if there is no half-life.
        ema_profiles: widths of further power-function averages, snapshots of which are kept at every checkpoint: `reverie ema` makes an
            average of any width of them after training. None given, there are none.
        bf16: forward passes in bfloat16 where that is safe.
        on_nan: when a loss or gradient is not finite: stop, or rollback, go on from the last checkpoint at half the learning rate.
        log_every: images between lines of the log.
        validate_every: images between validations.
        sample_every: images between sample grids.
        save_every: images between checkpoints.
        keep: checkpoints to keep, the latest ones.
        keep_every: besides these, keep a checkpoint every so many images.
        device: cpu, cuda, …; auto takes the first accelerator there is.
        processes: processes on this machine that share each batch; under torchrun, those that it has started. Small networks learn
            nearly twice as fast in two processes of one thread as in one of two.
        shard: several processes each keep a part only of weights, averages and optimizer (FSDP2), for networks that are too large for one.
        workers: processes that read pictures ahead of each training process; 0 reads between the steps.
        tensorboard: also log to the folder tensorboard of the run, for TensorBoard (pip install reverie[tensorboard]).
    """

    images: Count = 500_000
    batch: Annotated[int, Bound(ge=1, le=10**6)] = 128
    micro_batch: Annotated[int, Bound(ge=1, le=10**6)] | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Bound(ge=0)] = 1e-3
    adam_lr: Annotated[float, Bound(ge=0)] = 3e-3
    weight_decay: Annotated[float, Bound(ge=0)] = 0.01
    betas: Annotated[tuple[float, float], Bound(ge=0, lt=1)] = (0.9, 0.99)
    warmup: Annotated[int, Bound(ge=0)] = 5_000
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: Annotated[float, Bound(ge=0)] = 1.0
    ema_half_life: Count | None = None
    ema_std: Annotated[float, Bound(ge=0.001, le=0.28)] = 0.1
    ema_profiles: Annotated[tuple[float, ...], Bound(ge=0.001, le=0.28)] = (0.05, 0.1)
    bf16: bool = False
    on_nan: Literal["stop", "rollback"] = "stop"
    log_every: Count = 2_000
    validate_every: Count = 50_000
    sample_every: Count = 50_000
    save_every: Count = 50_000
    keep: Count = 2
    keep_every: Count | None = None
    device: str = "auto"
    processes: Annotated[int, Bound(ge=1, le=1024)] = 1
    shard: bool = False
    workers: Annotated[int, Bound(ge=0, le=1024)] = 0
    tensorboard: bool = False
