"""The training loop. It knows players, images seen and a folder; the method is the task's.

A run that is killed at any moment and started again ends with bitwise the same weights as one left alone (same machine kind, threads
and number of processes): data, noise and learning rate are functions of the images seen, everything else is in the checkpoint.

No step waits for the device: losses and norms stay where they are computed until they are read back, all at once, at the cadence of the log
(or after a second), and always before weights are used or saved.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
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
from reverie.learn import grid, optim, posthoc
from reverie.learn.checkpoint import Checkpoint, Checkpoints, quiet, warn
from reverie.learn.config import TrainConfig
from reverie.learn.divergence import Diverged, Turn, explain
from reverie.learn.ema import half_life, power
from reverie.learn.interrupts import Interrupts
from reverie.learn.journal import Journal
from reverie.learn.meeting import Lost, Meeting
from reverie.learn.observer import Observer
from reverie.learn.runtime import Runtime
from reverie.learn.side import Move, Side, sides
from reverie.learn.tally import Tally

Feed = Loader | Callable[[int, int], Batch]
"""A loader; or any (start, count) -> the samples at positions ``start … start + count − 1`` of the run."""
ROLLBACKS, SLOWER = 5, 0.5
"""How often a run goes back to its last checkpoint at most, and what that does to its learning rate."""


def train(
    task: Task,
    feed: Feed,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
    observers: Sequence[Observer] = (),
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
        observers: told of what happens, in the process that writes.

    Returns:
        Images seen: fewer than ``config.images`` if it was interrupted.

    Raises:
        InputError: when the checkpoint is of another network.
        RunError: when a loss or gradient is not finite, or a file cannot be written.
    """
    trainer = _Trainer(task, feed, config, Path(folder), seed, dict(metadata or {}), observers)
    interrupted = Interrupts()
    try:
        with torch.random.fork_rng(), interrupted.caught(), trainer.runtime.joined() as meeting, trainer.bar:
            try:
                trainer.meeting = meeting
                trainer.tell("begun", trainer.folder, trainer.images)
                trainer.run(interrupted)
                trainer.only(trainer.sides.values())
            finally:
                trainer.tell("ended", trainer.images)
    except OSError as error:
        raise RunError(f"training stopped at image {trainer.images:,}: {error}. {trainer.checkpoints.kept()}") from error
    except Lost as error:
        raise Lost(f"training stopped at image {trainer.images:,}: {error}. {trainer.checkpoints.kept('')}") from error
    return trainer.images


class _Trainer:
    def __init__(
        self,
        task: Task,
        feed: Feed,
        config: TrainConfig,
        folder: Path,
        seed: int,
        metadata: dict[str, str],
        observers: Sequence[Observer],
    ) -> None:
        bounds.check_bounds(config, lambda key: f"train.{key}")
        self.task, self.feed, self.config, self.folder = task, feed, config, folder
        self.seed, self.metadata, self.runtime = seed, metadata, Runtime.choose(config.device, config.bf16)
        decay = power(config.ema_std) if config.ema_half_life is None else half_life(config.ema_half_life)
        self.sides = sides(task, config, decay, self.runtime.device)
        self.stepped = [name for name, side in self.sides.items() if side.optimizer is not None]
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep, config.keep_every)
        if config.on_nan == "rollback" and self.runtime.world > 1:
            raise InputError("train.on-nan rollback is for one process: several would not agree on where to go back to")
        self.observers = observers if self.runtime.main else ()
        self.meeting: Meeting | None = None
        self.shared: dict[str, nn.Module] = {}
        self.step, self.images, self.seconds, self.slower, self.rollbacks = 0, 0, 0.0, 1.0, 0
        latest = self.checkpoints.newest_whole(warn if self.runtime.main else quiet)
        if latest is not None:
            self.restore(latest)
        self.saved = self.images
        if self.runtime.main:
            folder.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(folder / "log.jsonl", self.images)
        self.bar = Progress("training", config.images, "images")
        self.bar.resume(self.images)
        self.tally = Tally(len(self.stepped) > 1, self.diverged)
        self.tally.forget(self.images, self.seconds)

    def tell(self, what: str, *about: object) -> list[object]:
        """What all observers say to being told."""
        return [getattr(observer, what)(*about) for observer in self.observers]

    def run(self, interrupted: Interrupts) -> None:
        """To the end, or an interrupt; from the last checkpoint again at a lower rate where the run diverges and is to roll back."""
        while True:
            try:
                self.go(interrupted)
                return
            except Diverged as error:
                latest = self.checkpoints.newest_whole(quiet) if self.config.on_nan == "rollback" else None
                if latest is None or self.rollbacks == ROLLBACKS:
                    raise
                self.roll_back(latest, error)

    def roll_back(self, latest: Checkpoint, why: Diverged) -> None:
        self.restore(latest, slower=self.slower * SLOWER)
        self.rollbacks, self.saved = self.rollbacks + 1, self.images
        self.tally.forget(self.images, self.seconds)
        self.journal = Journal(self.folder / "log.jsonl", self.images)
        self.journal.add(self.images, rollback=str(why), slower=self.slower)
        self.bar.resume(self.images)
        warn(f"{why} Going on from {latest.folder.name} at {self.slower:g} times the learning rate.")

    def go(self, interrupted: Interrupts) -> None:
        config = self.config
        for side in self.sides.values():
            side.player.module.train(side.player.train)
        if self.saved:
            if self.runtime.main:
                self.look(self.images - config.batch, interrupted)
            self.wait()
        with closing(self.stream()) as stream:
            while self.images < config.images:
                begun = time.perf_counter()
                before = self.images
                now = Moment(self.step, before, config.images)
                batches = [(start, next(stream)) for start, _ in self.pieces(before)]
                count = min(config.batch, config.images - before)
                for number, name in enumerate(self.task.turns(now)):
                    self.move(name, number, batches, count, now)
                stop = self.runtime.any(interrupted.heard)
                self.step, self.images = self.step + 1, before + count
                self.task.after_step(Moment(self.step, self.images, config.images))
                for side in self.sides.values():
                    side.average(before, self.images)
                self.seconds += time.perf_counter() - begun
                if self.tally.late:
                    self.tally.read_back()
                if self.runtime.main:
                    self.bar.advance(count, note=self.tally.summary(self.runtime.device))
                    self.write(before, stop, interrupted)
                    if any(self.tell("stepped", Moment(self.step, self.images, config.images))):
                        interrupted.heard = True
                elif self.crossed(before, config.log_every):
                    self.tally.read_back()
                if not stop and self.images < config.images and any(
                    self.crossed(before, every)
                    for every in (config.save_every, config.validate_every, config.sample_every)
                ):
                    self.wait()
                if stop or (interrupted.heard and self.runtime.world == 1):
                    self.save()
                    return

    def wait(self) -> None:
        """Until the first process has written and looked at what was due, however long that takes."""
        if self.meeting is not None:
            done = f"looked at {self.images}"
            _ = self.meeting.tell(done) if self.runtime.main else self.meeting.hear(done)

    def pieces(self, images: int) -> list[tuple[int, int]]:
        """What this process reads for the step that begins after so many images: (start, count) of each micro-batch, as many as the others."""
        count = min(self.config.batch, self.config.images - images)
        first, mine = self.runtime.shard(images, count)
        most = -(-count // self.runtime.world)
        number = min(mine, -(-most // min(most, self.config.micro_batch or most)))
        ends = [first + mine * i // number for i in range(number + 1)]
        return [(start, end - start) for start, end in zip(ends, ends[1:], strict=False)]

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
                        figures = {k: v for k, v in measures.items() if isinstance(v, float)}
                        self.tell("logged", self.images, {f"validation/{key}": value for key, value in figures.items()})
            if (last or self.crossed(before, config.sample_every)) and not self.shown.exists():
                self.show()

    def move(self, name: str, number: int, batches: Sequence[tuple[int, Batch]], count: int, now: Moment) -> None:
        """One turn of one player: gradients of the batch, part by part, then the optimizers."""
        side = self.sides[name]
        moved = [side, *(self.sides[other] for other in side.along)]
        self.only(moved)
        factor = self.slower * optim.factor(self.config, now.images)
        rate, *_ = [s.begin(factor) for s in moved]
        trained = [p for s in moved for p in s.trained]
        if name not in self.shared:
            self.shared[name] = self.runtime.shared(Move(self.task, name, [s.player.module for s in moved]))
        turn = self.shared[name]
        torch.manual_seed(
            Draws(self.seed, batches[0][0], 1, number).key("layers")
        )  # of layers that draw by themselves, such as dropout
        sums: dict[str, Tensor] = {}
        values = []
        for i, (start, batch) in enumerate(batches, 1):
            rng = Draws(self.seed, start, len(batch), number)
            with self.runtime.kept_apart(turn) if i < len(batches) else nullcontext():
                with self.runtime.autocast():
                    parts = turn(batch, rng, now)
                scaled = {k: v.sum() / count if v.ndim else v * (len(batch) / count) for k, v in parts.items()}
                (torch.stack(list(scaled.values())).sum() * self.runtime.world).backward()
            sums = {k: v.detach() + sums[k] if k in sums else v.detach() for k, v in scaled.items()}
            values.append((start, len(batch), {k: v.detach() for k, v in parts.items()}))
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if side.clip:
            nn.utils.clip_grads_with_norm_(trained, side.clip, norm)
        for s in moved:
            s.step()
        self.tally.add(Turn(name, number, now, rate, self.runtime.add_up(sums), values, norm))

    def only(self, moved: Iterable[Side]) -> None:
        """Let gradients reach the weights that move in this turn, and no others."""
        wanted = {id(p) for side in moved for p in side.trained}
        for side in self.sides.values():
            for p in side.trained:
                p.requires_grad_(id(p) in wanted)

    def crossed(self, before: int, every: int) -> bool:
        """Whether the step passed a multiple of ``every`` images."""
        return self.images // every > before // every

    def write_log(self) -> None:
        """The mean of what happened since the last line."""
        means, pace = self.tally.take(self.images, self.seconds)
        if means:
            self.journal.add(self.images, step=self.step, seconds=round(self.seconds, 3), **means)
            self.tell("logged", self.images, {**means, "images_per_second": pace})

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the weights, without gradients, every player in evaluation mode."""
        self.tally.read_back()
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
                self.tell("shown", self.images, self.shown)
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
        profiles = {k: v for s in self.sides.values() for k, v in s.profiled().items()}
        tensors, scalars = optim.state({name: s.optimizer for name, s in self.sides.items() if s.optimizer is not None})
        checkpoint = self.checkpoints.save(
            self.step,
            {"model": model, "ema": ema, "optimizer": tensors, **({"profiles": profiles} if profiles else {})},
            {
                "images": self.images,
                "step": self.step,
                "seconds": round(self.seconds, 3),
                "memory": memory.peak(self.runtime.device),
                "parameters": sum(p.numel() for s in self.sides.values() for p in s.player.module.parameters()),
                "slower": self.slower,
                "optimizer": scalars,
                "threads": torch.get_num_threads(),
                "processes": self.runtime.world,
                "torch": torch.__version__,
            },
            self.metadata,
        )
        self.saved = self.images
        self.keep_averages(profiles)
        self.tell("saved", checkpoint)

    def keep_averages(self, profiles: Mapping[str, Tensor]) -> None:
        """The snapshot of what the checkpoint of these images holds, unless it is there."""
        if not profiles or not self.runtime.main or posthoc.kept(self.folder, self.images):
            return
        try:
            posthoc.keep(self.folder, profiles, self.images)
        except RunError as error:
            raise RunError(f"{error}. {self.checkpoints.kept()}") from error

    def restore(self, checkpoint: Checkpoint, slower: float | None = None) -> None:
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
            profiles = checkpoint.tensors("profiles") if "profiles.safetensors" in state["files"] else {}
            for side in self.sides.values():
                side.load_profiles(profiles)
            optim.load_state(optimizers, checkpoint.tensors("optimizer"), state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            what = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise InputError(f"{checkpoint.folder} holds the weights of another network: {what}") from error
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        self.slower = state.get("slower", 1.0) if slower is None else slower
        self.keep_averages(profiles)

    def diverged(self, what: str, turn: Turn, part: str | None = None) -> Diverged:
        """Why training cannot go on, with what it came from kept in the run."""
        batches = [self.feed(start, count).to(self.runtime.device) for start, count, _ in turn.values]
        sentence, kept = explain(self.task, batches, turn, self.seed, what, part, self.folder)
        latest = self.checkpoints.newest_whole(quiet)
        good = "There is no checkpoint yet" if latest is None else f"The last good checkpoint is {latest.folder}"
        return Diverged(
            f"training stopped at {sentence}. The batch is in {kept}. {good}. Try --train.on-nan rollback, a lower train.lr, a longer "
            f"train.warmup, a smaller train.clip{', or train.bf16 off' if self.config.bf16 else ''}."
        )


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
