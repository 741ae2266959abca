"""What all tests share: one thread, fixed seeds, shapes checked at run time in the exact parts."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["reverie.core", "reverie.solve"], "beartype.beartype")

torch.set_num_threads(1)

settings.register_profile("reverie", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("reverie")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from the global state
