"""Maps and boxes as they lie on the disk: each says the same of a picture, fits with it, and what is wrong with it is said by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.core.condition import Image as Shown
from reverie.core.condition import Label
from reverie.core.errors import InputError
from reverie.data import Mirrored, boxed, layouts
from reverie.data.images import ImageSet

SIDE, CLASSES = 16, ("blue", "red")
COLOURS = ((0, 0, 255), (255, 0, 0))
Box = tuple[int, int, int, int, int]


def write(folder: Path, drawn: dict[str, list[Box]]) -> None:
    """Below a folder: ``pictures`` with coloured boxes that do not touch, ``maps`` and ``colours`` of them, and both kinds of tables."""
    lines = []
    for name, boxes in drawn.items():
        picture, labels = np.full((SIDE, SIDE, 3), 127, np.uint8), np.full((SIDE, SIDE), 255, np.uint8)
        for kind, y, x, below, beyond in boxes:
            picture[y:below, x:beyond], labels[y:below, x:beyond] = COLOURS[kind], kind
        for where, content in (("pictures", picture), ("maps", labels), ("colours", picture)):
            path = folder / where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
        bbox = [[x, y, beyond - x, below - y] for _, y, x, below, beyond in boxes]
        lines.append(
            {"file_name": name, "objects": {"bbox": bbox, "categories": [CLASSES[kind] for kind, *_ in boxes]}}
        )
    shares = {
        name: [[CLASSES[kind], *(v / SIDE for v in box)] for kind, *box in boxes] for name, boxes in drawn.items()
    }
    (folder / "boxes.json").write_text(json.dumps(shares))
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "maps" / "classes.txt").write_text("blue\nred\n")


def some(n: int = 24, seed: int = 0) -> dict[str, list[Box]]:
    """One box in the upper left quarter and another, of the other class, in the lower right one; all sides are even, none at the border."""
    rng, half, drawn = np.random.default_rng(seed), SIDE // 2, {}
    for i in range(n):
        first = int(rng.integers(2))
        (y, x), (down, right) = (2 * rng.integers(1, 3, (2, 2)) - [[0], [2]]).tolist()
        one, other = (2 * rng.integers(1, 3, (2, 2))).tolist()
        drawn[f"{i:02}.png"] = [
            (first, y, x, y + one[0], x + one[1]),
            (1 - first, half + down, half + right, half + down + other[0], half + right + other[1]),
        ]
    return drawn


def told(folder: Path, where: str, **how) -> ImageSet:
    images = data.load(folder / "pictures", "all", **how)
    fit = how.get("fit", "crop")
    return images.with_layout(
        layouts.read(folder / where, folder / "pictures", images.columns.get("path"), images.size, fit)
    )


def maps(images: ImageSet) -> torch.Tensor:
    return images.batch(range(len(images))).cond["image"].value


@pytest.mark.parametrize(("size", "fit"), [(16, "crop"), ((8, 16), "crop"), ((8, 16), "pad"), ((16, 8), "stretch")])
def test_maps_and_both_tables_of_boxes_say_the_same(tmp_path: Path, size, fit):
    write(tmp_path, some())
    found = {
        where: told(tmp_path, where, size=size, fit=fit) for where in ("maps", "boxes.json", "pictures/metadata.jsonl")
    }
    for images in found.values():
        assert images.layout.classes == CLASSES and images.spec.conditions == {"image": Shown(2)}
    one, shares, pixels = (maps(images) for images in found.values())
    assert torch.equal(shares, pixels)
    assert torch.equal(one, shares)
    assert (one != shares.roll(1, 0)).float().mean() > 0.02  # the control: those of another picture
    assert len({images.fingerprint for images in found.values()}) == 2  # boxes are boxes, wherever they are said


def test_maps_lie_on_their_pictures_and_turn_with_them(tmp_path: Path):
    write(tmp_path, some())
    images = told(tmp_path, "maps", size=8)
    batch = images.batch(range(24))
    red, blue = batch.x[:, 0], batch.x[:, 2]
    where = batch.cond["image"].value
    assert (red - blue)[where[:, 1] == 1].mean() > 1.2 and (red - blue)[where[:, 0] == 1].mean() < -1.2
    turned = Mirrored(images).batch([3, 27])
    assert torch.equal(turned.cond["image"].value[1], turned.cond["image"].value[0].flip(-1))
    colours = told(tmp_path, "colours", size=8)
    assert colours.layout.classes == () and torch.equal(maps(colours), batch.x)
    assert colours.layout.seen(torch.tensor([0])).shape == images.layout.seen(torch.tensor([0])).shape == (1, 3, 8, 8)


def test_folders_are_classes_beside_maps_and_a_split_holds_its_own(tmp_path: Path):
    write(tmp_path, {f"{kind}/{name}": boxes for kind in "ab" for name, boxes in some(20).items()})
    train, test = (data.load(tmp_path / "pictures", split) for split in ("train", "test"))
    for images in (train, test):
        layout = layouts.read(tmp_path / "maps", tmp_path / "pictures", images.columns["path"], images.size, "crop")
        own = images.with_layout(layout)
        assert own.spec.conditions == {"label": Label(2), "image": Shown(2)}
        assert torch.equal(maps(own), maps(told(tmp_path, "boxes.json"))[images.rows])
    with pytest.raises(InputError, match=f"each of {len(train)} pictures: got {len(test)}"):
        train.with_layout(own.layout)


def test_a_picture_that_is_turned_by_its_file_has_a_map_as_it_is_seen(tmp_path: Path):
    for where in ("pictures", "maps"):
        (tmp_path / where).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8), "red").save(tmp_path / "pictures" / "a.jpg", exif=exif)
    Image.new("L", (8, 16), 0).save(tmp_path / "maps" / "a.png")
    assert maps(told(tmp_path, "maps", size=(16, 8))).shape == (1, 1, 16, 8)
    Image.new("L", (16, 8), 0).save(tmp_path / "maps" / "a.png")
    with pytest.raises(InputError, match=r"the map of a.jpg is 16x8 pixels, the picture 8x16"):
        told(tmp_path, "maps", size=(16, 8))


def test_what_is_wrong_with_maps_is_said(tmp_path: Path):
    write(tmp_path, some(4))
    place = tmp_path / "maps" / "03.png"
    kept = place.read_bytes()
    place.unlink()
    with pytest.raises(InputError, match=r"no map of the picture 03.png in .*maps: it is called 03.png"):
        told(tmp_path, "maps")
    Image.new("L", (8, 8), 0).save(place)
    with pytest.raises(InputError, match=r"the map of 03\.png is 8x8 pixels, the picture 16x16"):
        told(tmp_path, "maps")
    Image.new("L", (16, 16), 2).save(place)
    with pytest.raises(InputError, match=r"03\.png has pixels of the class 2, .* names 2, 0 to 1"):
        told(tmp_path, "maps")
    Image.new("RGB", (16, 16)).save(place)
    with pytest.raises(InputError, match=r"of classes .* and of colours: 00\.png and 03\.png"):
        told(tmp_path, "maps")
    place.unlink()
    Image.new("L", (16, 16)).save(place.with_suffix(".jpg"))
    with pytest.raises(InputError, match="JPEG changes: save it as PNG"):
        told(tmp_path, "maps")
    place.with_suffix(".jpg").unlink()
    place.write_bytes(kept)
    with pytest.raises(InputError, match="move them beside"):
        told(tmp_path, "pictures")
    with pytest.raises(InputError, match="neither a folder of maps nor a table of boxes"):
        told(tmp_path, "nothing")
    with pytest.raises(InputError, match="no names of files"):
        layouts.read(tmp_path / "maps", Path("mnist5k"), None, 28, "crop")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"00.png": [["red", 0.5, 0, 0.5, 1]]}', "is empty or not inside the picture"),
        ('{"00.png": [["red", 0, 0, 3, 1]]}', "is empty or not inside the picture"),
        ('{"00.png": [["red", 0, 0, 1]]}', "has no boxes"),
        ('{"00.png": [["red", 0, 0, 1, 1], [1, 0, 0, 1, 1]]}', "some classes by names and some by numbers"),
        ('{"00.png": []}', "there are no boxes"),
        ('{"01.png": [["red", 0, 0, 1, 1]]}', "no boxes of the picture 00.png"),
        ("[1]", "has no boxes"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_wrong_with_boxes_is_said(tmp_path: Path, content: str, part: str):
    write(tmp_path, some(1))
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(InputError, match=part):
        told(tmp_path, "boxes.json")


def test_a_table_of_boxes_needs_no_captions_and_may_have_them(tmp_path: Path):
    write(tmp_path, some(3))
    images = data.load(tmp_path / "pictures", "all")
    assert images.text is None and not images.skipped
    table = tmp_path / "pictures" / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    table.write_text("\n".join(json.dumps({**row, "text": f"boxes {i}"}) for i, row in enumerate(rows)))
    images = data.load(tmp_path / "pictures", "all").with_captions()
    layout = layouts.read(table, tmp_path / "pictures", images.columns["path"], images.size, "crop")
    assert set(images.with_layout(layout).batch([0]).cond) == {"text", "image"}
    table.write_text('{"file_name": "00.png"}')
    with pytest.raises(InputError, match="is not like"):
        data.load(tmp_path / "pictures", "all")


def test_a_box_in_words():
    assert boxed.place("red:0,0.25,0.5,1", CLASSES) == (1, 0.0, 0.25, 0.5, 1.0)
    assert boxed.place("a: b:0,0,1,1", ("a: b",)) == (0, 0.0, 0.0, 1.0, 1.0)
    for word, part in (
        ("rod:0,0,1,1", "'rod'.*red"),
        ("red:0,0,1", "is to be CLASS:TOP,LEFT,BOTTOM,RIGHT"),
        ("red", "is to be CLASS"),
        ("red:0,0,1,nan", "not inside the picture"),
        ("red:0.5,0,0.2,1", "is empty"),
    ):
        with pytest.raises(InputError, match=part):
            boxed.place(word, CLASSES)
