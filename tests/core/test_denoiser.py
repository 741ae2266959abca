"""Denoisers: what the network is told, re-expression on another path, branches, per-sample times."""

import pytest
import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser, NetDenoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.paths import EDM, SubVP
from reverie.core.predictions import KINDS
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule

from ..margin import apart


class Spy(nn.Module):
    """Remembers what it was called with; its output depends on everything."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.conditions = {"label": Label(10)}
        self.calls: list[tuple[Tensor, Tensor, Cond | None]] = []

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None) -> Tensor:
        self.calls.append((x, time, cond))
        shift = time if time.ndim == 0 else time.reshape(-1, 1, 1, 1)
        if cond is not None:
            entry = cond["label"]
            shift = shift + torch.where(entry.present, entry.value, -1).reshape(-1, 1, 1, 1)
        return self.gain * x + shift


def make(schedule: Schedule | None = None, **options) -> tuple[Spy, NetDenoiser]:
    spy = Spy()
    return spy, NetDenoiser(spy, schedule or VP(), options.pop("kind", "v"), shape=(1, 2, 2), **options)


def test_the_network_reads_the_time_it_was_promised() -> None:
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    for name, expected in (("t", times), ("log_sigma", -0.25 * VP().lam(times))):
        spy, denoise = make(time=name)
        denoise(x, times)
        seen = spy.calls[0][1]
        assert seen.shape == (3,) and torch.allclose(seen, expected)
        denoise(x, 0.5)
        assert spy.calls[1][1].shape == () and spy.calls[1][1].item() == pytest.approx(expected[1].item())
    with pytest.raises(InputError, match="'log_sigma'"):
        make(time="logsigma")
    with pytest.raises(InputError, match="infinite at t = 1"):
        make(Flow(), time="log_sigma")[1](x, 1.0)


def test_the_input_has_unit_variance_for_data_of_the_given_scale() -> None:
    for schedule, t in ((VE(), 0.8), (VP(), 0.3), (Flow(), 0.5)):
        spy, denoise = make(schedule, data_std=0.5)
        x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
        denoise(x, t)
        point = schedule.point(t)
        expected = x / (0.25 * point.alpha**2 + point.sigma**2) ** 0.5
        torch.testing.assert_close(spy.calls[0][0], expected)


def test_the_output_is_read_as_the_kind_it_was_trained_as() -> None:
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    for name in ("x0", "eps", "v", "flow", "edm"):
        _, denoise = make(kind=name)
        estimate = denoise(x, 0.3)
        torch.testing.assert_close(estimate.linear(*KINDS[name](VP().point(0.3))), estimate.out)
        assert estimate.x_t is x and estimate.point == VP().point(0.3)


def test_per_sample_times_are_the_same_as_one_by_one() -> None:
    for schedule in (VP(), Cosine(), Flow(), EDM()):
        exact = GaussianMixture(
            torch.ones(3), torch.randn(3, 1, 2, 2).double(), torch.eye(4).double().expand(3, 4, 4) * 0.1
        )
        for denoise in (make(schedule)[1], exact.denoiser(schedule)):
            x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
            times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
            together = denoise(x, times).x0
            apart = torch.cat([denoise(x[i : i + 1], float(t)).x0 for i, t in enumerate(times)])
            torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-10)


def test_a_time_of_another_shape_names_both() -> None:
    with pytest.raises(InputError, match=r"\(2,\).*\(3, 1, 2, 2\)"):
        make()[1](torch.zeros(3, 1, 2, 2).double(), torch.tensor([0.1, 0.2]).double())


@pytest.mark.parametrize("other", [Flow(), VE(), EDM(), Cosine(), SubVP()], ids=lambda p: type(p).__name__)
def test_under_another_path_the_exact_denoiser_is_the_exact_denoiser(other: Schedule) -> None:
    mixture = GaussianMixture(torch.ones(2), torch.randn(2, 3).double(), torch.eye(3).double().expand(2, 3, 3) * 0.2)
    denoise = mixture.denoiser(VP()).under(other)
    t = torch.tensor([0.3, 0.5], dtype=torch.float64)
    x = 2.0 * torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(denoise(x, t).x0, mixture.denoiser(other)(x, t).x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoise(x, 0.4).eps, mixture.denoiser(other)(x, 0.4).eps, rtol=1e-9, atol=1e-9)
    assert denoise.schedule == other and denoise.under(other) is denoise and denoise.shape == (3,)


def test_under_at_pure_noise_and_clean_data() -> None:
    gaussian = Gaussian(torch.ones(2).double(), torch.eye(2).double())
    denoise = gaussian.denoiser(Flow()).under(Cosine())
    x = torch.randn(1, 2, dtype=torch.float64)
    torch.testing.assert_close(denoise(x, 1.0).x0, torch.ones(1, 2).double())
    torch.testing.assert_close(denoise(x, Cosine().clean()).x0, x)


def test_branches_are_one_evaluation_and_the_same_as_apart() -> None:
    spy, denoise = make()
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    cond = Cond(label=[3, 4])
    for t in (0.4, torch.tensor([0.2, 0.8], dtype=torch.float64)):
        spy.calls.clear()
        got = denoise.branches(x, t, {"null": cond.null(), "cond": cond})
        assert len(spy.calls) == 1 and len(spy.calls[0][0]) == 4
        for name, each in (("null", cond.null()), ("cond", cond)):
            alone = denoise(x, t, each)
            torch.testing.assert_close(got[name].x0, alone.x0)
            torch.testing.assert_close(got[name].out, alone.out)
    assert apart(got["cond"].out, got["null"].out) > 1e-2
    single = denoise.branches(x, 0.4, {"both": Cond(label=5)})["both"]
    torch.testing.assert_close(single.out, denoise(x, 0.4, Cond(label=5)).out)


def test_a_wrapper_forwards_what_it_wraps() -> None:
    class Nothing(Wrapper):
        def __call__(self, x, t, cond=None):
            return self.base(x, t, cond)

    _, denoise = make()
    outer = Nothing(Nothing(denoise))
    assert outer.shape == (1, 2, 2) and outer.conditions == {"label": Label(10)} and outer.schedule == VP()
    assert (
        isinstance(outer, Denoiser)
        and outer.guidance == 1.0
        and outer.device.type == "cpu"
        and outer.net is denoise.net
    )


def test_estimates_are_differentiable_in_state_and_time() -> None:
    _, denoise = make()
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    denoise(x, t).x0.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0 and t.grad is not None and t.grad.abs().min() > 0
