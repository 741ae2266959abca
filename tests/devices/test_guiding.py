"""Guides, objectives and posterior methods on another device: the same pictures as on the CPU."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.schedules import VP
from reverie.diffusion.control import control
from reverie.diffusion.hints import edges as edge_map
from reverie.guide import energies
from reverie.guide.attention import position, shape, size
from reverie.guide.classifier import NetClassifier
from reverie.guide.freedom import FreeDoM
from reverie.inverse import operators
from reverie.nets.controlnet import ControlNet

from .emulated import DEVICE
from .models import CHANNELS, CLASSES, MODELS, SIZE, condition, pictures, shaken, vectors
from .test_sampling import WITHOUT_WAITING, same

X = pictures()
HALF = torch.arange(SIZE)[None].expand(SIZE, SIZE) < SIZE // 2


def classifier() -> NetClassifier:
    torch.manual_seed(1)
    net = rv.nets.build(
        rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2),
        channels=CHANNELS,
        size=SIZE,
        classes=CLASSES,
    )
    return NetClassifier(shaken(net), VP(), CLASSES, shape=(CHANNELS, SIZE, SIZE))


def steering(denoise: NetDenoiser) -> ControlNet:
    torch.manual_seed(1)
    return shaken(ControlNet(denoise.net).cpu()).to(denoise.device)  # pyright: ignore[reportReturnType]


def logits(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(2).mean(2)


GUIDES: dict[str, Callable[[NetDenoiser], Denoiser]] = {
    **WITHOUT_WAITING,
    "function": lambda d: rv.guide.cfg(d, lambda logsnr: 2.0 + math.tanh(logsnr) if isinstance(logsnr, float) else 2.0 + logsnr.tanh()),
    "negative": lambda d: rv.guide.cfg(d, 2.0, negative=rv.Cond(label=3)),
    "classifier": lambda d: rv.guide.classifier(d, classifier().to(d.device), 2.0),
    "energy": lambda d: rv.guide.energy(d, operators.residual(operators.SuperResolution(2), operators.SuperResolution(2)(X))),
    "masked": lambda d: rv.guide.energy(d, energies.masked(X, HALF), torch.tensor([1.0, 2.0])),
    "lowres": lambda d: rv.guide.energy(d, energies.lowres(X, 2)),
    "colours": lambda d: rv.guide.energy(d, energies.colours(X)),
    "edges": lambda d: rv.guide.energy(d, energies.edges(X)),
    "classified": lambda d: rv.guide.energy(d, energies.classified(logits, [0, 2])),
    "similarity": lambda d: rv.guide.energy(d, energies.similarity(lambda x: x.flatten(1), X.flatten(1))),
    "style": lambda d: rv.guide.energy(d, energies.style(lambda x: [x], X)),
    "control": lambda d: control(d, steering(d), edge_map(X), 0.7, (-3.0, 9.0)),
    "pigdm": lambda d: rv.inverse.pigdm(d, operators.Inpaint(HALF), operators.Inpaint(HALF)(X), 0.1),
    "stacked": lambda d: rv.guide.energy(rv.inverse.pigdm(d, operators.Inpaint(HALF), operators.Inpaint(HALF)(X)), energies.lowres(X, 2)),
}  # fmt: skip
OPERATORS: dict[str, operators.Operator] = {
    "inpaint": operators.Inpaint(HALF),
    "superresolution": operators.SuperResolution(2),
    "blur": operators.Blur.gaussian(0.8),
    "colourise": operators.Colourise(),
    "sensing": operators.CompressedSensing((CHANNELS, SIZE, SIZE), 60),
    "phase": operators.Phase(),
}


@pytest.fixture(scope="module")
def both() -> tuple[NetDenoiser, NetDenoiser]:
    here = MODELS["dit"]()
    return copy.deepcopy(here).to(DEVICE), here


@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_draws_the_same(both, name):
    drawn = [rv.sample(GUIDES[name](d), cond=rv.Cond(label=[1, 2]), solver="heun", steps=2) for d in both]
    same(*drawn, 1e-3)


def test_a_picture_and_an_instruction():
    torch.manual_seed(0)
    config = rv.nets.UNetConfig(width=8, multipliers=(1, 2), blocks=1, heads=2, attention=(2,), context=5, length=6)
    net = rv.nets.build(config, channels=CHANNELS, size=SIZE, image=CHANNELS)
    here = NetDenoiser(shaken(net), VP(), "v", shape=(CHANNELS, SIZE, SIZE))
    told = Cond(text=condition(here)["text"])  # pyright: ignore[reportOptionalSubscript]
    same(*(rv.edit.instruct(d, X, told, steps=2) for d in (copy.deepcopy(here).to(DEVICE), here)))


def test_composed_conditions_and_regions(both):
    parts = [(rv.Cond(label=1), 2.0), (rv.Cond(label=2), -0.5)]
    left = torch.ones(SIZE, 12)
    regions = [(left, rv.Cond(label=1)), (left.flip(1), rv.Cond(label=2))]
    for guide in (lambda d: rv.guide.compose(d, parts), lambda d: rv.guide.windows(d, (SIZE, 12), 4, regions)):
        same(*(rv.sample(guide(d), 2, steps=2) for d in both))


def test_attention_guides(both):
    here = MODELS["unet-text"]()
    there = copy.deepcopy(here).to(DEVICE)
    energy = rv.guide.attention
    place, extent, form = position(1, (0.5, 0.2)), size(1, 0.3), shape(1, HALF[None].float())
    for look in (lambda seen: place(seen) + extent(seen), form):
        drawn = [rv.sample(energy(d, look, 5.0), cond=condition(here), solver="ddim", steps=2) for d in (there, here)]
        same(*drawn, 1e-3)


def test_correctors_and_objectives(both):
    small = operators.SuperResolution(2)
    label = rv.Cond(label=[1, 2])
    for solver in (
        lambda d: rv.inverse.dps(small, small(X), 0.5),
        lambda d: FreeDoM(rv.solve.DDIM(), energies.lowres(X, 2)),
        lambda d: rv.inverse.RePaint(operators.Inpaint(HALF), operators.Inpaint(HALF)(X)),
        lambda d: rv.guide.ClassifierMean(classifier().to(d.device), label),
    ):
        same(*(rv.sample(d, 2, label, solver=solver(d), steps=3) for d in both), 1e-3)
    slopes = []
    for d in both:
        images = X.to(d.device).requires_grad_()
        slopes.append(torch.autograd.grad(rv.guide.sds(d, images, label).sum(), images)[0])
    same(*slopes)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_measures_the_same(name):
    a = OPERATORS[name]
    y = a(X)
    same(a(X.to(DEVICE)), y)
    if name != "phase":
        for f in (a.adjoint, a.pinv, lambda v: a.solve(v, 0.5, 0.1)):
            same(f(y.to(DEVICE)), f(y))
        same(
            operators.conjugate_gradients(lambda u: a(a.adjoint(u)) + u, y.to(DEVICE)),
            operators.conjugate_gradients(lambda u: a(a.adjoint(u)) + u, y),
            1e-3,
        )
    same(rv.inverse.consistency(a, y, (0.5 * X).to(DEVICE)), rv.inverse.consistency(a, y, 0.5 * X))


@pytest.mark.parametrize("method", rv.inverse.METHODS)
def test_every_posterior_method_restores_the_same(both, method):
    a, n = OPERATORS["superresolution"], 1 if method == "dflow" else 2
    arguments: dict[str, Any] = {
        "noise": 0.05,
        "cond": rv.Cond(label=[1, 2][:n]),
        "steps": 1 if method == "dflow" else 10,
    }
    there, here = (rv.inverse.restore(d, a, a(X[:n]), method, **arguments) for d in both)
    same(there.images, here.images, 1e-2)


def test_pictures_by_way_of_representations():
    pixels, representations = MODELS["unet-text"](), vectors(rv.nets.vectors.VectorNet(7, 8, 1))
    pixels.shape, representations.shape = (3, 8, 8), (7,)
    here = rv.guide.rcg(pixels, representations, 2, vector_steps=2, steps=2)
    for mine, host in zip(
        rv.guide.rcg(pixels.to(DEVICE), representations.to(DEVICE), 2, vector_steps=2, steps=2), here, strict=True
    ):
        same(mine, host)
