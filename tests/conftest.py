"""What all tests share: one thread unless OMP_NUM_THREADS says otherwise, fixed seeds, annotated shapes checked at run time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Where shapes are annotated and no test gives a wrong one on purpose. An int serves as a float.
CHECKED = ["reverie.data.images", "reverie.data.order", "reverie.measure.extract"]
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(CHECKED, TYPECHECKER)

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

settings.register_profile("reverie", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("reverie")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from the global state
