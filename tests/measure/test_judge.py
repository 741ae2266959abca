"""The judge knows digits it has not seen, and a judge that knows nothing is told apart."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie import data
from reverie.core.errors import InputError
from reverie.measure import judge
from reverie.measure.config import JudgeConfig
from reverie.measure.extract import FeatureExtractor
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist5k", "test")


@pytest.fixture(scope="module")
def bundled():
    return judge.load("mnist5k")


def test_it_knows_digits_it_has_not_seen(bundled, digits):
    assert bundled.accuracy(digits) >= 0.985


def test_an_untrained_judge_guesses(digits):
    torch.manual_seed(0)
    guesses = [judge.Judge("mnist5k", digits.classes, 1, 28).eval().accuracy(digits) for _ in range(3)]
    assert all(guess < 0.3 for guess in guesses)


def test_it_needs_the_right_range(bundled, digits):
    """Pictures in [0, 1], or with ink and paper exchanged, are not what it was trained on: accuracy must suffer."""
    some = digits.batch(range(300))
    pictures, labels = some.x, some.label

    def accuracy(images):
        return (bundled.logits(images).argmax(1) == labels).double().mean().item()

    assert accuracy(pictures) > 0.97
    assert accuracy(-pictures) < 0.5


def test_every_class_is_known(bundled, digits):
    some = digits.batch(range(len(digits)))
    pictures, labels = some.x, some.label
    right = bundled.logits(pictures).argmax(1) == labels
    assert min(right[labels == digit].double().mean().item() for digit in range(10)) >= 0.95


def frechet(first, second):
    """By the textbook formula, with scipy's matrix square root."""
    from scipy.linalg import sqrtm

    (mean, covariance), (mean2, covariance2) = [(f.mean(0), f.T.cov()) for f in (first.double(), second.double())]
    cross = sqrtm((covariance @ covariance2).numpy()).trace().real
    return ((mean - mean2).square().sum() + (covariance + covariance2).trace() - 2 * cross).item()


def test_features_are_a_sound_space_for_distances(bundled, digits):
    """Real digits are near real digits; noise, blur and a class too few are far, each by several times."""
    held_out = bundled(digits.batch(range(1000)).x)
    assert held_out.shape == (1000, 64) and held_out.isfinite().all() and held_out.std(0).max() < 10
    some = data.load("mnist5k", "train").batch(range(1000))
    pictures, labels = some.x, some.label
    real = frechet(bundled(pictures), held_out)
    noisy = (pictures + 0.2 * torch.randn(pictures.shape)).clamp(-1, 1)
    blurred = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    assert frechet(bundled(noisy), held_out) > 5 * real
    assert frechet(bundled(blurred), held_out) > 5 * real
    assert frechet(bundled(pictures[labels != 9]), held_out) > 5 * real


def test_a_picture_is_judged_alike_in_any_company(bundled, digits):
    pictures = digits.batch(range(300)).x
    together = bundled(pictures)
    assert torch.allclose(together[40:43], bundled(pictures[40:43]), atol=1e-4)


def test_it_is_a_feature_extractor_without_gradients_of_its_own(bundled):
    assert isinstance(bundled, FeatureExtractor)
    assert (bundled.name, bundled.dim, bundled.classes) == ("judge-mnist5k", 64, [str(digit) for digit in range(10)])
    assert not bundled.training and not any(parameter.requires_grad for parameter in bundled.parameters())


def test_gradients_reach_the_pictures(bundled, digits):
    pictures = digits.batch(range(4)).x.requires_grad_()
    bundled.logits(pictures).sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def test_weights_are_small_enough_to_bundle():
    assert (judge.FOLDER / "mnist5k.safetensors").stat().st_size < 400_000


def learned(folder, images):
    """The judge of the recipe that comes along, after fewer images."""
    recipe = serialisation.load(serialisation.find("judge"))
    train = replace(recipe.train, images=images, warmup=images // 10, save_every=images, validate_every=images)
    run, _ = rv.recipes.train(replace(recipe, data=DataConfig(name="digits8"), train=train, seed=1), folder)
    return run.open()


def test_training_learns_and_repeats(tmp_path):
    train, test = data.load("digits8", "train"), data.load("digits8", "test")
    trained, again = (learned(tmp_path / name, 6000) for name in "ab")
    assert trained.accuracy(test) > 0.8
    pictures = test.batch(range(20)).x
    assert torch.equal(trained(pictures), again(pictures))
    trained.save(tmp_path / "digits.safetensors")
    restored = judge.load(tmp_path / "digits.safetensors")
    assert torch.equal(restored.logits(pictures), trained.logits(pictures))
    assert (restored.name, restored.classes, restored.size) == ("judge-digits8", train.classes, (8, 8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "digits.safetensors"]


def test_training_leaves_the_global_generator_alone(tmp_path):
    state = torch.get_rng_state()
    learned(tmp_path / "a", 200)
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_pictures_are_refused(bundled):
    with pytest.raises(InputError, match=r"\(N, 1, 28, 28\) in \[-1, 1\]; got torch.float32 of shape \(2, 3, 28, 28\)"):
        bundled(torch.zeros(2, 3, 28, 28))
    with pytest.raises(InputError, match=r"got torch\.uint8"):
        bundled(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


def test_wrong_files_are_refused(tmp_path, bundled):
    with pytest.raises(InputError, match="Did you mean 'mnist5k'"):
        judge.load("mnist")
    bundled.save(tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a judge"):
        judge.load(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors is not a judge"):
        judge.load(tmp_path / "other.safetensors")


def test_unlabelled_data_are_refused(digits):
    with pytest.raises(InputError, match="tell classes apart"):
        JudgeConfig().build(replace(digits, labels=None, classes=[]).spec, 0)
