"""FID's Inception against torch-fidelity, on random weights: features, distances, files, and what is called FID."""

import importlib
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

from reverie.core import files
from reverie.core.errors import InputError
from reverie.measure import inception
from reverie.measure.extract import FeatureExtractor
from reverie.measure.figures import FID_EXTRACTOR
from reverie.measure.frechet import frechet_distance
from reverie.measure.inception import Inception, resize
from reverie.measure.pictures import from_bytes
from reverie.recipes.measuring import named

ORACLES = Path(sys.prefix) / "oracles" / "torch_fidelity"


@pytest.fixture(scope="module")
def fidelity():
    """torch-fidelity's extractor, without the rest of the package, which imports torchvision."""
    if not ORACLES.is_dir():
        pytest.skip("torch-fidelity is not installed: see the Makefile")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(ORACLES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity", package)
        yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        for name in [name for name in sys.modules if name.startswith("torch_fidelity.")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def theirs(fidelity, tmp_path_factory) -> nn.Module:
    """Their network of random weights and statistics."""

    class Random(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, weights):
            rng = torch.Generator().manual_seed(0)
            for part in self.modules():
                if isinstance(part, nn.Conv2d):
                    part.weight.data.normal_(0, (2 / part.weight[0].numel()) ** 0.5, generator=rng)
                if isinstance(part, nn.BatchNorm2d):
                    for tensor, low in (
                        (part.weight, 0.5),
                        (part.running_var, 0.5),
                        (part.bias, -0.5),
                        (part.running_mean, -0.5),
                    ):
                        tensor.data.uniform_(low, low + 1, generator=rng)

    nothing = tmp_path_factory.mktemp("nothing") / "nothing.pth"
    torch.save({}, nothing)
    return Random("random", ["2048"], str(nothing)).eval()


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory) -> Path:
    """A file like the published one: theirs, in the older layout of PyTorch and without counts of batches."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    content = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def bytes_of(n: int, *shape: int, low: int = 0, high: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def gap(theirs: nn.Module, ours: Inception, pictures: torch.Tensor) -> float:
    with torch.no_grad():
        expected = theirs(pictures.expand(-1, 3, -1, -1))[0]
        return (ours(from_bytes(pictures)) - expected).abs().max().item()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 40), (3, 310, 299)])
def test_features_are_those_of_torch_fidelity(theirs, weights, shape):
    ours = Inception(weights)
    assert isinstance(ours, FeatureExtractor)
    assert gap(theirs, ours, bytes_of(1, *shape)) < 1e-4


def middle(images: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def counting(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images, 3, 1, 1)


@pytest.mark.parametrize(
    ("name", "wrong"), [("_mean", counting), ("_max", counting), ("resize", middle), ("SIDE", 298)]
)
def test_another_pooling_or_another_resize_are_other_features(theirs, weights, monkeypatch, name, wrong):
    monkeypatch.setattr(inception, name, wrong)
    assert gap(theirs, Inception(weights), bytes_of(1, 3, 32, 32)) > 1e-2


def test_distances_are_those_of_torch_fidelity(theirs, weights):
    """In three directions of the features, for which few pictures are enough."""
    ours = Inception(weights)
    sets = [bytes_of(5, 3, 16, 16, seed=1), bytes_of(5, 3, 16, 16, low=64, high=160, seed=2)]
    directions = torch.linalg.qr(torch.randn(2048, 3, generator=torch.Generator().manual_seed(3)).double()).Q
    with torch.no_grad():
        x, y = (ours(from_bytes(pictures)).double() @ directions for pictures in sets)
        u, v = ((theirs(pictures)[0].double() @ directions).numpy() for pictures in sets)
    a, b = np.cov(u, rowvar=False), np.cov(v, rowvar=False)
    shift = u.mean(0) - v.mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert expected > 0.01 and frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_pixels_are_resized_as_in_tensorflow_1():
    """Output i of n lies at i · size / n: twice the size repeats the last pixel, half the size takes every second one."""
    line = torch.tensor([0.0, 10.0, 40.0]).expand(1, 1, 3, 3)
    assert torch.equal(resize(line, 6)[0, 0, 0], torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0]))
    assert torch.equal(resize(line.mT, 6)[0, 0, :, 0], torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0]))
    grid = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(resize(grid, 2)[0, 0], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    assert not torch.equal(middle(grid, 2), resize(grid, 2))


def test_pictures_are_rounded_to_8_bits(weights):
    ours, pictures = Inception(weights), bytes_of(1, 1, 8, 8, low=1, high=255)
    exact = from_bytes(pictures)
    with torch.no_grad():
        assert torch.equal(ours(exact + 0.4 / 127.5), ours(exact))
        assert (ours(exact + 0.6 / 127.5) - ours(exact)).abs().max() > 1e-4
    with pytest.raises(InputError, match="floating-point"):
        ours(pictures)
    with pytest.raises(InputError, match="1 or 3"):
        ours(torch.zeros(1, 2, 8, 8))


def test_only_the_published_file_is_called_by_its_name(weights, monkeypatch):
    found = files.sha256(weights)
    assert Inception(weights).name == f"inception:{found[:8]}"
    monkeypatch.setattr(inception, "SHA256", found)
    assert Inception(weights).name == FID_EXTRACTOR
    assert named(f"inception:{weights}").name == FID_EXTRACTOR


def test_weights_are_read_from_every_kind_of_file(weights, tmp_path):
    content, expected = torch.load(weights, weights_only=True), Inception(weights).state_dict()
    torch.save(content, tmp_path / "new.pth")
    files.write_tensors(tmp_path / "same.safetensors", content, None)
    for name in ("new.pth", "same.safetensors"):
        found = Inception(tmp_path / name)
        assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
        assert found.name != FID_EXTRACTOR


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_what_is_no_file_of_these_weights_is_refused(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(weights, weights_only=True)
    first = "Conv2d_1a_3x3.conv.weight"
    torch.save({**content, first: content[first][:16]}, "narrow.pth")
    torch.save({key: value for key, value in content.items() if key != first}, "short.pth")
    torch.save({**content, "AuxLogits.fc.weight": torch.zeros(1)}, "torchvision.pth")
    torch.save([1, 2], "list.pth")
    Path("junk.pth").write_bytes(b"junk" * 100)
    Path("junk.safetensors").write_bytes(b"junk" * 100)
    Path("evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    Path("folder.pth").mkdir()
    for name in ("narrow", "short", "torchvision"):
        with pytest.raises(InputError, match=rf"{name}.pth holds weights of another network: .*6726825d"):
            Inception(f"{name}.pth")
    for name in ("list.pth", "junk.pth", "junk.safetensors", "evil.pth"):
        with pytest.raises(InputError, match=f"{name} is no file of weights .*6726825d"):
            Inception(name)
    assert not Path("touched").exists()
    for name in ("folder.pth", "gone.pth"):
        with pytest.raises(InputError, match=f"no file {name}: .*pytorch-fid"):
            Inception(name)
    for extractor in ("inception", "inception:", "resnet:x"):
        with pytest.raises(InputError, match=r"unknown extractor .*inception:PATH"):
            named(extractor)
