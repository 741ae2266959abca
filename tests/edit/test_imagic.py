"""Imagic: what is optimised goes from the target to the picture, and η leads back; the model stays."""

import pytest
import torch

import reverie as rv
from reverie.adapt.adapter import fingerprint
from reverie.core.errors import InputError
from reverie.edit import imagic
from reverie.solve import DDIM

from ..adapt.small import DIT, model
from ..margin import apart
from .made import images, random_unet, text

HOW = {"steps": 3, "solver": DDIM()}


@pytest.mark.parametrize("told", ["class", "text"])
def test_where_nothing_is_learned_it_is_a_sample_of_the_target(told):
    denoise = model(DIT) if told == "class" else random_unet()
    cond = rv.Cond(label=1) if told == "class" else text(1)
    picture, hashed = images().to(denoise.dtype), fingerprint(denoise.net)
    plain = rv.sample(denoise, 1, cond, seed=3, progress="", **HOW)
    for eta in (0.0, 0.7):
        assert torch.equal(imagic(denoise, picture, cond, eta, optimise=0, tune=0, seed=3, **HOW), plain)
    learned = imagic(denoise, picture, cond, 0.0, optimise=4, tune=0, seed=3, **HOW)
    tuned = imagic(denoise, picture, cond, 0.0, optimise=0, tune=4, seed=3, **HOW)
    assert apart(learned, plain) > 1e-3 and apart(tuned, plain) > 1e-3 and apart(tuned, learned) > 1e-3
    assert fingerprint(denoise.net) == hashed


def test_eta_leads_from_the_picture_to_the_target():
    denoise, picture = model(DIT), images().float()
    how = {"optimise": 60, "tune": 300, "rates": (0.1, 0.01), "steps": 8, "solver": DDIM()}
    edited = imagic(denoise, picture, rv.Cond(label=1), (0.0, 0.5, 1.0), **how)
    off = (edited - picture).square().flatten(1).mean(1)
    assert off[0] < 10**-0.6 * off[2] and off[0] < off[1] < off[2]  # 6 dB


def test_what_it_cannot_edit_is_said():
    denoise = model(DIT)
    with pytest.raises(InputError, match="one picture: got 2"):
        imagic(denoise, images(2).float(), rv.Cond(label=1))
    with pytest.raises(InputError, match="one condition: got 2"):
        imagic(denoise, images().float(), rv.Cond(label=[1, 2]))
    with pytest.raises(InputError, match="give a class or a text"):
        imagic(model(DIT, None), images().float(), rv.Cond())
    with pytest.raises(InputError, match="gradients"), torch.no_grad():
        imagic(denoise, images().float(), rv.Cond(label=1))
