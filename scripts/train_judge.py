"""Regenerate the bundled judge from the training digits of mnist5k: ``python scripts/train_judge.py``.

About six minutes on one thread of a laptop processor.
"""

import torch

from reverie.data import load
from reverie.measure import judge

if __name__ == "__main__":
    torch.set_num_threads(1)
    trained = judge.train(load("mnist5k", "train"))
    judge.FOLDER.mkdir(exist_ok=True)
    trained.save(judge.FOLDER / "mnist5k.safetensors")
    restored = judge.load("mnist5k")
    for split in ("train", "test"):
        print(f"{split}: {restored.accuracy(load('mnist5k', split)):.2%}")
