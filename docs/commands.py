"""The command line's reference: the help of every verb, as the program prints it."""

import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from reverie.cli import VERBS, data, main, read

PATH = Path(__file__).parent / "api" / "generated" / "commands.md"
HEAD = """# Command line reference: every command and flag

Made from the code: what `reverie COMMAND --help` prints. The values in brackets are the defaults.
"""


def text(words: list[str]) -> str:
    """What ``reverie`` prints for these words, in 100 columns without colours."""
    out = StringIO()
    with patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"), redirect_stdout(out):
        main(words)
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).strip().splitlines())


def page() -> str:
    """A section for each verb, those of ``read`` and ``data`` apart."""
    apart = {"read": read.KINDS, "data": data.KINDS}
    parts = [HEAD, f"```text\n{text(['--help'])}\n```"]
    for verb, title in VERBS.items():
        kinds = [[verb, kind] for kind in apart.get(verb, {})] or [[verb]]
        for words in kinds:
            said = title if len(words) == 1 else apart[verb][words[-1]]
            help = text([*words, "--help-all" if verb == "train" else "--help"])
            parts.append(f"## reverie {' '.join(words)}\n\n{said[0].upper()}{said[1:]}.\n\n```text\n{help}\n```")
    return "\n\n".join(parts) + "\n"


def write(*_: object) -> None:
    """Write the page, if it is not there as it is."""
    made = page()
    if not PATH.exists() or PATH.read_text(encoding="utf-8") != made:
        PATH.parent.mkdir(parents=True, exist_ok=True)
        PATH.write_text(made, encoding="utf-8")
