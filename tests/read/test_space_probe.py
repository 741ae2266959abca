"""A space is probed at its code: with all principal components it reads as the pixels do, with one hardly, and a run by its verb."""

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.core.errors import InputError
from reverie.read.probes import grid
from reverie.spaces import PatchPCA


@pytest.fixture(scope="module")
def digits():
    return rv.data.load("digits8"), rv.data.load("digits8", split="test")


def probed(space, digits):
    return grid.run(space, *digits, labels=200, seeds=2, pool=1)


def test_all_components_read_as_the_pixels_and_one_does_not(digits):
    whole = probed(PatchPCA.fit(digits[0], 8, 64), digits)
    assert whole.trained.sites == ["code"] and whole.trained.levels == [0.0]
    assert whole.trained.score.mean == pytest.approx(sum(whole.pixels) / 2, abs=0.1)  # whose penalty is tuned
    assert probed(PatchPCA.fit(digits[0], 8, 1), digits).trained.score.mean < 0.6 * whole.trained.score.mean
    assert "code at t 0" in whole.sentence


def test_the_control_has_other_weights_and_the_space_keeps_its_own():
    space = rv.spaces.ConvAE(1, 2, 4, width=8)
    before = {key: value.clone() for key, value in space.state_dict().items()}
    other = grid.drawn_anew(space, seed=5)
    assert all(torch.equal(value, before[key]) for key, value in space.state_dict().items())
    assert not torch.equal(other.encoder[0].weight, space.encoder[0].weight)


def test_a_run_is_probed_by_its_verb(tmp_path, capsys):
    flags = "--kind vq --patch 2 --width 8 --codes 16 --train.images 256 --train.batch 64 --train.warmup 64"
    assert main(["train", "autoencoder", "--data", "digits8", *flags.split(), "--out", str(tmp_path / "vq")]) == 0
    assert main(["read", "probe", str(tmp_path / "vq"), "--labels", "100", "--seeds", "1"]) in (0, None)
    said = capsys.readouterr().out
    assert "Best cell: code" in said and "next:" not in said.splitlines()[-1]  # no report is drawn of a space


def test_a_space_has_no_noise_to_read_at(digits):
    with pytest.raises(InputError, match="without noise"):
        grid.run(PatchPCA.fit(digits[0], 8, 4), *digits, labels=100, seeds=1, logsnr=[2.0])
