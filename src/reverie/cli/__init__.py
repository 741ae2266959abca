"""The command line: ``reverie VERB …``, one file a verb.

A verb NAME is a module ``reverie.cli.NAME`` with ``main(arguments: list[str]) -> int | None`` (the exit code, None for 0) and a line in
:data:`VERBS`. The module is imported when the verb is called, so help costs nothing; so are torch and friends inside it.
An :class:`InputError` ends with exit code 2, a :class:`RunError` with 1, Ctrl-C with 130; each prints its message, no traceback.
Work that is done but could not say so, because standard output is full, ends with 1.
``REVERIE_DEBUG=1`` shows the traceback.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module

from reverie.cli.streams import Steady, fill_descriptors
from reverie.core.errors import InputError, RunError, nearest
from reverie.core.memory import keep_freed_memory
from reverie.core.text import shown

VERBS = {
    "demo": "train, sample, measure and report on bundled digits, in about three minutes",
    "train": "train a recipe, or on a folder of pictures; the same command again resumes",
    "adapt": "teach a model a few pictures by a small adapter",
    "distill": "turn a diffusion model into one that draws in one step or a few",
    "sample": "draw pictures from a run",
    "calibrate": "fit the times of few-step sampling to a run",
    "restore": "fill, enlarge, sharpen or colour a picture with what a run has learned",
    "edit": "change a picture as told, and keep the rest",
    "invert": "find what a picture is drawn from, to edit it often",
    "evaluate": "measure the samples of a run",
    "compare": "models of the same pictures side by side, trained for the same time where they are missing",
    "read": "what a run has learned: probe, segment, match",
    "ema": "average a run's weights anew, with any width, after training",
    "report": "write a run's report.html",
    "judge": "train a classifier that judges samples of your data",
    "runs": "list runs",
    "data": "pictures before training: inspect, pack, encode",
    "prefetch": "download data sets and small models, to work offline",
    "compress": "pack pictures without loss by what a run has learned",
    "decompress": "give the pictures of such an archive back",
    "convert": "write a model to a folder that diffusers loads",
    "reproduce": "what a paper compares, at a small scale, its figures beside ours",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    fill_descriptors()
    out, err = Steady(sys.stdout), Steady(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        code = _main(list(sys.argv[1:] if arguments is None else arguments))
        out.flush()
        if out.failure is not None and not isinstance(
            out.failure, BrokenPipeError
        ):  # a reader like `head` has seen enough
            print(f"reverie: standard output could not be written: {out.failure}; the rest is done", file=sys.stderr)
            code = code or 1
        err.flush()
    return code


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from reverie import __version__

        print(f"reverie {__version__}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("REVERIE_DEBUG"):
            raise
        code, message = _failure(error)
        print(f"reverie: {shown(message)}", file=sys.stderr)
        return code


def _failure(error: BaseException) -> tuple[int, str]:
    """The exit code of an error and what to say."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, RunError | OSError):
        return 1, str(error)
    return 1, f"{type(error).__name__}: {error}\nThis should not happen; REVERIE_DEBUG=1 shows where it did."


def _run(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        raise InputError(f"there is no command {verb!r}; there is: {', '.join(VERBS)}.{nearest(verb, VERBS)}")
    keep_freed_memory()
    try:
        return import_module(f"reverie.cli.{verb}").main(arguments) or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    return (
        "usage: reverie COMMAND …\n\nTrain, sample, guide, measure and understand diffusion models.\n\n"
        f"{verbs}\n\nreverie COMMAND --help says more. Start with: reverie demo"
    )
