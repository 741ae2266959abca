"""What a training writes in order to go on from it: checkpoints, and snapshots of its averages."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core import memory
from reverie.core.errors import InputError, RunError
from reverie.core.text import counted
from reverie.learn import optim, posthoc, shards
from reverie.learn.checkpoint import Checkpoint, Checkpoints
from reverie.learn.meeting import Meeting
from reverie.learn.runtime import Runtime
from reverie.learn.side import Side


class Keeper:
    """Saves and restores the players of a run. Where their weights lie in parts, all processes save together; else the first one does.

    Args:
        sides: the players.
        folder: of the run.
        checkpoints: of the run.
        metadata: for the header of the weight files.
        runtime, meeting: of the processes.
    """

    def __init__(
        self,
        sides: Mapping[str, Side],
        folder: Path,
        checkpoints: Checkpoints,
        metadata: Mapping[str, str],
        runtime: Runtime,
        meeting: Meeting | None,
    ) -> None:
        self.sides, self.folder, self.checkpoints, self.metadata = sides, folder, checkpoints, metadata
        self.runtime, self.meeting = runtime, meeting
        self.sharded = any(shards.parted(side.turn) for side in sides.values())
        self.optimizers = {name: side.optimizer for name, side in sides.items() if side.optimizer is not None}

    @property
    def writes(self) -> bool:
        """Whether this process takes part in saving."""
        return self.runtime.main or self.sharded

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Weights that lie in parts are whole; all processes enter this together."""
        with ExitStack() as stack:
            for side in self.sides.values():
                stack.enter_context(shards.whole(side.turn))
            yield

    def save(self, at: Mapping[str, Any]) -> None:
        """A checkpoint, and a snapshot.

        Args:
            at: where the run is: ``images``, ``step``, ``seconds``, ``slower``.

        Raises:
            RunError: when one could not be written.
        """
        model, ema = (
            {k: v for s in self.sides.values() for k, v in s.state(average).items()} for average in (False, True)
        )
        profiles = {k: v for s in self.sides.values() for k, v in s.profiled().items()}
        optimizer, scalars = optim.state(self.optimizers)
        tensors = {"model": model, "ema": ema, "optimizer": optimizer, **({"profiles": profiles} if profiles else {})}
        state = {
            **at,
            "memory": memory.peak(self.runtime.device),
            "parameters": sum(p.numel() for s in self.sides.values() for p in s.player.module.parameters()),
            "optimizer": scalars,
            "threads": torch.get_num_threads(),
            "processes": self.runtime.world,
            "torch": torch.__version__,
        }
        if self.sharded:
            self._save_parts(tensors, {**state, "about": dict(self.metadata)})
        else:
            self.checkpoints.save(at["step"], tensors, state, self.metadata)
        self._snapshot(profiles, at["images"])

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Weights, averages and optimizers of a checkpoint; returns its state.

        Raises:
            InputError: when it is of another network.
        """
        state = checkpoint.state
        if state["threads"] != torch.get_num_threads() and self.runtime.main:
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
            profiles = checkpoint.tensors("profiles") if checkpoint.holds("profiles") else {}
            for side in self.sides.values():
                side.load_profiles(profiles)
            optim.load_state(self.optimizers, checkpoint.tensors("optimizer"), state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            what = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise InputError(f"{checkpoint.folder} holds the weights of another network: {what}") from error
        self._snapshot(profiles, state["images"])
        return state

    def _save_parts(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Every process writes its parts into the folder that the first one makes."""
        assert self.meeting is not None
        place = f"saving at {state['images']} at {state['slower']} of the rate"
        with ExitStack() as stack:
            if self.runtime.main:
                unfinished = stack.enter_context(self.checkpoints.appearing(state["step"], state))
                self.meeting.tell(place, str(unfinished.absolute()))
            else:
                unfinished = Path(self.meeting.hear(place))
            for name, content in tensors.items():
                shards.write(unfinished / name, content)

    def _snapshot(self, profiles: Mapping[str, Tensor], images: int) -> None:
        """The averages that the checkpoint of these images holds, unless they are there."""
        if not profiles or not self.writes:
            return
        halves = {key: shards.full(value).half() for key, value in profiles.items()}
        if not self.runtime.main or posthoc.kept(self.folder, images):
            return
        try:
            posthoc.keep(self.folder, halves, images)
        except RunError as error:
            raise RunError(f"{error}. {self.checkpoints.kept()}") from error


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
