"""The pictures and the trained model of the tests that read."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "read"))  # for polar.py
