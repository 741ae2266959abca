"""The processes that train a run together: those of a launcher such as torchrun, or of ``train.processes`` on this machine.

The first prepares everything by itself, then tells the others the recipe and the folder; these, and the data, are seen by all.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from reverie.core.memory import keep_freed_memory
from reverie.learn.meeting import Lost, Meeting
from reverie.learn.runtime import launched
from reverie.recipes import serialisation
from reverie.recipes.recipe import Recipe

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What a launcher says to each process."""


class Crew:
    """The others, as the first process sees them: none of them does anything before :meth:`at_work`.

    Attributes:
        launched: how many processes a launcher has started; 1 without.
    """

    def __init__(self) -> None:
        _, self.launched, _ = launched()
        self.meeting = Meeting("run", 0, self.launched) if self.launched > 1 else None
        self.said = {name: os.environ[name] for name in LAUNCHER if name in os.environ} if self.meeting else {}

    @contextmanager
    def leading(self) -> Iterator["Crew"]:
        """The launcher is forgotten meanwhile, so that what is prepared is prepared by this process; if that fails, the others end."""
        with _environment(dict.fromkeys(self.said)):
            try:
                yield self
            except BaseException as error:
                if self.meeting is not None:
                    self.meeting.fail(error)
                raise

    @contextmanager
    def at_work(self, recipe: Recipe, folder: Path) -> Iterator[None]:
        """All processes on one run: the others have made their part when this begins.

        Raises:
            Lost: when one of them could not.
        """
        world = recipe.train.processes
        if world == 1:
            yield
        elif self.meeting is not None:
            with _environment(self.said):
                _call(self.meeting, recipe, folder, [])
                yield
        else:
            with _companions(world) as (meeting, others):
                _call(meeting, recipe, folder, others)
                yield


def hear(meeting: Meeting) -> tuple[Recipe, Path]:
    """What another process is told to train, and where.

    Raises:
        Lost: when the first one could not prepare it.
    """
    told = json.loads(meeting.hear("run"))
    return serialisation.from_dict(told["recipe"]), Path(told["folder"])


def ready(meeting: Meeting) -> None:
    """Said by another process that has made its part."""
    meeting.tell(f"ready {meeting.rank}")


def _call(meeting: Meeting, recipe: Recipe, folder: Path, others: list[BaseProcess]) -> None:
    """Tell the others what to train, and wait until they are ready."""
    meeting.tell("run", json.dumps({"recipe": serialisation.to_dict(recipe), "folder": str(folder.absolute())}))
    for rank in range(1, meeting.world):
        while not meeting.told(f"ready {rank}"):
            if others and not others[rank - 1].is_alive() and meeting.failure() is None:
                raise Lost(
                    f"process {rank} of {meeting.world} ended before training began. Each runs the script that started them up to its "
                    'if __name__ == "__main__": put what trains under that line, or choose train.processes 1'
                )
            time.sleep(0.01)


@contextmanager
def _companions(world: int) -> Iterator[tuple[Meeting, list[BaseProcess]]]:
    """The other processes of ``train.processes``, with a share of the threads each, and where all find each other."""
    threads = torch.get_num_threads()
    share = max(1, threads // world)
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    with _environment({**common, "RANK": "0", "LOCAL_RANK": None, "MASTER_PORT": "0"}):  # the system finds a port
        meeting = Meeting("run", 0, world)
        os.environ["MASTER_PORT"] = str(meeting.port)
        context = multiprocessing.get_context("spawn")
        others: list[Any] = [
            context.Process(target=_companion, args=(rank, share), daemon=True) for rank in range(1, world)
        ]
        torch.set_num_threads(share)
        try:
            for process in others:
                process.start()
            yield meeting, others
            for process in others:
                process.join(10)
        finally:
            for process in others:
                process.terminate()
            torch.set_num_threads(threads)


def _companion(rank: int, threads: int) -> None:
    """What another process runs. Why it fails is said by the first one, and when that is gone, so is this one."""
    from reverie.recipes.training import follow

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it trains, the first one decides
    os.environ["RANK"] = str(rank)
    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        follow()
    except (Exception, KeyboardInterrupt):
        if os.environ.get("REVERIE_DEBUG"):
            raise


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Variables with other values, None for none; afterwards they are as they were."""
    outside = dict(os.environ)
    for name, value in changes.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(outside)
