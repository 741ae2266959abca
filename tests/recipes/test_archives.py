"""Pictures as bits: lossless, as short as the model says, and refused where they would not come back."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core.condition import Cond
from reverie.core.errors import InputError, RunError
from reverie.families import autoregressive, coding
from reverie.recipes import archives
from reverie.recipes.runs import Run

TINY = "--data digits8 --train.images 1920 --train.batch 64 --train.lr 0.01 --train.warmup 320 --train.processes 1"
TASKS = {
    "pixelcnn": "--width 12 --depth 3",
    "tile": "--head mixture --patch 2 --width 32 --depth 2 --heads 2",
}


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert main(f"train {request.param} {TINY} {TASKS[request.param]} --out {folder}".split()) == 0
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which little is asked."""
    folder = tmp_path_factory.mktemp("one") / "run"
    words = "train pixelcnn --data digits8 --width 4 --depth 2 --train.images 64 --train.batch 32 --train.processes 1"
    assert main(f"{words} --out {folder}".split()) == 0
    return folder


def picture(i: int) -> Image.Image:
    return Image.fromarray(rv.data.load("digits8", "test").images[i, 0].numpy())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve held-out digits, some in a folder within."""
    folder = tmp_path / "pictures"
    (folder / "more, of them").mkdir(parents=True)
    for i in range(12):
        picture(i).save(folder / ("more, of them" if i % 3 == 0 else "") / f"digit {i}.png")
    return folder


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in folder.rglob("*.png")}


def test_pictures_come_back_and_cost_what_the_model_says(run: Path, pictures: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(autoregressive, "SIDE_BY_SIDE", 5)
    made = archives.compress(Run(run), pictures, tmp_path / "a.rvz")
    paths = archives.decompress(tmp_path / "a.rvz", tmp_path / "back")
    before, after = arrays(pictures), arrays(tmp_path / "back")
    assert len(paths) == 12 and before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)

    model = Run(run).open()
    x = torch.stack([torch.from_numpy(a.copy()) for _, a in sorted(before.items())])[:, None].float() / 127.5 - 1
    under = torch.stack([model.nats(model.net.tokens(x), Cond(label=c)) for c in range(10)])
    bits = float((-under.amax(0) / np.log(2) + np.log2(10)).sum())
    assert made.ideal * 8 == pytest.approx(bits, abs=0.02)
    rounding = 3 * 4  # each batch ends in whole words
    assert abs(made.payload - made.ideal) < 0.01 * made.ideal + rounding
    dearest = float((-under.amin(0) / np.log(2) + np.log2(10)).sum())
    assert dearest > bits + 0.5 and made.ideal < 64 * 12  # it has learned something, and classes differ
    assert (tmp_path / "a.rvz").stat().st_size == made.total and made.others["PNG"] > made.payload


def test_the_integers_are_all_that_decoding_needs(one: Path):
    """Other threads, and rounding of the last bits, change nothing; a change that reaches the integers does."""
    model = coding.coder(Run(one).open())
    tokens = torch.randint(0, 256, (5, 64), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1, 4, 1, 5])
    code = coding.encode(model, tokens, labels)
    assert torch.equal(coding.decode(model, code, 5), tokens)
    torch.set_num_threads(2)
    try:
        assert coding.encode(model, tokens, labels) == code
    finally:
        torch.set_num_threads(1)
    log_p = torch.randn(300, 256, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)
    table = coding.integers(log_p)
    assert table.min() >= 1.0 and np.array_equal(table, table.round())
    assert np.array_equal(table, coding.integers(log_p + 1e-15))
    assert not np.array_equal(table, coding.integers(log_p + 1e-5))


def test_a_machine_that_computes_otherwise_is_refused(one: Path, pictures: Path, tmp_path: Path, monkeypatch):
    archives.compress(Run(one), pictures, tmp_path / "a.rvz")
    kept = coding.integers
    monkeypatch.setattr(coding, "integers", lambda log_p: kept(log_p * 1.001))
    with pytest.raises(RunError, match=r"this machine .* computes other probabilities"):
        archives.decompress(tmp_path / "a.rvz", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_damaged_and_foreign_files(one: Path, pictures: Path, tmp_path: Path):
    archive, back = tmp_path / "a.rvz", tmp_path / "back"
    archives.compress(Run(one), pictures, archive)
    whole = archive.read_bytes()
    for at in (5, 9, 40, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="is damaged: its checksum"):
            archives.decompress(archive, back)
    for content in (whole[:-3], whole[:6], whole + b"x"):
        archive.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            archives.decompress(archive, back)
    for content in (b"", b"\x89PNG and so on", whole[1:]):
        archive.write_bytes(content)
        with pytest.raises(InputError, match="is no archive that reverie compress wrote"):
            archives.decompress(archive, back)
    with pytest.raises(InputError, match="no file"):
        archives.decompress(tmp_path / "b.rvz", back)
    assert not back.exists()


def forged(archive: Path, **said: object) -> None:
    """The same archive with another header, its checksums made right."""
    body = archive.read_bytes()[8:]
    end = 4 + struct.unpack("<I", body[:4])[0]
    header = zlib.compress(json.dumps({**json.loads(zlib.decompress(body[4:end])), **said}).encode())
    body = struct.pack("<I", len(header)) + header + body[end:]
    archive.write_bytes(archives.MAGIC + struct.pack("<I", zlib.crc32(body)) + body)


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "..\\out.png", "run.sh", "a\0.png", ""])
def test_a_name_leads_nowhere_else(one: Path, pictures: Path, tmp_path: Path, name: str):
    archive = tmp_path / "a.rvz"
    archives.compress(Run(one), pictures, archive)
    names = archives.read(archive)[0].names
    forged(archive, names=[name, *names[1:]])
    with pytest.raises(InputError, match="is no archive of this version"):
        archives.decompress(archive, tmp_path / "back")
    forged(archive, names=names)
    assert len(archives.decompress(archive, tmp_path / "back")) == 12


@pytest.mark.parametrize(
    "said",
    [
        {"names": 3},
        {"sizes": [1]},
        {"batch": 0},
        {"sizes": [10**9]},
        {"extra": 1},
        {"names": ["a.png", 3]},
        {"pixels": []},
    ],
)
def test_a_header_that_makes_no_sense(one: Path, pictures: Path, tmp_path: Path, said: dict):
    archive = tmp_path / "a.rvz"
    archives.compress(Run(one), pictures, archive)
    forged(archive, **said)
    with pytest.raises(InputError, match="is no archive of this version"):
        archives.read(archive)


def test_the_weights_are_found_by_their_hash(one: Path, run: Path, pictures: Path, tmp_path: Path):
    archive, moved = tmp_path / "a.rvz", tmp_path / "moved"
    shutil.copytree(one, moved)
    archives.compress(Run(moved), pictures, archive)
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no run in"):
        archives.decompress(archive, tmp_path / "back")
    with pytest.raises(InputError, match="compressed by other weights than there are"):
        archives.decompress(archive, tmp_path / "back", run)
    assert len(archives.decompress(archive, tmp_path / "back", tmp_path / "elsewhere")) == 12
    with pytest.raises(InputError, match="is there already"):
        archives.decompress(archive, tmp_path / "back", tmp_path / "elsewhere")


def wrong(folder: Path, kind: str) -> None:
    size, levels = (8, 8), np.arange(64, dtype=np.uint8).reshape(8, 8)
    match kind:
        case "9x8":
            Image.new("L", (9, 8)).save(folder / "x.png")
        case "colours":
            Image.new("RGB", size, (200, 10, 10)).save(folder / "x.png")
        case "transparency":
            Image.new("LA", size, (200, 10)).save(folder / "x.png")
        case "more than 8 bits":
            Image.fromarray(levels.astype(np.uint16) * 500).save(folder / "x.png")
        case "one name":
            picture(0).save(folder / "digit 1.webp", lossless=True)
        case "cannot be read":
            (folder / "x.png").write_bytes(b"no picture")


@pytest.mark.parametrize("kind", ["9x8", "colours", "transparency", "more than 8 bits", "one name", "cannot be read"])
def test_pictures_that_would_not_come_back(one: Path, pictures: Path, tmp_path: Path, kind: str):
    wrong(pictures, kind)
    with pytest.raises(InputError, match=kind):
        archives.compress(Run(one), pictures, tmp_path / "a.rvz")
    assert not (tmp_path / "a.rvz").exists()


def test_levels_that_do_not_fit_the_pictures(pictures: Path, tmp_path: Path, one: Path):
    words = "train pixelcnn --data digits8 --width 4 --depth 2 --train.images 64 --train.batch 32 --train.processes 1 --levels"
    assert main(f"{words} 4 --out {tmp_path / 'four'}".split()) == 0
    with pytest.raises(InputError, match="has levels between the 4 of the model"):
        archives.compress(Run(tmp_path / "four"), pictures, tmp_path / "a.rvz")
    assert main(f"{words} 17 --out {tmp_path / 'own'}".split()) == 0  # those of these digits
    assert archives.compress(Run(tmp_path / "own"), pictures, tmp_path / "a.rvz").pictures == 12
    archives.decompress(tmp_path / "a.rvz", tmp_path / "back")
    assert all(
        np.array_equal(a, b) for a, b in zip(arrays(pictures).values(), arrays(tmp_path / "back").values(), strict=True)
    )
    for levels in ("1", "257"):
        assert main(f"{words} {levels} --out {tmp_path / 'none'}".split()) == 2
    assert not (tmp_path / "none").exists()


def test_runs_that_do_not_compress(tmp_path: Path, pictures: Path, one: Path):
    words = "--data digits8 --train.images 64 --train.batch 32 --out"
    assert (
        main(
            f"train tile --train.processes 1 --patch 2 --codes 8 --width 16 --depth 1 --heads 2 {words} {tmp_path / 'tile'}".split()
        )
        == 0
    )
    with pytest.raises(InputError, match="--head mixture"):
        archives.compress(Run(tmp_path / "tile"), pictures, tmp_path / "a.rvz")
    assert main(f"train autoencoder --width 4 {words} {tmp_path / 'space'}".split()) == 0
    with pytest.raises(InputError, match="run of the task autoencoder"):
        archives.compress(Run(tmp_path / "space"), pictures, tmp_path / "a.rvz")
    with pytest.raises(InputError, match="no pictures in"):
        archives.compress(Run(one), tmp_path / "tile" / "checkpoints", tmp_path / "a.rvz")


def test_grey_as_colours_and_one_file_serve(one: Path, tmp_path: Path):
    picture(7).convert("RGB").save(tmp_path / "seven.png")
    archives.compress(Run(one), tmp_path / "seven.png", tmp_path / "a.rvz")
    (path,) = archives.decompress(tmp_path / "a.rvz", tmp_path / "back")
    assert path.name == "seven.png" and np.array_equal(np.asarray(Image.open(path)), np.asarray(picture(7)))


@pytest.mark.slow
def test_all_held_out_emoji_come_back(tmp_path: Path):
    """In colour, and as many at a time as a batch holds; the model knows next to nothing."""
    words = "train pixelcnn --data emoji --width 6 --depth 2 --train.images 320 --train.batch 16 --train.processes 1 --train.warmup 32"
    assert main(f"{words} --train.lr 0.01 --out {tmp_path / 'run'}".split()) == 0
    images = rv.data.load("emoji", "test").images
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(images):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "in" / f"{i:03d}.png")
    made = archives.compress(Run(tmp_path / "run"), tmp_path / "in", tmp_path / "a.rvz")
    archives.decompress(tmp_path / "a.rvz", tmp_path / "out")
    before, after = arrays(tmp_path / "in"), arrays(tmp_path / "out")
    assert len(before) == 208 and before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert abs(made.payload - made.ideal) < 0.01 * made.ideal
