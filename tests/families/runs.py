"""What the tests of families share: a run that is interrupted and goes on ends as one left alone."""

from contextlib import suppress
from pathlib import Path

import torch

import reverie as rv
from reverie.learn.loop import _Trainer
from reverie.recipes.recipe import Recipe


def resumes(recipe: Recipe, folder: Path, monkeypatch) -> bool:
    """Whether a run that is stopped at each checkpoint, also of its space, ends with bitwise the state of one that went through."""
    whole, _ = rv.recipes.train(recipe, folder / "whole")
    save, stops = _Trainer.save, []

    def stop(self):
        fresh = self.saved < self.images
        save(self)
        if fresh and self.images < self.config.images:
            stops.append(self.images)
            raise KeyboardInterrupt

    seen, halves = 0, whole
    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "save", stop)
        while seen < recipe.train.images:
            with suppress(KeyboardInterrupt):
                halves, seen = rv.recipes.train(recipe, folder / "halves")
    assert stops and halves.folder != whole.folder
    for file in ("model", "ema", "optimizer"):
        a, b = (run.checkpoint.tensors(file) for run in (whole, halves))
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return True
