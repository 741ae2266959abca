"""What the tests of families share: a run that is interrupted and goes on ends as one left alone."""

from pathlib import Path

import torch

import reverie as rv
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run


def resumes(recipe: Recipe, folder: Path, monkeypatch) -> bool:
    """Whether a run that ends at its first checkpoint and goes on has bitwise the weights and moments of one that went through."""
    whole, _ = rv.recipes.train(recipe, folder / "whole")
    from reverie.learn.loop import _Trainer

    save = _Trainer.save

    def stop(self):
        save(self)
        if self.images < recipe.train.images:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "save", stop)
        try:
            rv.recipes.train(recipe, folder / "halves")
        except KeyboardInterrupt:
            pass
    assert 0 < Run(folder / "halves").checkpoint.state["images"] < recipe.train.images
    halves, _ = rv.recipes.train(recipe, folder / "halves")
    for file in ("model", "ema", "optimizer"):
        a, b = (run.checkpoint.tensors(file) for run in (whole, halves))
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return True
