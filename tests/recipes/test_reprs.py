"""What models, conditions, runs and data say of themselves."""

import pytest
import torch

import reverie as rv
from reverie import data, guide, nets
from reverie.core.condition import Image, Tokens, Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import VP, Flow
from reverie.nets import UNetConfig
from reverie.solve import DDIM, Sampler, grids

CONFIG = UNetConfig(patch=2, width=8, multipliers=(1, 1), blocks=1, attention=(2,), heads=2, groups=4)


@pytest.fixture
def denoise() -> NetDenoiser:
    net = nets.build(CONFIG, channels=1, size=(8, 8), classes=10)
    return NetDenoiser(net.requires_grad_(False), Flow(), "flow", shape=(1, 8, 8))


def test_a_denoiser_says_its_network_path_shape_and_conditions(denoise):
    count = sum(p.numel() for p in denoise.net.parameters())
    assert repr(denoise) == f"NetDenoiser(UNet {count / 1e6:.2f} M, flow, 1x8x8, label: 10 classes)"
    other = NetDenoiser(denoise.net, VP(), "eps", shape=(1, 8, 8), conditions={})
    assert repr(other).endswith("eps on vp, 1x8x8, no conditions)")
    specs = [str(spec) for spec in (Vector(3), Tokens(4, 77), Image(3))]
    assert specs == ["3 numbers", "77 tokens of 4 numbers", "a picture of 3 channels"]


def test_guides_nest(denoise):
    inner = guide.cfg(denoise, 3.0, (-5.0, 2.0), rv.Cond(label=1))
    assert repr(inner) == f"CFG({denoise!r}, scale=3, interval=(-5.0, 2.0), negative=Cond(label=[1]))"
    outer = guide.auto(inner, denoise, 1.5)
    assert repr(outer).startswith(f"{type(outer).__name__}(CFG(NetDenoiser(UNet") and "scale=1.5" in repr(outer)
    assert repr(Sampler(inner, DDIM(), 5, grids.karras())).startswith("Sampler(CFG(NetDenoiser(")


def test_a_null_condition_looks_null():
    cond = rv.Cond(label=[3, 1], vector=torch.zeros(2, 5))
    assert repr(cond) == "Cond(label=[3, 1], vector=(2, 5))"
    assert repr(cond.null()) == "Cond(label=null, vector=null)"
    assert repr(cond.drop(torch.tensor([True, False]))) == "Cond(label=[3, null], vector=(2, 5) with 1 null)"


def test_a_data_set_says_what_it_holds():
    images = data.load("mnist5k", "test")
    assert repr(images) == "ImageSet(mnist5k test: 1,000 pictures of 28x28 in grey, 10 classes)"
    page = images._repr_html_()
    assert page.count("data:image/png;base64") == 10 and "1,000 pictures" in page
    assert images.without_labels()._repr_html_().count("<img") == 12
    assert repr(data.load("emoji", "test")).count("in colour") == 1


@pytest.mark.parametrize("cond", [7, "7", {"label": 7}, [7]], ids=repr)
def test_what_is_no_condition(denoise, cond):
    x = torch.zeros(1, 1, 8, 8)
    for use in (
        lambda: rv.sample(denoise, cond=cond, steps=1),
        lambda: next(rv.iterate(denoise, cond=cond, steps=1)),
        lambda: rv.invert(denoise, x, 2, cond),
        lambda: rv.log_prob(denoise, x, cond),
        lambda: denoise(x, 0.5, cond),
    ):
        with pytest.raises(InputError, match=r"a condition is a Cond, such as rv\.Cond\(label=7\)"):
            use()


def test_a_class_where_an_instance_belongs(denoise):
    for how, said in (({"solver": DDIM}, r"solve\.Heun\(\)"), ({"grid": grids.karras}, r"grids\.karras\(\)")):
        for use in (rv.sample, lambda d, **how: next(rv.iterate(d, **how))):
            with pytest.raises(InputError, match=said):
                use(denoise, steps=2, **how)
    for model in (NetDenoiser, "runs/digits"):
        with pytest.raises(InputError, match=r"draws from a model, such as rv\.load"):
            rv.sample(model)  # pyright: ignore[reportCallIssue,reportArgumentType]
    with pytest.raises(InputError, match=r"a path is made by a call, such as Flow\(\)"):
        NetDenoiser(denoise.net, Flow, shape=(1, 8, 8))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="a path is made by a call"):
        denoise.under(VP)  # pyright: ignore[reportArgumentType]


def test_pictures_of_bytes_are_no_pictures(denoise):
    x = 255.0 * torch.rand(2, 1, 8, 8)
    for use in (lambda x: rv.sample(denoise, x=x, start=0.5, steps=2), lambda x: rv.invert(denoise, x, 2)):
        with pytest.raises(InputError, match=r"holds values up to 25\d.*: pictures are in \[-1, 1\]"):
            use(x)
        assert use(x / 127.5 - 1.0).isfinite().all()
    assert rv.sample(denoise, x=x, steps=2).isfinite().all(), "noise of a path may be as large"


def test_progress_is_shown_in_a_terminal_only(denoise, monkeypatch):
    from reverie.solve import sampling

    labels = []
    usual = sampling.Progress
    monkeypatch.setattr(sampling, "Progress", lambda label, **how: labels.append(label) or usual(label, **how))
    rv.sample(denoise, steps=1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    rv.sample(denoise, steps=1)
    rv.sample(denoise, steps=1, progress="")
    rv.sample(denoise, steps=1, progress="mine")
    Sampler(denoise, steps=1).sample()
    assert labels == ["", "sampling", "", "mine", ""]
