"""The training loop. It knows players, images seen and a folder; the method is the task's.

A run that is killed at any moment and started again ends with bitwise the same weights as one left alone (same machine kind, threads
and number of processes): data, noise and learning rate are functions of the images seen, everything else is in the checkpoint.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reverie.core import bounds
from reverie.core.errors import InputError, RunError
from reverie.core.files import inside
from reverie.core.progress import Progress
from reverie.learn import grid, optim
from reverie.learn.checkpoint import Checkpoint, Checkpoints, quiet, warn
from reverie.learn.config import TrainConfig
from reverie.learn.draws import Draws
from reverie.learn.ema import Ema, half_life, power
from reverie.learn.feed import Feed
from reverie.learn.journal import Journal
from reverie.learn.runtime import Runtime
from reverie.learn.task import Batch, Moment, Player, Task


def train(
    task: Task,
    feed: Feed,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Train until ``config.images`` have been seen, from the latest checkpoint in ``folder`` if there is one.

    Ctrl-C and SIGTERM end it after the step that is under way, with a checkpoint.

    Args:
        task: what to train.
        feed: the data.
        config: the settings.
        folder: of the run; gets ``checkpoints/``, ``samples/`` and ``log.jsonl``.
        seed: of all randomness.
        metadata: for the header of the weight files.

    Returns:
        Images seen: fewer than ``config.images`` if it was interrupted.

    Raises:
        InputError: when the checkpoint is of another network.
        RunError: when a loss or gradient is not finite, or a file cannot be written.
    """
    trainer = _Trainer(task, feed, config, Path(folder), seed, dict(metadata or {}))
    with torch.random.fork_rng(), trainer.runtime.joined(), trainer.bar, _interrupts() as interrupted:
        try:
            trainer.run(interrupted)
        except OSError as error:
            raise RunError(
                f"training stopped at image {trainer.images:,}: {error}. {trainer.checkpoints.kept()}"
            ) from error
    return trainer.images


class _Trainer:
    def __init__(
        self, task: Task, feed: Feed, config: TrainConfig, folder: Path, seed: int, metadata: dict[str, str]
    ) -> None:
        bounds.check(config, lambda key: f"train.{key}")
        self.task, self.feed, self.config, self.folder = task, feed, config, folder
        self.seed, self.metadata, self.runtime = seed, metadata, Runtime.choose(config.device, config.bf16)
        self.modules = nn.ModuleDict({name: player.module for name, player in task.players.items()}).to(
            self.runtime.device
        )
        decay = power(config.ema_std) if config.ema_half_life is None else half_life(config.ema_half_life)
        averaged = {name: p.module for name, p in task.players.items() if p.optimizer is not None and p.average}
        self.emas = {name: Ema(module, decay) for name, module in averaged.items()}
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep, config.keep_every)
        self.step, self.images, self.seconds = 0, 0, 0.0
        latest = self.checkpoints.newest_whole(warn if self.runtime.main else quiet)
        if latest is not None:
            self.restore(latest)
        self.saved = self.images
        if self.runtime.main:
            folder.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(folder / "log.jsonl", self.images)
        self.bar = Progress("training", config.images, "images")
        self.bar.resume(self.images)
        self.recent: dict[str, list[float]] = {}

    def run(self, interrupted: threading.Event) -> None:
        config = self.config
        self.modules.train()
        while self.images < config.images:
            begun = time.perf_counter()
            before = self.images
            count = min(config.batch, config.images - before)
            now = Moment(self.step, before, config.images)
            stop = False
            for name, player in self.task.players.items():
                if player.optimizer is not None and self.step % player.every == 0:
                    stop |= self.move(name, player, count, now, interrupted)
            self.step, self.images = self.step + 1, before + count
            self.task.after_step(Moment(self.step, self.images, config.images))
            for ema in self.emas.values():
                ema.update(before, self.images)
            self.seconds += time.perf_counter() - begun
            if self.runtime.main:
                self.bar.advance(count, note=self.summary())
                self.write(before, stop)
            if stop:
                return

    def write(self, before: int, stop: bool) -> None:
        """What is due after a step that began at image ``before``: log, validation, samples, checkpoint."""
        config = self.config
        last = self.images == config.images
        if last or self.crossed(before, config.log_every):
            self.write_log()
        if last or self.crossed(before, config.validate_every):
            with self.averaged():
                if measures := self.task.validate():
                    self.journal.add(self.images, validation=measures)
        if last or self.crossed(before, config.sample_every):
            self.show()
        if last or stop or self.crossed(before, config.save_every):
            self.save()

    def move(self, name: str, player: Player, count: int, now: Moment, interrupted: threading.Event) -> bool:
        """One step of one player: gradients of the batch, part by part, then the optimizer. Returns whether to stop after it.

        Processes add up their gradients and losses, and stop together when one of them is interrupted.
        """
        assert player.optimizer is not None
        player.optimizer.zero_grad(set_to_none=True)
        rate = optim.set_rate(player.optimizer, optim.factor(self.config, now.images))
        first, mine = self.runtime.share(now.images, count)
        torch.manual_seed(
            Draws(self.seed, first, mine).key("layers")
        )  # of layers that draw by themselves, such as dropout
        size = self.config.micro_batch or mine
        sums: dict[str, float] = {}
        for start in range(first, first + mine, size):
            some = min(size, first + mine - start)
            batch, rng = self.runtime.place(self.feed(start, some)), Draws(self.seed, start, some)
            with self.runtime.autocast():
                parts = self.task.loss(name, batch, rng, now)
            shares = {
                part: value.sum() / count if value.ndim else value * (some / count) for part, value in parts.items()
            }
            for part, share in shares.items():
                sums[part] = sums.get(part, 0.0) + share.item()
                if not math.isfinite(sums[part]):
                    raise self.diverged(
                        f"the loss of {name}, part {part!r}, is {sums[part]}", rate, parts[part], batch, rng, now
                    )
            torch.stack(list(shares.values())).sum().backward()
        trained = [p for group in player.optimizer.param_groups for p in group["params"]]
        total = self.runtime.add_up(trained, {**sums, "interrupted": float(interrupted.is_set())})
        stop, sums = bool(total.pop("interrupted")), total
        norm = nn.utils.clip_grad_norm_(trained, self.config.clip or math.inf).item()
        if not math.isfinite(norm):
            raise self.diverged(
                f"the gradient norm of {name} is {norm} at loss {sum(sums.values()):.4g}", rate, None, batch, rng, now
            )
        player.optimizer.step()
        prefix = "" if len(self.task.players) == 1 else f"{name}."
        for key, value in {"loss": sum(sums.values()), **sums, "grad_norm": norm, "lr": rate}.items():
            self.recent.setdefault(prefix + key, []).append(value)
        return stop

    def crossed(self, before: int, every: int) -> bool:
        """Whether the step passed a multiple of ``every`` images."""
        return self.images // every > before // every

    def summary(self) -> str:
        return ", ".join(f"{key} {values[-1]:.4f}" for key, values in self.recent.items() if key.endswith("loss"))

    def write_log(self) -> None:
        """The mean of what happened since the last line."""
        if self.recent:
            means = {key: sum(values) / len(values) for key, values in self.recent.items()}
            self.journal.add(self.images, step=self.step, seconds=round(self.seconds, 3), **means)
            self.recent.clear()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the weights, without gradients."""
        with torch.no_grad(), ExitStack() as stack:
            for ema in self.emas.values():
                stack.enter_context(ema.applied())
            yield

    def show(self) -> None:
        with self.averaged():
            preview = self.task.preview()
        if preview is not None:
            try:
                grid.save(grid.tile(*preview), inside(self.folder, "samples", f"step-{self.step:08d}.png"))
            except RunError as error:
                raise RunError(f"{error}. {self.checkpoints.kept()}") from error

    def save(self) -> None:
        if self.saved == self.images:
            return
        self.write_log()
        averages = {name: self.emas.get(name, p.module).state_dict() for name, p in self.task.players.items()}
        tensors, scalars = optim.state(self.optimizers())
        self.checkpoints.save(
            self.step,
            {"model": self.modules.state_dict(), "ema": _joined(averages), "optimizer": tensors},
            {
                "images": self.images,
                "step": self.step,
                "seconds": round(self.seconds, 3),
                "optimizer": scalars,
                "threads": torch.get_num_threads(),
                "processes": self.runtime.world,
                "torch": torch.__version__,
            },
            self.metadata,
        )
        self.saved = self.images

    def restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        if state["threads"] != torch.get_num_threads():
            print(
                f"{checkpoint.folder.name} was made with {state['threads']} threads, this process has {torch.get_num_threads()}: "
                f"to end with the very same bits, set OMP_NUM_THREADS={state['threads']}",
                file=sys.stderr,
            )
        weights = checkpoint.tensors("model")
        try:
            self.modules.load_state_dict(weights)
        except RuntimeError as error:
            what = str(error).splitlines()[1].strip()
            raise InputError(f"{checkpoint.folder} holds the weights of another network: {what}") from error
        averages = checkpoint.tensors("ema")
        for name, ema in self.emas.items():
            ema.load_state_dict(_part(averages, name))
        optim.load_state(self.optimizers(), checkpoint.tensors("optimizer"), state["optimizer"])
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]

    def optimizers(self) -> dict[str, Optimizer]:
        return {name: player.optimizer for name, player in self.task.players.items() if player.optimizer is not None}

    def diverged(
        self, what: str, rate: float, values: Tensor | None, batch: Batch, rng: Draws, now: Moment
    ) -> RunError:
        """Why training cannot go on: what is not finite, where in the run, and which samples it came from."""
        facts = {key: value.cpu() for key, value in self.task.describe(batch, rng, now).items()}
        bad = torch.ones(len(batch.images), dtype=torch.bool)
        if values is not None and values.ndim:
            bad = ~values.detach().isfinite().cpu()
        where = "".join(f", {key} {f[bad].min():.3g} to {f[bad].max():.3g}" for key, f in facts.items() if bad.any())
        latest = self.checkpoints.newest_whole(quiet)
        good = "There is no checkpoint yet" if latest is None else f"The last good checkpoint is {latest.folder}"
        return RunError(
            f"training stopped at step {self.step}, image {now.images:,}: {what}, in {int(bad.sum())} of {len(bad)} samples{where}; "
            f"the learning rate was {rate:.3g}. {good}. Try a lower train.lr, a longer train.warmup, a smaller train.clip"
            f"{', or train.bf16 off' if self.config.bf16 else ''}."
        )


def _joined(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second Ctrl-C ends at once. Outside the main thread nothing is caught."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
