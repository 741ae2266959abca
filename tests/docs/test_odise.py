"""The examples of the page on ODISE run, one after the other, as they stand."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "read" / "odise.md"


def test_the_examples_run():
    said: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), said)
    assert len(blocks) == 2 and len(said["found"]) == 4  # pyright: ignore[reportArgumentType]
