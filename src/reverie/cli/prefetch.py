"""``reverie prefetch [NAME …]``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Download data sets and small models, so that everything after it works offline. Without a name, list what there is.

    A data set of the Hugging Face hub, hf://OWNER/NAME, is streamed into shards (needs the library datasets).

    They go to the folder in REVERIE_CACHE, or to the system's folder for caches.

    Attributes:
        names: what to download.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME …]")] = ()


def main(arguments: list[str]) -> None:
    names = parse(Arguments, arguments, "prefetch").names
    from reverie.data.hub import SCHEME, bring
    from reverie.data.prefetch import folder, prefetch
    from reverie.data.remote import REMOTE

    for name in names:
        print(shown(f"{name}: {bring(name) if name.startswith(SCHEME) else prefetch(name)}"))
    if not names:
        width = max(map(len, REMOTE))
        for name, remote in REMOTE.items():
            here = "here" if folder(name) else f"{remote.megabytes} MB"
            print(f"{name:<{width}}  {here:>6}  {remote.title}")
