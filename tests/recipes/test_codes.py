"""Every auto-encoder is a space that other models train in: its run goes into `--space`, and what makes no sense is said."""

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.core.errors import InputError
from reverie.recipes.runs import Run
from reverie.spaces import VQ, VectorVAE

SHORT = "--data digits8 --train.images 64 --train.batch 32 --train.warmup 32 --train.processes 1"
NET = "--net.patch 1 --net.width 16 --net.depth 1 --net.heads 2 --sample.steps 2"
SMALL = "--patch 2 --dims 4 --width 8"
KINDS = {
    "ae": f"autoencoder --kind conv-ae {SMALL}",
    "linear": "autoencoder --kind patch-ae --patch 4 --dims 8",
    "vae": "vae --dims 4 --width 8 --data.no-labels",
    "conv": f"autoencoder --kind conv-vae {SMALL}",
    "vq": f"autoencoder --kind vq {SMALL} --codes 16",
    "vqgan": f"autoencoder --kind vq {SMALL} --codes 16 --adversarial 0.8",
    "kl4": "autoencoder --kind conv-vae --patch 4 --dims 4 --width 8 --kl 1e-6 --adversarial 0.5",
    "kl8": "autoencoder --kind conv-vae --patch 8 --dims 4 --width 8 --kl 1e-6 --adversarial 0.5",
    "scales": f"autoencoder --kind multiscale-vq {SMALL} --codes 16",
}
SHAPES = {"linear": (8, 2, 2), "vae": (4, 1, 1), "kl4": (4, 2, 2), "kl8": (4, 1, 1)}
TOKENS = {
    "maskgit": "--width 16 --depth 1 --heads 2",
    "tile": "--width 16 --depth 1 --heads 2",
    "var": "--width 16 --depth 1 --heads 2",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder in which runs are trained when they are asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(kind: str):
        if not (folder / kind).exists():
            assert main(f"train {KINDS[kind]} {SHORT} --out {folder / kind}".split()) == 0
        return folder / kind

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_trains_on_the_codes_of_every_kind(runs, tmp_path, kind):
    assert main(f"train --space {runs(kind)} {NET} {SHORT} --out {tmp_path / 'run'}".split()) == 0
    denoise = rv.load(tmp_path / "run")
    assert denoise.shape == SHAPES.get(kind, (4, 4, 4))
    x = rv.data.load("digits8").batch(range(300)).x
    codes = denoise.space.encode(x)
    assert codes.shape == (300, *denoise.shape)
    assert codes.square().mean().item() == pytest.approx(1.0, abs=0.3)  # scaled by those of the data
    assert denoise.space.data_shape(denoise.shape) == (1, 8, 8)
    drawn = rv.sample(denoise, 2, rv.Cond(label=3), steps=2)
    assert drawn.shape == (2, 1, 8, 8) and drawn.isfinite().all()
    torch.testing.assert_close(rv.sample(denoise, 1, rv.Cond(label=3), steps=2), drawn[:1], atol=1e-5, rtol=0)


def test_the_space_of_a_vae_codes_by_its_means_and_is_kept_in_the_run(runs):
    model = rv.load(runs("vae"))
    data = rv.data.load("digits8")
    space = model.as_space(data)
    x = data.batch(range(5)).x
    assert isinstance(space, VectorVAE)
    mean, _ = model.net.encode(x, None)
    torch.testing.assert_close((space.encode(x) * space.scale + space.shift).flatten(1), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(space.decode(space.encode(x)), model.net.decode(mean, None), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=r"of shape \(1, 8, 8\), each as one vector: got \(1, 8, 4\)"):
        space.encode(x[..., :4])


@pytest.mark.parametrize("shape", [(3, 12, 8), (1, 7, 5)])
def test_pictures_of_a_vector_need_not_be_square(tmp_path, shape):
    space = VectorVAE(*shape, 6, 8).eval()
    x = torch.rand(3, *shape) * 2 - 1
    space.normalise(x)
    rv.spaces.save(space, tmp_path / "space.safetensors")
    again = rv.spaces.load(tmp_path / "space.safetensors")
    assert torch.equal(again.encode(x), space.encode(x)) and again.decode(again.encode(x)).shape == x.shape
    assert again.data_shape(again.code_shape(shape)) == shape


@pytest.mark.parametrize("task", TOKENS)
def test_models_of_tokens_train_on_those_of_another_run(runs, tmp_path, task):
    kind = "scales" if task == "var" else "vq"
    assert main(f"train {task} {TOKENS[task]} --space {runs(kind)} {SHORT} --out {tmp_path / 'run'}".split()) == 0
    model = Run(tmp_path / "run").generator()
    drawn = model.sample(2, rv.Cond(label=3))
    assert drawn.shape == (2, 1, 8, 8) and model.log_prob is None
    if task == "tile":
        space, x = rv.load(runs("vq")), rv.data.load("digits8").batch(range(4)).x
        assert isinstance(space, VQ) and torch.equal(model.net.tokens(x), space.tokens(x))
        picture = space.from_tokens(space.tokens(x), (1, 8, 8)).clamp(-1, 1)
        torch.testing.assert_close(model.net.picture(model.net.tokens(x)), picture)
        nats = model.nats(model.net.tokens(x), rv.Cond(label=3))
        chain = model.net.chain(1, rv.Cond(label=3))
        with torch.no_grad():  # the sum of the steps
            total, log_p = 0.0, next(chain)
            for i, token in enumerate(model.net.tokens(x)[0]):
                total += log_p[0, token].item()
                if i + 1 < model.net.length:
                    log_p = chain.send(token[None])
        assert total == pytest.approx(nats[0].item(), abs=1e-3)


def test_what_makes_no_sense_is_said(runs, tmp_path, capsys):
    def said(words: str) -> str:
        capsys.readouterr()
        assert main(f"train {words} {SHORT} --out {tmp_path / 'none'}".split()) == 2
        assert not (tmp_path / "none").exists()  # nothing is in the way of the next
        return " ".join(capsys.readouterr().err.split())

    for task in ("maskgit", "tile"):
        assert "tokens of a VQ (vq): got a VectorVAE" in said(f"{task} --space {runs('vae')}")
        assert "tokens of a VQ (vq): got a ConvVAE" in said(f"{task} --space {runs('conv')}")
    assert "tokens of a MultiScaleVQ (multiscale-vq): got a VQ" in said(f"var --space {runs('vq')}")
    assert "leave --space out, or --head" in said(f"tile --head mixture --space {runs('vq')}")
    assert "leave --levels, --patch out" in said(f"tile --patch 2 --levels 16 --space {runs('vq')}")
    assert "leave --codes out" in said("tile --codes 16 --space vq --space.codes 16")
    assert main(f"train vae --dims 4 --width 8 {SHORT} --out {tmp_path / 'labelled'}".split()) == 0
    assert "--data.no-labels" in said(f"--space {tmp_path / 'labelled'} {NET}")
    assert "1x1" in said(f"--space {runs('vae')} --net.patch 2 --net.width 16 --net.depth 1 --net.heads 2")


@pytest.mark.parametrize("kind", ["ae", "vae", "vq"])
def test_codes_are_probed(runs, kind, capsys):
    assert main(f"read probe {runs(kind)} --labels 60 --seeds 1 --pictures 60".split()) in (0, None)
    assert "Best cell: code" in capsys.readouterr().out


def test_the_codes_of_a_vae_that_is_told_the_class_are_not_probed_for_it(tmp_path, capsys):
    assert main(f"train vae --dims 4 --width 8 {SHORT} --out {tmp_path / 'run'}".split()) == 0
    assert main(f"read probe {tmp_path / 'run'} --labels 60 --seeds 1".split()) == 2
    assert "under its label" in capsys.readouterr().err


def test_a_run_that_diffusers_has_no_place_for_says_what_it_is(runs, tmp_path, capsys):
    for kind, name in {
        "vae": "the task vae, which gives a VAE",
        "vq": "the task autoencoder, which gives a VQ",
    }.items():
        assert main(["convert", str(runs(kind)), str(tmp_path / "out")]) == 2
        assert name in capsys.readouterr().err and not (tmp_path / "out").exists()
