"""The reference of the command line is what the program says of itself."""

import importlib.util
from pathlib import Path

from reverie.cli import VERBS

SOURCE = Path(__file__).parents[2] / "docs" / "commands.py"


def test_every_verb_has_its_help_in_plain_text():
    spec = importlib.util.spec_from_file_location("commands", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    for verb in VERBS:
        kinds = {"read": ("probe", "segment", "match"), "data": ("inspect", "pack", "encode")}.get(verb, ())
        names = [f"{verb} {kind}" for kind in kinds] or [verb]
        for name in names:
            section = page.split(f"\n## reverie {name}\n")[1].split("\n## ")[0]
            assert f"usage: reverie {name} " in section and "--help" in section
    assert "--train.micro-batch" in page and "\x1b" not in page
    assert not any(line.endswith(" ") for line in page.splitlines())
