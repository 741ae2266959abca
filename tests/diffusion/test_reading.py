"""A text encoder that has learned to read before the network listens to it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie import spaces
from reverie.core import files
from reverie.core.batch import DataSpec
from reverie.core.condition import Text
from reverie.core.errors import RunError
from reverie.diffusion import building, first_stage, reading
from reverie.diffusion.conditioned import InstructConfig
from reverie.families.token_config import MaskGITConfig, PartiConfig, VARConfig
from reverie.measure.config import TowersConfig
from reverie.nets.config import TextConfig, UNetConfig
from reverie.nets.text import TextEncoder
from reverie.recipes import outlook, serialisation, training
from reverie.recipes.outlook import Pace

from ..margin import apart

NAMED = serialisation.load(serialisation.find("emoji-text"))
SMALL = TextConfig(width=16, depth=1, heads=2, images=256)
NET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, groups=4, patch=4)
TRAIN = replace(
    NAMED.train, images=32, batch=4, processes=1, warmup=4, sample_every=32, validate_every=100, save_every=32
)


def recipe(text: TextConfig):
    return replace(
        NAMED,
        train=TRAIN,
        task=replace(NAMED.task, net=NET, text=text, prior=None, prior_captions=None, prior_neighbours=0),
    )


def begun(text: TextConfig, folder: Path | None) -> dict[str, torch.Tensor]:
    """The weights that the text encoder of a run begins with."""
    run = recipe(text)
    spec = rv.data.load("emoji").with_captions(run.data.templates).spec
    return dict(building.denoiser(run.task, spec, 0, folder).conditioner.text.own.named_parameters())


def test_a_run_begins_with_what_its_encoder_has_read_and_one_that_has_not_with_fresh_weights(tmp_path: Path):
    run, _ = rv.recipes.train(recipe(SMALL), tmp_path / "read")
    read = files.read_tensors(run.folder / reading.FILE)
    fresh, mine = begun(SMALL, None), begun(SMALL, run.folder)
    for name, value in mine.items():
        assert torch.equal(value, read[name])
    assert (
        apart(torch.cat([v.flatten() for v in fresh.values()]), torch.cat([v.flatten() for v in mine.values()])) > 1e-3
    )
    trained = run.checkpoint.tensors("ema")
    assert apart(trained["text.norm.weight"], read["norm.weight"]) > 1e-5  # and goes on learning
    assert torch.equal(rv.load(run.folder).conditioner.text.own.norm.weight, trained["text.norm.weight"])

    other, _ = rv.recipes.train(recipe(replace(SMALL, images=0)), tmp_path / "fresh")
    assert not (other.folder / reading.FILE).exists()
    assert all(torch.equal(value, fresh[name]) for name, value in begun(SMALL, other.folder).items())


def test_what_is_read_before_finds_the_picture_of_a_caption(tmp_path: Path):
    """Black and white pictures: after seconds, the encoder's vector of a caption tells them apart more than a fresh one's."""
    from PIL import Image

    for i in range(64):
        Image.new("RGB", (16, 16), ("black", "white")[i % 2]).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(("night", "snow")[i % 2])
    data = rv.data.load(tmp_path, size=16, channels=3).with_captions()
    given = first_stage.Given(data.spec, data, data, tmp_path, 0, "cpu", rv.load)
    found = reading.lesson(replace(SMALL, images=1024), given)
    assert found is not None
    before = found.task.validate()["at_one"]
    first_stage.learned(*found, tmp_path / "reading", 0, "to read")
    found.task.towers.eval()
    after = found.task.validate()
    assert after["at_one"] == 1.0 and isinstance(before, float) and before < 1.0


def test_an_interrupted_lesson_goes_on_and_data_without_captions_has_none(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(first_stage, "train", lambda *_, **__: 128)
    with pytest.raises(RunError, match="to read its captions was interrupted after 128 of 256"):
        rv.recipes.train(recipe(SMALL), tmp_path / "run")
    data = rv.data.load("mnist5k")
    given = first_stage.Given(data.spec, data, data, tmp_path, 0, "cpu", rv.load)
    assert reading.lesson(SMALL, given) is None


def test_a_budget_leaves_a_fifth_for_reading(tmp_path: Path, monkeypatch):
    for room in (outlook, training):
        monkeypatch.setattr(room, "pace", lambda *_: Pace(0.05, 1.0, 1))
    run, _ = rv.recipes.train(recipe(replace(SMALL, images=10_000)), tmp_path / "run", budget=40.0)
    assert run.recipe.task.text.images == 128  # a fifth of 40 s at a twentieth each, in whole batches
    again, _ = rv.recipes.train(recipe(replace(SMALL, images=10_000)), tmp_path / "run", budget=40.0)
    assert again.recipe == run.recipe


def test_only_what_is_read_is_kept_of_the_two_towers():
    spec = rv.data.load("emoji").with_captions().spec
    towers = TowersConfig(encoder=reading.PICTURES, width=SMALL.width, depth=SMALL.depth, heads=SMALL.heads).build(
        spec, 0
    )
    own = building.texts_of(SMALL, spec, 0, True)
    assert own is not None and own.own is not None
    assert own.own.state_dict().keys() == towers.text.state_dict().keys()


@pytest.mark.parametrize("task", [MaskGITConfig, VARConfig, PartiConfig, InstructConfig])
def test_every_model_of_texts_begins_with_what_was_read(tmp_path: Path, task):
    spec = DataSpec((3, 16, 32) if task is InstructConfig else (3, 16, 16), {"text": Text(24)})
    config = task(text=SMALL, net=NET) if task is InstructConfig else task(text=SMALL, width=16, depth=1, heads=2)
    if task is not InstructConfig:
        spaces.save(building.space_of(config.space, spec, None), tmp_path / "space.safetensors")  # pyright: ignore[reportArgumentType]
    torch.manual_seed(5)
    read = TextEncoder(SMALL, 24)
    fresh = config.modules(config.build(spec, 0, tmp_path))["text"]
    assert apart(fresh.norm.weight + fresh.embed["byte"].weight, read.norm.weight + read.embed["byte"].weight) > 0.01  # pyright: ignore
    files.write_tensors(tmp_path / reading.FILE, read.state_dict(), {"what": "text encoder"})
    found = config.modules(config.build(spec, 0, tmp_path))["text"]
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_run_that_starts_from_another_does_not_learn_to_read_again(tmp_path: Path, monkeypatch):
    run, _ = rv.recipes.train(recipe(SMALL), tmp_path / "first")
    monkeypatch.setattr(first_stage, "train", lambda *_, **__: pytest.fail("it learned to read"))
    begins = replace(recipe(SMALL), init=str(run.folder))
    rv.recipes.train(begins, tmp_path / "second")
    other = replace(begins, task=replace(begins.task, text=replace(SMALL, depth=2)))
    with pytest.raises(pytest.fail.Exception):  # the control: another encoder is taught
        rv.recipes.train(other, tmp_path / "third")
