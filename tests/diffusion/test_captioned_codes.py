"""Captions of codes: latent text-to-image, with mirror images, on codes that are made once."""

from pathlib import Path

import torch

from reverie.core.batch import DataSpec
from reverie.core.condition import Text
from reverie.core.spelling import spelled
from reverie.core.task import Given
from reverie.data import ImageSet, Mirrored
from reverie.data.codes import of_codes
from reverie.diffusion import building
from reverie.diffusion.config import DenoisingConfig
from reverie.nets.config import DiTConfig, TextConfig
from reverie.spaces.config import SpaceConfig

CONFIG = DenoisingConfig(
    net=DiTConfig(patch=1, width=16, depth=1, heads=2),
    space=SpaceConfig(name="pca", patch=4, dims=6),
    text=TextConfig(width=16, depth=1, heads=2),
)


def pictures() -> ImageSet:
    torch.manual_seed(0)
    store = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    columns = {"name": [f"picture {i}" for i in range(12)]}
    whole = ImageSet("few", "train", store, torch.arange(12), columns=columns, text="name")
    return whole.with_captions(("{}", "the {}"))


def test_codes_are_told_what_their_pictures_are_called(tmp_path: Path):
    data = pictures()
    spec = DataSpec(data.shape, data.spec.conditions)
    assert spec.conditions == {"text": Text(15)}
    given = Given(spec, data, data, tmp_path, 0, "cpu", lambda _: None)
    CONFIG.prepare(given)
    seen, unseen = CONFIG.examples(data, data, tmp_path, tmp_path / "codes")
    model = CONFIG.build(spec, 0, tmp_path)
    assert of_codes(seen) and not of_codes(data) and (len(seen), len(unseen)) == (24, 12)
    batch = seen.batch([6, 7])
    assert batch.cond is not None
    assert torch.equal(batch.cond["text"].value, spelled(["picture 3", "the picture 3"], 15))
    torch.testing.assert_close(batch.x, model.space.encode(data.batch([3, 3]).x))
    both, _ = CONFIG.examples(Mirrored(data), data, tmp_path, tmp_path / "codes")
    turned = both.batch([24 + 6])
    assert turned.cond is not None and torch.equal(turned.cond["text"].value, spelled(["picture 3"], 15))
    torch.testing.assert_close(turned.x, model.space.encode(data.batch([3]).x.flip(-1)))


def test_a_model_of_codes_is_shown_and_trained(tmp_path: Path):
    data = pictures()
    CONFIG.prepare(Given(data.spec, data, data, tmp_path, 0, "cpu", lambda _: None))
    model = CONFIG.build(data.spec, 0, tmp_path)
    seen, unseen = CONFIG.examples(data, data, tmp_path, tmp_path / "codes")
    task = building.denoising(CONFIG, model, seen, unseen, CONFIG.Sample(steps=2, solver="euler"), 0)
    assert set(task.players) == {"denoiser", "text"}
    preview = task.preview()
    assert preview is not None and preview.headings[0] == "picture 0" and len(preview.images) >= 2 * preview.columns
    with torch.no_grad():
        assert "loss" in task.validate()
