"""The training loop. It knows players, images seen and a folder; the method is the task's.

A run that is killed at any moment and started again ends with bitwise the same weights as one left alone (same machine kind, threads
and number of processes): data, noise and learning rate are functions of the images seen, everything else is in the checkpoint.

No step waits for the device: losses and norms stay where they are computed until they are read back, all at once, at the cadence of the log
(or after a second), and always before weights are used or saved.
"""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reverie.core import bounds, memory
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError, RunError
from reverie.core.files import inside
from reverie.core.progress import Progress
from reverie.core.task import Moment, Task
from reverie.core.text import counted
from reverie.data import Loader
from reverie.learn import grid, optim
from reverie.learn.checkpoint import Checkpoint, Checkpoints, quiet, warn
from reverie.learn.config import TrainConfig
from reverie.learn.ema import half_life, power
from reverie.learn.interrupts import Interrupts
from reverie.learn.journal import Journal
from reverie.learn.runtime import Runtime
from reverie.learn.side import Side, sides

Feed = Loader | Callable[[int, int], Batch]
"""A loader; or any (start, count) -> the samples at positions ``start … start + count − 1`` of the run."""
PATIENCE = 1.0
"""Seconds after which figures are read back although the log is not due."""


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

    Ctrl-C and SIGTERM end it after the step that is under way, with a checkpoint; what is validated or drawn meanwhile is left, and made up
    for when training goes on.

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
    interrupted = Interrupts()
    with torch.random.fork_rng(), trainer.runtime.joined(), trainer.bar, interrupted.caught():
        try:
            trainer.run(interrupted)
            trainer.only(trainer.sides.values())
        except OSError as error:
            raise RunError(
                f"training stopped at image {trainer.images:,}: {error}. {trainer.checkpoints.kept()}"
            ) from error
    return trainer.images


@dataclass(frozen=True)
class _Turn:
    """What one turn of a player gave, on the device: the parts of its loss, their values by micro-batch, the norm of its gradient."""

    player: str
    number: int
    now: Moment
    rate: float
    sums: dict[str, Tensor]
    values: list[tuple[int, int, dict[str, Tensor]]]
    norm: Tensor


class _Trainer:
    def __init__(
        self, task: Task, feed: Feed, config: TrainConfig, folder: Path, seed: int, metadata: dict[str, str]
    ) -> None:
        bounds.check_bounds(config, lambda key: f"train.{key}")
        self.task, self.feed, self.config, self.folder = task, feed, config, folder
        self.seed, self.metadata, self.runtime = seed, metadata, Runtime.choose(config.device, config.bf16)
        decay = power(config.ema_std) if config.ema_half_life is None else half_life(config.ema_half_life)
        self.sides = sides(task, config, decay, self.runtime.device)
        self.stepped = [name for name, side in self.sides.items() if side.optimizer is not None]
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
        self.pending: list[_Turn] = []
        self.read_at = time.perf_counter()
        self.recent: dict[str, list[float]] = {}

    def run(self, interrupted: Interrupts) -> None:
        config = self.config
        for side in self.sides.values():
            side.player.module.train(side.player.train)
        if self.runtime.main and self.saved:
            self.look(self.images - config.batch, interrupted)
        with closing(self.stream()) as stream:
            while self.images < config.images:
                begun = time.perf_counter()
                before = self.images
                now = Moment(self.step, before, config.images)
                batches = [(start, next(stream)) for start, _ in self.pieces(before)]
                count = min(config.batch, config.images - before)
                stop = False
                for number, name in enumerate(self.task.turns(now)):
                    stop |= self.move(name, number, batches, count, now, interrupted)
                self.step, self.images = self.step + 1, before + count
                self.task.after_step(Moment(self.step, self.images, config.images))
                for side in self.sides.values():
                    if side.ema is not None:
                        side.ema.update(before, self.images)
                self.seconds += time.perf_counter() - begun
                if time.perf_counter() - self.read_at > PATIENCE:
                    self.read_back()
                if self.runtime.main:
                    self.bar.advance(count, note=self.summary())
                    self.write(before, stop, interrupted)
                elif self.crossed(before, config.log_every):
                    self.read_back()
                if stop or (interrupted.heard and self.runtime.world == 1):
                    self.save()
                    return

    def pieces(self, images: int) -> list[tuple[int, int]]:
        """What this process reads for the step that begins after so many images: (start, count) of each micro-batch."""
        first, mine = self.runtime.shard(images, min(self.config.batch, self.config.images - images))
        size = self.config.micro_batch or mine
        return [(start, min(size, first + mine - start)) for start in range(first, first + mine, size)]

    def stream(self) -> Generator[Batch]:
        """The micro-batches from here to the end of the run, on the device."""
        steps = range(self.images, self.config.images, self.config.batch)
        pieces = (piece for images in steps for piece in self.pieces(images))
        if isinstance(self.feed, Loader):
            yield from self.feed.stream(pieces, self.runtime.device)
        else:
            yield from (self.feed(*piece).to(self.runtime.device) for piece in pieces)

    def write(self, before: int, stop: bool, interrupted: Interrupts) -> None:
        """What is due after a step that began at image ``before``: log, checkpoint, validation, samples."""
        config = self.config
        last = self.images == config.images
        if last or self.crossed(before, config.log_every):
            self.write_log()
        if last or self.crossed(before, config.save_every):
            self.save()
        if not (stop or interrupted.heard):
            self.look(before, interrupted)

    def look(self, before: int, interrupted: Interrupts) -> None:
        """Validate and show, where that is due and not done; an interrupt ends it at once."""
        config = self.config
        last = self.images == config.images
        with interrupted.breaking():
            if (last or self.crossed(before, config.validate_every)) and self.journal.validated < self.images:
                with self.averaged():
                    if measures := self.task.validate():
                        self.journal.add(self.images, validation=measures)
            if (last or self.crossed(before, config.sample_every)) and not self.shown.exists():
                self.show()

    def move(
        self,
        name: str,
        number: int,
        batches: Sequence[tuple[int, Batch]],
        count: int,
        now: Moment,
        interrupted: Interrupts,
    ) -> bool:
        """One turn of one player: gradients of the batch, part by part, then the optimizers. Returns whether to stop after the step.

        Processes add up their gradients and losses, and stop together when one of them is interrupted.
        """
        side = self.sides[name]
        moved = [side, *(self.sides[other] for other in side.along)]
        self.only(moved)
        factor = optim.factor(self.config, now.images)
        rate, *_ = [s.begin(factor) for s in moved]
        trained = [p for s in moved for p in s.trained]
        torch.manual_seed(
            Draws(self.seed, batches[0][0], 1, number).key("layers")
        )  # of layers that draw by themselves, such as dropout
        sums: dict[str, Tensor] = {}
        values = []
        for start, batch in batches:
            rng = Draws(self.seed, start, len(batch), number)
            with self.runtime.autocast():
                parts = self.task.loss(name, batch, rng, now)
            scaled = {k: v.sum() / count if v.ndim else v * (len(batch) / count) for k, v in parts.items()}
            torch.stack(list(scaled.values())).sum().backward()
            sums = {k: v.detach() + sums[k] if k in sums else v.detach() for k, v in scaled.items()}
            values.append((start, len(batch), {k: v.detach() for k, v in parts.items()}))
        stop, sums = self.runtime.add_up(trained, sums, interrupted.heard)
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if side.clip:
            nn.utils.clip_grads_with_norm_(trained, side.clip, norm)
        for s in moved:
            s.step()
        self.pending.append(_Turn(name, number, now, rate, sums, values, norm))
        return stop

    def only(self, moved: Iterable[Side]) -> None:
        """Let gradients reach the weights that move in this turn, and no others."""
        wanted = {id(p) for side in moved for p in side.trained}
        for side in self.sides.values():
            for p in side.trained:
                p.requires_grad_(id(p) in wanted)

    def read_back(self) -> None:
        """Read back what the turns since the last time gave.

        Raises:
            RunError: when a loss or a gradient was not finite.
        """
        self.read_at = time.perf_counter()
        if not self.pending:
            return
        turns, self.pending = self.pending, []
        numbers = iter(torch.stack([v.float() for t in turns for v in (*t.sums.values(), t.norm)]).tolist())
        for turn in turns:
            sums = {part: next(numbers) for part in turn.sums}
            norm, loss = next(numbers), sum(sums.values())
            for part, value in sums.items():
                if not math.isfinite(value):
                    raise self.diverged(f"the loss of {turn.player}, part {part!r}, is {value}", turn, part)
            if not math.isfinite(norm):
                raise self.diverged(f"the gradient norm of {turn.player} is {norm} at loss {loss:.4g}", turn)
            prefix = "" if len(self.stepped) == 1 else f"{turn.player}."
            for key, value in {"loss": loss, **sums, "grad_norm": norm, "lr": turn.rate}.items():
                self.recent.setdefault(prefix + key, []).append(value)

    def crossed(self, before: int, every: int) -> bool:
        """Whether the step passed a multiple of ``every`` images."""
        return self.images // every > before // every

    def summary(self) -> str:
        return ", ".join(f"{key} {values[-1]:.4f}" for key, values in self.recent.items() if key.endswith("loss"))

    def write_log(self) -> None:
        """The mean of what happened since the last line."""
        self.read_back()
        if self.recent:
            means = {key: sum(values) / len(values) for key, values in self.recent.items()}
            self.journal.add(self.images, step=self.step, seconds=round(self.seconds, 3), **means)
            self.recent.clear()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the weights, without gradients, every player in evaluation mode."""
        self.read_back()
        with torch.no_grad(), ExitStack() as stack:
            for side in self.sides.values():
                stack.enter_context(side.resting())
            yield

    @property
    def shown(self) -> Path:
        """The picture that shows what there is after this step."""
        return inside(self.folder, "samples", f"step-{self.step:08d}.png")

    def show(self) -> None:
        with self.averaged():
            preview = self.task.preview()
        if preview is not None:
            try:
                grid.save(grid.tile(*preview), self.shown)
            except RunError as error:
                raise RunError(f"{error}. {self.checkpoints.kept()}") from error

    def save(self) -> None:
        if self.saved == self.images or not self.runtime.main:
            return
        self.write_log()
        with torch.no_grad():
            self.task.before_save()
        model, ema = (
            {k: v for s in self.sides.values() for k, v in s.state(average).items()} for average in (False, True)
        )
        tensors, scalars = optim.state({name: s.optimizer for name, s in self.sides.items() if s.optimizer is not None})
        self.checkpoints.save(
            self.step,
            {"model": model, "ema": ema, "optimizer": tensors},
            {
                "images": self.images,
                "step": self.step,
                "seconds": round(self.seconds, 3),
                "memory": memory.peak(self.runtime.device),
                "parameters": sum(p.numel() for s in self.sides.values() for p in s.player.module.parameters()),
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
                f"{checkpoint.folder.name} was made with {counted(state['threads'], 'thread')}, "
                f"this process has {torch.get_num_threads()}: "
                f"to end with the very same bits, set OMP_NUM_THREADS={state['threads']}",
                file=sys.stderr,
            )
        weights, averages = checkpoint.tensors("model"), checkpoint.tensors("ema")
        try:
            for name, side in self.sides.items():
                side.load_state(_part(weights, name), _part(averages, name))
            optimizers = {name: s.optimizer for name, s in self.sides.items() if s.optimizer is not None}
            optim.load_state(optimizers, checkpoint.tensors("optimizer"), state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            what = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise InputError(f"{checkpoint.folder} holds the weights of another network: {what}") from error
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]

    def diverged(self, what: str, turn: _Turn, part: str | None = None) -> RunError:
        """Why training cannot go on: what is not finite, where in the run, and which samples it came from."""
        facts: dict[str, list[Tensor]] = {}
        bad = []
        for start, count, values in turn.values:
            rng = Draws(self.seed, start, count, turn.number)
            for key, fact in self.task.describe(self.feed(start, count).to(self.runtime.device), rng, turn.now).items():
                facts.setdefault(key, []).append(fact.cpu())
            value = torch.zeros(()) if part is None else values[part]
            bad.append(~value.isfinite().cpu() if value.ndim else torch.ones(count, dtype=torch.bool))
        wrong = torch.cat(bad)
        where = "".join(
            f", {key} {f[wrong].min():.3g} to {f[wrong].max():.3g}"
            for key, f in ((key, torch.cat(each)) for key, each in facts.items())
            if wrong.any()
        )
        latest = self.checkpoints.newest_whole(quiet)
        good = "There is no checkpoint yet" if latest is None else f"The last good checkpoint is {latest.folder}"
        return RunError(
            f"training stopped at step {turn.now.step}, image {turn.now.images:,}: {what}, in {int(wrong.sum())} of {len(wrong)} samples"
            f"{where}; the learning rate was {turn.rate:.3g}. {good}. Try a lower train.lr, a longer train.warmup, a smaller train.clip"
            f"{', or train.bf16 off' if self.config.bf16 else ''}."
        )


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
