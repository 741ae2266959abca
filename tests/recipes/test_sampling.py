"""A loaded model remembers how its recipe draws: rv.sample of it alone is the command line, and nothing else adds the guidance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.inverse import restore
from reverie.inverse.operators import SuperResolution
from reverie.learn import TrainConfig
from reverie.learn.grid import to_bytes
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run

from ..margin import apart

SAMPLE = SampleConfig(solver="dpmpp2", steps=6, grid="karras", scale=4.0, guide_below=-4.0)
RECIPE = Recipe(
    name="tiny",
    task=DenoisingConfig(net=DiTConfig(patch=14, width=16, depth=1, heads=2)),
    train=TrainConfig(images=640, batch=32, lr=0.01, warmup=32, save_every=640, validate_every=640, sample_every=10**6),
    sample=SAMPLE,
)
LABEL = rv.Cond(label=list(range(10)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "tiny")[0]


def drawn(folder: Path, *words: str) -> torch.Tensor:
    """What the command line draws, as bytes (10, 1, 28, 28)."""
    out = folder / "drawn"
    assert main(["sample", *words, "--device", "cpu", "--out", str(out)]) == 0
    return torch.stack([torch.from_numpy(np.array(Image.open(path)))[None] for path in sorted(out.glob("*.png"))])


def explicit(denoise, scale: float, below: float | None = -4.0, **how) -> torch.Tensor:
    how = {"solver": "dpmpp2", "steps": 6, "grid": "karras", **how}
    guided = denoise if scale == 1.0 else rv.guide.cfg(denoise, scale, None if below is None else (-np.inf, below))
    return rv.sample(guided, cond=LABEL, scale=1.0, **how)


def test_a_bare_model_is_drawn_from_as_the_command_line_does(run, tmp_path):
    denoise = rv.load(run.folder)
    alone = rv.sample(denoise, cond=LABEL)
    assert torch.equal(to_bytes(alone), drawn(tmp_path, str(run.folder), "--n", "10"))
    assert torch.equal(alone, explicit(denoise, 4.0))
    others = {
        "scale": explicit(denoise, 1.0),
        "below": explicit(denoise, 4.0, None),
        "steps": explicit(denoise, 4.0, steps=4),
        "grid": explicit(denoise, 4.0, grid="time"),
        "solver": explicit(denoise, 4.0, solver="ddim"),
    }
    for name, other in others.items():  # the control: each setting shows
        assert apart(alone, other) > 1e-3, name


def test_what_is_given_takes_the_place_of_what_is_remembered(run, tmp_path):
    denoise = rv.load(run.folder)
    assert torch.equal(rv.sample(denoise, cond=LABEL, scale=1.0), explicit(denoise, 1.0))
    assert torch.equal(rv.sample(denoise, cond=LABEL, scale=2.0), explicit(denoise, 2.0))
    assert torch.equal(rv.sample(denoise, cond=LABEL, steps=5), explicit(denoise, 4.0, steps=5))
    given = rv.sample(denoise, cond=LABEL, solver="dpmpp_2m_exponential")
    assert torch.equal(given, explicit(denoise, 4.0, grid="exponential"))
    assert torch.equal(
        to_bytes(given), drawn(tmp_path, str(run.folder), "--n", "10", "--solver", "dpmpp_2m_exponential")
    )


def test_a_guide_around_it_replaces_the_scale_and_keeps_the_rest(run, tmp_path):
    denoise = rv.load(run.folder)
    guided = rv.sample(rv.guide.cfg(denoise, 2.0), cond=LABEL)
    assert torch.equal(guided, explicit(denoise, 2.0, None))
    assert torch.equal(to_bytes(guided), drawn(tmp_path, str(run.folder), "--n", "10", "--guide", "cfg:2"))
    with pytest.raises(InputError, match=r"scale=3 is of a model that `rv.load` opened"):
        rv.sample(rv.guide.cfg(denoise, 2.0), cond=LABEL, scale=3.0)


def test_nothing_else_adds_the_scale(run):
    denoise = rv.load(run.folder)
    bare = rv.load(run.folder)
    bare.sampling = None
    x = rv.sample(bare, cond=LABEL, steps=2).clamp(-1, 1)
    free = rv.sample(denoise, 10)
    assert torch.equal(free, rv.sample(bare, 10, solver="dpmpp2", steps=6, grid="karras")), "without a condition"
    assert torch.equal(denoise(x, 0.5, LABEL).out, bare(x, 0.5, LABEL).out)
    assert torch.equal(rv.invert(denoise, x, 3, LABEL), rv.invert(bare, x, 3, LABEL))
    assert torch.equal(rv.log_prob(denoise, x, LABEL, "heun", 2), rv.log_prob(bare, x, LABEL, "heun", 2))
    site = rv.taps.sites(denoise)[0]
    a, b = (rv.read.features(d, x, sites=site, logsnr=1.0, cond=LABEL) for d in (denoise, bare))
    assert torch.equal(a, b)
    *_, one = rv.iterate(denoise, cond=LABEL, steps=2)
    *_, other = rv.iterate(bare, cond=LABEL, steps=2)
    assert torch.equal(one.x, other.x)
    a, b = (rv.solve.Sampler(d, steps=2).sample(cond=LABEL) for d in (denoise, bare))
    assert torch.equal(a, b)
    small = SuperResolution(4)
    for method in ("pigdm", "dps", "repaint", "dflow"):
        a, b = (restore(d, small, small(x), method, noise=0.1, cond=LABEL, steps=8).images for d in (denoise, bare))
        assert torch.equal(a, b), method


def test_the_temperature_of_the_recipe_unless_another_is_asked_for(run):
    denoise, bare = rv.load(run.folder), rv.load(run.folder)
    assert denoise.sampling is not None and denoise.sampling.temperature == 1.0
    plain = rv.sample(bare, 4, seed=3)
    denoise.sampling = replace(denoise.sampling, temperature=0.5)
    cool = rv.sample(denoise, 4, seed=3)
    assert torch.equal(cool, rv.sample(bare, 4, seed=3, temperature=0.5)) and not torch.allclose(cool, plain)
    assert torch.equal(rv.sample(denoise, 4, seed=3, temperature=1.0), plain)
    assert torch.equal(rv.sample(denoise, x=plain, start=0.5), rv.sample(bare, x=plain, start=0.5)), "a picture is none"
    usual = replace(run.recipe.usual, temperature=0.5, scale=1.0)
    assert torch.equal(run.generator(usual).sample(4, seed=3), cool)
    assert run.generator(usual).settings()["temperature"] == 0.5 and "temperature" not in run.generator().settings()
    with pytest.raises(InputError, match="draws in its own way: leave temperature out"):
        rv.sample(run.generator(), temperature=0.5)


def test_a_scale_that_cannot_be(run):
    denoise = rv.load(run.folder)
    with pytest.raises(InputError, match="give cond="):
        rv.sample(denoise, 2, scale=3.0)
    denoise.sampling = None
    with pytest.raises(InputError, match=r"rv\.guide\.cfg\(denoise, 3\)"):
        rv.sample(denoise, cond=LABEL, scale=3.0)
    with pytest.raises(InputError, match="draws in its own way: leave scale out"):
        rv.sample(run.generator(), scale=3.0)


def test_a_run_says_what_it_is(run):
    assert repr(run) == f"Run({str(run.folder)!r}, dit, mnist5k, 640 images)"
    assert "640 images" in run._repr_html_()
    (run.folder / "samples").mkdir(exist_ok=True)
    rv.save(torch.zeros(1, 1, 4, 4), run.folder / "samples" / "x.png")
    assert "data:image/png;base64," in run._repr_html_()
