"""The training loop. It knows players, images seen and a folder; the method is the task's.

A run that is killed at any moment and started again ends with bitwise the same weights as one left alone (same machine kind, threads
and number of processes): data, noise and learning rate are functions of the images seen, everything else is in the checkpoint.

No step waits for the device: losses and norms stay where they are computed until they are read back, all at once, at the cadence of the log
(or after a second), and always before weights are used or saved; all processes read back after the same step, and so diverge together.
"""

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from reverie.core import bounds
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import RunError
from reverie.core.files import inside
from reverie.core.progress import Progress
from reverie.core.task import Moment, Task
from reverie.data import Loader
from reverie.learn import grid, optim, shards
from reverie.learn.checkpoint import Checkpoint, Checkpoints, quiet, warn
from reverie.learn.config import TrainConfig
from reverie.learn.divergence import Diverged, Turn, explain
from reverie.learn.ema import half_life, power
from reverie.learn.interrupts import Interrupts
from reverie.learn.journal import Journal
from reverie.learn.keeping import Keeper
from reverie.learn.meeting import Lost, Meeting
from reverie.learn.observer import Observer
from reverie.learn.runtime import Runtime
from reverie.learn.side import Side, sides
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
    bounds.check_bounds(config, lambda key: f"train.{key}")
    runtime, interrupted = Runtime.choose(config.device, config.bf16), Interrupts()
    try:
        with torch.random.fork_rng(), interrupted.caught(), runtime.joined() as meeting:
            about = dict(metadata or {})
            trainer = _Trainer(task, feed, config, Path(folder), seed, about, observers, runtime, meeting)
            return trainer.train(interrupted)
    except Lost as error:
        kept = Checkpoints(Path(folder) / "checkpoints").kept("")
        raise Lost(f"training stopped: {str(error).rstrip('.')}. {kept}") from error


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
        runtime: Runtime,
        meeting: Meeting | None,
    ) -> None:
        self.task, self.feed, self.config, self.folder = task, feed, config, folder
        self.seed, self.runtime, self.meeting = seed, runtime, meeting
        decay = power(config.ema_std) if config.ema_half_life is None else half_life(config.ema_half_life)
        self.sides = sides(task, config, decay, runtime)
        self.stepped = [name for name, side in self.sides.items() if side.optimizer is not None]
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep, config.keep_every)
        self.keeper = Keeper(self.sides, folder, self.checkpoints, metadata, runtime, meeting)
        self.observers = observers if self.runtime.main else ()
        self.step, self.images, self.seconds, self.slower, self.rollbacks = 0, 0, 0.0, 1.0, 0
        latest = self.checkpoints.newest_whole(warn if self.runtime.main else quiet)
        if latest is not None:
            self.restore(latest)
        self.saved = self.images
        if self.runtime.main:
            folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.tidy(latest)
            self.journal = Journal(folder / "log.jsonl", self.images)
        self.bar = Progress("training", config.images, "images")
        self.bar.resume(self.images)
        self.tally = Tally(len(self.stepped) > 1, self.diverged)
        self.tally.forget(self.images, self.seconds)

    def tell(self, what: str, *about: object) -> list[object]:
        """What all observers say to being told."""
        return [getattr(observer, what)(*about) for observer in self.observers]

    def train(self, interrupted: Interrupts) -> int:
        """To the end, or an interrupt; returns the images seen."""
        with self.bar:
            try:
                self.tell("begun", self.folder, self.images)
                self.run(interrupted)
                self.only(self.sides.values())
            except OSError as error:
                raise RunError(
                    f"training stopped at image {self.images:,}: {error}. {self.checkpoints.kept()}"
                ) from error
            finally:
                self.tell("ended", self.images)
        return self.images

    def run(self, interrupted: Interrupts) -> None:
        """To the end, or an interrupt; from the last checkpoint again at a lower rate where the run diverges and is to roll back."""
        while True:
            try:
                self.go(interrupted)
                return
            except Diverged as error:
                if (
                    self.config.on_nan != "rollback"
                    or self.rollbacks == ROLLBACKS
                    or (latest := self.last_good()) is None
                ):
                    raise
                self.roll_back(latest, error)

    def last_good(self) -> Checkpoint | None:
        """The newest whole checkpoint, as the first process sees it: all have diverged at the same step, and go back to the same."""
        if self.meeting is None:
            return self.checkpoints.newest_whole(quiet)
        asked = f"back {self.rollbacks}"
        if not self.runtime.main:
            told = self.meeting.hear(asked)
            return Checkpoint(Path(told)) if told else None
        latest = self.checkpoints.newest_whole(quiet)
        self.meeting.tell(asked, "" if latest is None else str(latest.folder.absolute()))
        return latest

    def roll_back(self, latest: Checkpoint, why: Diverged) -> None:
        self.restore(latest, slower=self.slower * SLOWER)
        self.rollbacks, self.saved = self.rollbacks + 1, self.images
        self.tally.forget(self.images, self.seconds)
        self.bar.resume(self.images)
        if self.runtime.main:
            self.journal = Journal(self.folder / "log.jsonl", self.images)
            self.journal.add(self.images, rollback=str(why), slower=self.slower)
            warn(f"{why} Going on from {latest.folder.name} at {self.slower:g} times the learning rate.")

    def go(self, interrupted: Interrupts) -> None:
        config = self.config
        for side in self.sides.values():
            side.player.module.train(side.player.train)
        if self.saved:
            self.look(self.images - config.batch, interrupted)
        with closing(self.stream()) as stream:
            while self.images < config.images:
                begun = time.perf_counter()
                before = self.images
                now = Moment(self.step, before, config.images)
                batches = [(start, next(stream)) for start, _ in self.pieces(before)]
                count = min(config.batch, config.images - before)
                for number, name in enumerate(self.task.turns(now)):
                    self.move(name, number, batches, count, now)
                stop, late = self.runtime.any(interrupted.heard, self.tally.late)
                self.step, self.images = self.step + 1, before + count
                with self.keeper.whole() if type(self.task).after_step is not Task.after_step else nullcontext():
                    self.task.after_step(Moment(self.step, self.images, config.images))
                for side in self.sides.values():
                    side.average(before, self.images)
                self.seconds += time.perf_counter() - begun
                if late:
                    self.tally.read_back()
                if self.runtime.main:
                    self.bar.advance(count, note=self.tally.summary(self.runtime.device))
                self.write(before, stop, interrupted)
                if any(self.tell("stepped", Moment(self.step, self.images, config.images))):
                    interrupted.heard = True
                if stop or (interrupted.heard and self.runtime.world == 1):
                    self.save()
                    return

    def pieces(self, images: int) -> list[tuple[int, int]]:
        """What this process reads for the step that begins after so many images: (start, count) of each micro-batch.

        All processes have as many.
        """
        count = min(self.config.batch, self.config.images - images)
        first, mine = self.runtime.shard(images, count)
        most = -(-count // self.runtime.world)
        number = min(mine, -(-most // min(most, self.config.micro_batch or most)))
        ends = [first + mine * i // number for i in range(number + 1)]
        return [(start, end - start) for start, end in itertools.pairwise(ends)]

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
        if not stop:
            self.look(before, interrupted)

    def look(self, before: int, interrupted: Interrupts) -> None:
        """Validate and show in the first process, where that is due and not done; an interrupt ends it at once. The others wait."""
        config = self.config
        last = self.images == config.images
        cadences = (config.validate_every, config.sample_every, config.save_every)
        due = [last or self.crossed(before, every) for every in cadences]
        if not any(due):
            return
        self.tally.read_back()
        alone = self.runtime.main and not interrupted.heard
        validates = alone and due[0] and self.journal.validated < self.images
        shows = alone and due[1] and not self.shown.exists()
        if self.runtime.any(validates or shows)[0] if self.keeper.sharded else validates or shows:
            with self.averaged(), interrupted.breaking():
                if validates and (measures := self.task.validate()):
                    self.journal.add(self.images, validation=measures)
                    figures = {k: v for k, v in measures.items() if isinstance(v, float)}
                    self.tell("logged", self.images, {f"validation/{key}": value for key, value in figures.items()})
                if shows:
                    self.show()
        self.wait()

    def wait(self) -> None:
        """Until the first process has written and looked at what was due, however long that takes."""
        if self.meeting is not None:
            done = f"looked at {self.images} after {self.rollbacks} rollbacks"
            _ = self.meeting.tell(done) if self.runtime.main else self.meeting.hear(done)

    def move(self, name: str, number: int, batches: Sequence[tuple[int, Batch]], count: int, now: Moment) -> None:
        """One turn of one player: gradients of the batch, part by part, then the optimizers."""
        side = self.sides[name]
        moved = [side, *(self.sides[other] for other in side.along)]
        self.only(moved)
        factor = self.slower * optim.factor(self.config, now.images)
        rate, *_ = [s.begin(factor) for s in moved]
        trained = [p for s in moved for p in s.trained]
        turn = side.turn
        assert turn is not None
        self.runtime.seed(Draws(self.seed, batches[0][0], 1, number).key("layers"))
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
        norm = shards.full(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
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
        if means and self.runtime.main:
            self.journal.add(self.images, step=self.step, seconds=round(self.seconds, 3), **means)
            self.tell("logged", self.images, {**means, "images_per_second": pace})

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the weights, without gradients, every player in evaluation mode."""
        with torch.no_grad(), ExitStack() as stack:
            for side in self.sides.values():
                stack.enter_context(side.resting())
            stack.enter_context(self.keeper.whole())
            yield

    @property
    def shown(self) -> Path:
        """The picture that shows what there is after this step."""
        return inside(self.folder, "samples", f"step-{self.step:08d}.png")

    def show(self) -> None:
        if (preview := self.task.preview()) is not None:
            try:
                grid.save(grid.tile(*preview), self.shown)
                self.tell("shown", self.images, self.shown)
            except RunError as error:
                raise RunError(f"{error}. {self.checkpoints.kept()}") from error

    def save(self) -> None:
        if self.saved == self.images:
            return
        self.write_log()
        self.saved = self.images
        if not self.keeper.writes:
            return
        with torch.no_grad(), self.keeper.whole():
            self.task.before_save()
        at = {"images": self.images, "step": self.step, "seconds": round(self.seconds, 3), "slower": self.slower}
        self.keeper.save(at)
        if self.runtime.main:
            self.tell("saved", self.checkpoints.all()[-1])

    def restore(self, checkpoint: Checkpoint, slower: float | None = None) -> None:
        state = self.keeper.restore(checkpoint)
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        self.slower = state.get("slower", 1.0) if slower is None else slower

    def diverged(self, what: str, turn: Turn, part: str | None = None) -> Diverged:
        """Why training cannot go on, with what it came from kept in the run."""
        batches = [self.feed(start, count).to(self.runtime.device) for start, count, _ in turn.values]
        mine = f"-{self.runtime.rank}" if self.runtime.world > 1 else ""
        sentence, kept = explain(self.task, batches, turn, self.seed, what, part, self.folder, mine)
        latest = self.checkpoints.newest_whole(quiet)
        good = "There is no checkpoint yet" if latest is None else f"The last good checkpoint is {latest.folder}"
        return Diverged(
            f"training stopped at {sentence}. The batch is in {kept}. {good}. "
            f"Try {'' if self.config.on_nan == 'rollback' else '--train.on-nan rollback, '}a lower train.lr, a longer "
            f"train.warmup, a smaller train.clip{', or train.bf16 off' if self.config.bf16 else ''}."
        )
