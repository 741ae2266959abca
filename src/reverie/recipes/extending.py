"""A run goes on by another recipe: how long and how it is trained may change, and how it is drawn from."""

import sys
from typing import Any

from reverie.core.errors import InputError
from reverie.core.text import shown
from reverie.learn.journal import Journal
from reverie.recipes import serialisation
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run

HISTORY = "recipes"
"""The folder of a run that keeps the recipes it had before, numbered."""
Changes = list[tuple[str, Any, Any]]


def may_change(key: str) -> bool:
    """Whether a run that is there goes on with another value: what its checkpoint holds does not depend on it."""
    return key.startswith(("train.", "sample.")) and key != "train.optimizer"


def extend(run: Run, recipe: Recipe) -> Run:
    """Give a run another recipe; the one that it had is kept in ``recipes/``, and the change is in the log where it happened.

    Args:
        run: held by this process alone.
        recipe: differs from the run's in what :func:`may_change`.

    Raises:
        InputError: when it ends before what the run has seen.
    """
    changes = serialisation.difference(run.recipe, recipe)
    if not changes:
        return run
    newest = run.checkpoints.newest_whole()
    seen = 0 if newest is None else newest.state["images"]
    if recipe.train.images < seen:
        raise InputError(
            f"{run.folder} has seen {seen:,} images: --train.images is at least that, got {recipe.train.images:,}"
        )
    number = 1
    while (kept := run.path(HISTORY, f"recipe-{number}.yaml")).exists():
        number += 1
    serialisation.write(run.recipe, kept)
    Journal(run.folder / "log.jsonl", seen).add(
        seen, recipe={key: [old, new] for key, old, new in changes}, before=str(kept.relative_to(run.folder))
    )
    serialisation.write(recipe, run.path("recipe.yaml"))
    told = ", ".join(f"{key} {new} (was {old})" for key, old, new in changes)
    print(shown(f"{run.folder} goes on from {seen:,} images with {told}"), file=sys.stderr)
    return Run(run.folder)
