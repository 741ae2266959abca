"""The bundled sets: what is in them, that nothing changed, that they may be passed on."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from reverie import data
from reverie.core.errors import InputError
from reverie.data import catalog

BUNDLED = ["emoji", "mnist5k"]
HASHES = {
    "mnist5k": "d0cdd313f77be3f0af68c5ac68b45e77a1efc025ed63813be461de1cc37265bd",
    "emoji": "1790bdc3464b0c7032f0dcdba01e0e5027586c0bed26bb9fa21899370f4c1f61",
}


def content(name: str) -> str:
    everything = data.load(name, "all")
    assert everything.labels is not None
    return hashlib.sha256(everything.images.numpy().tobytes() + everything.labels.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", BUNDLED)
def test_content_is_what_the_script_made(name):
    assert content(name) == HASHES[name]


def test_names_are_listed_without_torch(tmp_path):
    program = "import sys, reverie.data as d; print(d.names(), 'torch' in sys.modules)"
    environment = {**os.environ, "REVERIE_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert printed.strip() == "['digits8', 'emoji', 'mnist5k', 'scenes'] False"


def test_all_bundles_stay_under_five_megabytes():
    assert sum(path.stat().st_size for path in catalog.FOLDER.iterdir()) < 5_000_000


@pytest.mark.parametrize("name", BUNDLED)
def test_licence_and_attribution_are_beside_the_data(name):
    assert "Copyright" in (catalog.FOLDER / f"{name}.LICENSE").read_text()
    assert len((catalog.FOLDER / f"{name}.ATTRIBUTION").read_text()) > 200
    assert catalog.metadata(name)["licence"]


def test_arrays_need_no_pickle():
    for name in BUNDLED:
        with np.load(catalog.FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            assert {array: arrays[array].dtype.kind for array in arrays} == {
                "images": "u",
                "labels": "u",
                "held_out": "b",
            }


def test_digits_are_split_400_to_100_in_each_class():
    train, test = data.load("mnist5k", "train"), data.load("mnist5k", "test")
    assert train.shape == (1, 28, 28) and train.classes == [str(digit) for digit in range(10)]
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10


@pytest.mark.parametrize("name", BUNDLED)
def test_no_held_out_picture_is_trained_on(name):
    pictures = {split: {p.numpy().tobytes() for p in data.load(name, split).images} for split in ("train", "test")}
    assert not pictures["train"] & pictures["test"]


def test_emoji_have_names_categories_and_subcategories():
    emoji = data.load("emoji", "all")
    assert emoji.shape == (3, 32, 32) and len(emoji) == 1911
    row = emoji.texts.index("unicorn face")
    assert (emoji.columns["category"][row], emoji.columns["subcategory"][row]) == ("Animals & Nature", "animal-mammal")
    assert emoji.classes[emoji.labels[row]] == "Animals & Nature"
    assert len(emoji.classes) == 10 and len(set(emoji.columns["subcategory"])) == 99
    train, test = data.load("emoji", "train"), data.load("emoji", "test")
    assert len(train) + len(test) == 1911 and 150 < len(test) < 230
    assert set(train.columns["code"]) | set(test.columns["code"]) == set(emoji.columns["code"])


def test_emoji_are_on_white():
    corners = data.load("emoji", "all").images[:, :, 0, 0]
    assert (corners == 255).all(1).float().mean() > 0.8


def test_batches_are_floats_between_minus_one_and_one():
    digits = data.load("mnist5k", "test")
    some = digits.batch([3, 1, 3])
    images, labels = some.x, some.label
    assert images.dtype == torch.float32 and images.shape == (3, 1, 28, 28)
    assert images.min() == -1 and images.max() <= 1
    assert torch.equal(images[0], images[2]) and torch.equal(labels, digits.labels[[3, 1, 3]])
    back = ((images + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, digits.images[[3, 1, 3]])


def test_digits8_keeps_the_seventeen_levels():
    from sklearn.datasets import load_digits

    digits = data.load("digits8", "all")
    assert digits.shape == (1, 8, 8)
    levels = (digits.images.double() * 16 / 255).round()
    assert np.array_equal(levels.numpy()[:, 0], load_digits().images)


def test_another_size_and_colour_on_request():
    padded = data.load("mnist5k", "test", size=32, fit="pad", channels=3)
    plain = data.load("mnist5k", "test")
    assert padded.shape == (3, 32, 32) and len(padded) == 1000
    assert data.load("emoji", "test", size=16, channels=1).shape == (1, 16, 16)
    assert padded.images.float().mean().item() == pytest.approx(plain.images.float().mean().item(), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist5", "train"), "Did you mean 'mnist5k'"),
        (("mnist5k", "validation"), "unknown split 'validation'"),
        (("mnist5k", "train", 0), "at least 1; got 0"),
        (("mnist5k", "train", 28, 4), "1 \\(grey\\) or 3 \\(RGB\\); got 4"),
        (("mnist5k", "train", 28, 1, "zoom"), "crop, pad, stretch; got 'zoom'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    keywords = dict(zip(("split", "size", "channels", "fit"), arguments[1:], strict=False))
    with pytest.raises(InputError, match=message):
        data.load(arguments[0], **keywords)
