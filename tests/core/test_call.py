"""The context of a call: it belongs to the call alone, whatever else runs on the same network."""

import copy
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from reverie import guide, inverse
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.schedules import Cosine, Flow
from reverie.inverse.operators import Inpaint
from reverie.nets import DiTConfig, UNetConfig, build, prepacked, taps, winograd
from reverie.solve import DDIM, fast, sample


@pytest.fixture(autouse=True)
def threads_take_turns_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def model(which: str = "dit") -> NetDenoiser:
    torch.manual_seed(0)
    config = {
        "dit": DiTConfig(patch=4, width=16, depth=1, heads=2),
        "unet": UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(1,), heads=2),
    }[which]
    net = build(config, channels=1, size=8, classes=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(1, 8, 8))


def together(*works, rounds: int):
    """What each of some works gives, round after round in a thread of its own, all begun at once."""
    start = Barrier(len(works))

    def run(work):
        start.wait()
        return [work() for _ in range(rounds)]

    with ThreadPoolExecutor(len(works)) as pool:
        return [each.result() for each in [pool.submit(run, work) for work in works]]


def edits(denoise: NetDenoiser) -> list:
    """Different uses of one network: guided, read, changed inside, attention edited, with residuals, a whole run."""
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cond, sites = Cond(label=torch.arange(16) % 3), denoise.net.sites()
    block = next(site for site in sites if site in ("blocks.0", "middle.0"))
    attention = next(site for site in sites if site.endswith("attention"))
    residual = torch.randn(
        taps.features(denoise, [block], x, 0.4)[block].shape, generator=torch.Generator().manual_seed(2)
    )
    change = taps.replace(guide.cfg(denoise, 3.0), {block: lambda v, at: v + len(at.branches) * v.flip(-1).cos()})
    return [
        lambda: guide.cfg(denoise, 40.0)(x, 0.4, cond).out,
        lambda: taps.features(denoise, [block], x, 0.4, cond)[block],
        lambda: change(x, 0.4, cond).out,
        lambda: taps.attention(denoise, {attention: lambda q, k, v, at: 5.0 * v.flip(-2)})(x, 0.4, cond).out,
        lambda: taps.add(denoise, {block: residual})(x, 0.4, cond).out,
        lambda: sample(denoise, 16, cond, DDIM(), steps=2),
    ]


@pytest.mark.parametrize(("which", "rounds"), [("dit", 200), ("unet", 30)])
def test_threads_on_one_network_give_what_each_gives_alone(which, rounds, monkeypatch):
    """Rounds of each use beside all the others; weights, however small, are prepacked for a run."""
    monkeypatch.setattr(prepacked, "WIDE", 0)
    monkeypatch.setattr(winograd, "CHANNELS", 1.0)
    denoise, packed = model(which), []
    prepack = prepacked.prepack
    monkeypatch.setattr(prepacked, "prepack", lambda net: packed.append(net) or prepack(net))
    works = edits(denoise)
    alone = [work() for work in works]
    for i in range(len(works)):
        assert all((a.shape != alone[i].shape or (a - alone[i]).abs().max() > 1e-2) for a in alone[:i])
    for expected, found in zip(alone, together(*works, rounds=rounds), strict=True):
        for each in found:
            torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-4)
    assert len(packed) == 1 + rounds


def test_threads_beside_a_compiled_run(monkeypatch):
    """One thread samples through the compiled network while another edits the same one."""
    monkeypatch.setattr(fast, "PREPARATION", 0.0)
    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: plain_compile(function, backend="eager"))
    denoise = model()
    *others, run = edits(denoise)
    alone = [work() for work in (run, others[2], others[3])]
    assert denoise.net in fast._COMPILED
    for expected, found in zip(alone, together(run, others[2], others[3], rounds=50), strict=True):
        for each in found:
            torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_branch_has_a_state_and_a_condition_of_its_own():
    denoise, rows = model(), []
    counted = taps.replace(denoise, {"blocks.0": lambda v, at: rows.append(len(v)) or v})
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    states = {"source": x, "edit": 0.5 * x.flip(0), "free": -x}
    conds = {"source": Cond(label=[1, 2]), "edit": Cond(label=0), "free": None}
    found = counted.branches(states, 0.3, conds)
    assert rows == [6]
    for name, estimate in found.items():
        alone = denoise(states[name], 0.3, conds[name])
        torch.testing.assert_close(estimate.out, alone.out, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(estimate.x0, alone.x0, rtol=1e-4, atol=1e-5)
    one_time_each = denoise.branches(states, torch.tensor([0.2, 0.7]), conds)
    alone = denoise(states["edit"], torch.tensor([0.2, 0.7]), conds["edit"])
    torch.testing.assert_close(one_time_each["edit"].x0, alone.x0, rtol=1e-4, atol=1e-5)
    for wrong in ({"source": x}, {**states, "more": x}):
        with pytest.raises(InputError, match="each branch has a state and a condition"):
            denoise.branches(wrong, 0.3, conds)
    with pytest.raises(InputError, match="have one shape"):
        denoise.branches({**states, "free": x[:1]}, 0.3, conds)


def test_conditions_of_different_entries_are_absent_where_they_lack():
    mean, path = torch.zeros(1, dtype=torch.float64), Cosine()

    class Sums(Wrapper):
        """Adds what is present: 1 for a label, 10 for a vector."""

        def __call__(self, x, t, cond=None, call=None):
            estimate, seen = self.base(x, t, None, call), torch.zeros_like(x)
            for name, worth in (("label", 1.0), ("vector", 10.0)):
                if cond is not None and name in cond:
                    seen = seen + worth * cond[name].present.to(x)[:, None]
            return estimate.replace(estimate.out + seen)

    base = Gaussian(mean, torch.eye(1, dtype=torch.float64)).denoiser(path)
    x = torch.zeros(2, 1, dtype=torch.float64)
    both = Cond(label=[1, 2], vector=torch.zeros(2, 3))
    conds = {"none": None, "label": Cond(label=1), "vector": Cond(vector=torch.zeros(1, 3)), "both": both}
    found = Sums(base).branches(x, 0.5, conds)
    assert [float(e.out[0] - base(x, 0.5).out[0]) for e in found.values()] == pytest.approx([0.0, 1.0, 10.0, 11.0])


@pytest.mark.parametrize("inner", ["scale", "schedule", "energy", "pigdm", "classifier"])
def test_guides_that_hold_something_of_each_sample_go_in_one_evaluation(inner):
    """Inside of an outer guide's branches: one call of the network, and each sample meets its own."""
    denoise, rows = model(), []
    counted = taps.replace(denoise, {"blocks.0": lambda v, at: rows.append(len(v)) or v})
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    scale = torch.tensor([0.5, 2.0, 4.0])
    target = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))

    def classify(part=slice(None)):
        class Two:
            classes, schedule, shape = 3, Flow(), (1, 8, 8)

            def __call__(self, x, point):
                return torch.log_softmax(x.flatten(1)[:, :3] * 2.0, dim=1)

        return guide.classifier(counted, Two(), scale[part], conditional=True)

    make = {
        "scale": lambda part=slice(None): guide.cfg(counted, scale[part]),
        "schedule": lambda part=slice(None): guide.cfg(counted, lambda logsnr: scale[part]),
        "energy": lambda part=slice(None): guide.energy(
            counted, lambda images: (images - target[part]).square().flatten(1).sum(1), scale[part]
        ),
        "pigdm": lambda part=slice(None): inverse.pigdm(counted, Inpaint((target > 0)[part]), target[part], 0.1),
        "classifier": classify,
    }[inner]
    conds = {"source": Cond(label=[0, 1, 2]), "edit": Cond(label=[2, 2, 1])}
    states = {"source": x, "edit": x.flip(0)}
    found = make().branches(states, 0.4, conds)
    assert len(rows) == 1
    for name, estimate in found.items():
        for i in range(3):
            part = slice(i, i + 1)
            alone = make(part)(states[name][part], 0.4, conds[name].index(part))
            torch.testing.assert_close(estimate.out[part], alone.out, rtol=1e-3, atol=1e-4)


def test_calls_name_branches_within_branches():
    call = Call().within(["source", "edit"]).within(["null", "cond"])
    assert call.branches == ("source/null", "edit/null", "source/cond", "edit/cond")


def test_a_denoiser_pickles_and_copies():
    denoise = model()
    x, cond = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)), Cond(label=[0, 2])
    for kind in ("x0", "eps", "v", "score", "flow", "straight", "edm"):
        one = NetDenoiser(denoise.net, Cosine(), kind, shape=(1, 8, 8))
        for made in (
            one,
            guide.cfg(one, 3.0),
            taps.add(one, {"blocks.0": torch.ones(1)[:, None, None].expand(1, 4, 16)}),
        ):
            for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
                assert torch.equal(other(x, 0.4, cond).x0, made(x, 0.4, cond).x0)
                assert other.net is not denoise.net


def test_spawned_workers_sample():
    denoise = model()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        torch.testing.assert_close(
            pool.apply(sample, (denoise, 2, None, DDIM(), 2)), sample(denoise, 2, solver=DDIM(), steps=2)
        )
