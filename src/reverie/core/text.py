"""Names as they come: what names of files and classes hold must neither end a job nor reach the terminal raw."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unicodedata import category


def counted(number: int, what: str) -> str:
    """``1 thread``, ``1,200 threads``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes as ``5.1 MB`` or ``1.2 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(0.1, count / 1e6):.1f} MB"


def shown(text: object) -> str:
    """The text with what is not to be printed escaped: control and format characters (``\\x1b``), bytes that are no UTF-8 (``\\udce9``).

    Line ends stay.
    """
    return "".join(
        c if c == "\n" or c.isprintable() or category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def warn_of_cut(texts: Sequence[str], counts: Sequence[int], most: int) -> None:
    """Warn of each text that has more tokens than the ``most`` that are kept."""
    for text, count in zip(texts, counts, strict=True):
        if count > most:
            said = text if len(text) <= 60 else f"{text[:59]}…"
            warnings.warn(
                f"{said!r} has {count} tokens, the text encoder takes {most}: the first {most} are kept", stacklevel=3
            )


def positions(text: str, offsets: Sequence[tuple[int, int] | None]) -> dict[str, tuple[int, ...]]:
    """The numbers of the tokens that each word of a text is made of; a word that comes twice has those of both.

    Args:
        offsets: of each token, where it begins and ends in the text; None for one that stands for nothing in it.
    """
    found: dict[str, tuple[int, ...]] = {}
    place = 0
    for word in text.split():
        begin = text.index(word, place)
        place = begin + len(word)
        here = [
            i
            for i, at in enumerate(offsets)
            if at is not None and at[0] < place and at[1] > begin and text[at[0] : at[1]].strip()
        ]
        found[word] = (*found.get(word, ()), *here)
    return found


@contextmanager
def utf8_name(path: Path) -> Iterator[Path]:
    """A name of an existing file that is valid UTF-8, as safetensors wants it: its own, or that of its open descriptor."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path
