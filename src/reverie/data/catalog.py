"""What is bundled: one ``.npz`` (arrays, no pickle) and one ``.json`` (metadata) per set, licences beside them."""

import json
from pathlib import Path
from typing import Any

from reverie.data import prefetch
from reverie.data.remote import REMOTE

FOLDER = Path(__file__).parent / "bundled"
DIGITS8, SCENES = "digits8", "scenes"


def names() -> list[str]:
    """Names that `reverie.data.load` knows: the bundled sets, scikit-learn's 8x8 digits as ``digits8``, the made ``scenes``,
    and those that ``reverie prefetch`` has fetched."""
    return sorted(
        [*(path.stem for path in FOLDER.glob("*.npz")), DIGITS8, SCENES, *filter(prefetch.folder, fetchable())]
    )


def fetchable() -> list[str]:
    """Names of the data sets that ``reverie prefetch`` fetches."""
    return [name for name, remote in REMOTE.items() if remote.make]


def metadata(name: str) -> dict[str, Any]:
    """Metadata of a bundled set: title, source, licence, attribution, classes and the text columns of its rows."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
