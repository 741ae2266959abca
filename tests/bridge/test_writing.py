"""What is written back diffusers loads, with equal outputs."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie import bridge, nets
from reverie.bridge.foreign import Foreign
from reverie.bridge.using import lines
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.paths import EDM, SubVP, Table, Trigonometric
from reverie.core.predictions import edm
from reverie.core.schedules import VP, Cosine, Flow
from reverie.nets.prior import Prior


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("which", ["sd", "sdxl", "sd3"])
def test_a_pipeline_comes_back(which, request, tiny, tmp_path):
    import diffusers

    pipeline, folder = request.getfixturevalue(which)
    model = rv.load(folder)
    bridge.write(model, tmp_path / "out")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None, local_files_only=True)
    assert type(again) is type(pipeline)
    again.set_progress_bar_config(disable=True)
    x = noise(2, 4, 8, 8)
    a, b = (p(tiny.texts, latents=x.clone(), num_inference_steps=2, output_type="pt").images for p in (again, pipeline))
    assert torch.equal(a, b)
    rv.load(tmp_path / "out")
    with pytest.raises(InputError, match="exists"):
        bridge.write(model, tmp_path / "out")


ADM = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "heads": 2, "groups": 8}
UNET = nets.UNetConfig(**ADM)
DIT = nets.DiTConfig(patch=2, width=16, depth=2, heads=2, endpoint=True)
RUNS = {
    "flow": (UNET, Flow(), "flow", {}),
    "flow, shifts alone": (replace(UNET, scale_shift_norm=False), Flow(), "straight", {}),
    "flow, another count": (replace(UNET, time_scale=250.0), Flow(), "flow", {}),
    "flow, ADM": (replace(UNET, resample="residual"), Flow(), "flow", {}),
    "ddpm": (UNET, Table.linear(), "eps", {}),
    "ddpm, ADM": (
        replace(UNET, resample="residual", endpoint=True, multipliers=(1, 2, 2), attention=(2, 4), head_width=8), Table.linear(), "eps", {},
    ),
    "ddpm, a learned variance": (replace(UNET, resample="residual", learn_sigma=True), Table.linear(), "eps", {"learned_variance": True}),
    "ddpm, DiT": (DIT, Table.scaled_linear(), "eps", {}),
    "zero terminal": (DIT, Table.linear().zero_terminal(), "v", {}),
    "cosine": (UNET, Cosine(), "v", {}),
    "cosine, clean pictures": (UNET, Cosine(), "x0", {}),
    "vp": (UNET, VP(), "eps", {}),
    "vp of unit variance": (UNET, VP(), edm(1.0), {"data_std": 1.0}),
    "trigonometric": (DIT, Trigonometric(), "flow", {}),
    "edm": (replace(UNET, time_scale=1.0), EDM(), "edm", {"time": "log_sigma", "data_std": 0.5}),
    "edm, other numbers": (replace(UNET, time_scale=1.0), EDM(0.01, 50.0, 5.0), edm(0.3), {"time": "log_sigma", "data_std": 0.3}),
}  # fmt: skip


def run(tiny, config, schedule, kind, classes=3, channels=1, **options):
    """What a run gives: a denoiser of ours with random weights."""
    torch.manual_seed(0)
    net = tiny.shaken(nets.build(config, channels=channels, size=8, classes=classes))
    return NetDenoiser(net, schedule, kind, shape=(channels, 8, 8), **options)


def theirs_of(folder):
    """The network and the scheduler that diffusers makes of a folder."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())
    name = "unet" if "unet" in index else "transformer"
    net, scheduler = (getattr(diffusers, index[part][1]).from_pretrained(folder / part) for part in (name, "scheduler"))
    return net.eval(), scheduler


def answers(net, scheduler, x, place, labels):
    """A point of the path, and what diffusers says of x there: its x0 for EDM, else the network's output."""
    if hasattr(scheduler, "precondition_inputs"):
        sigma = torch.tensor(30.0**place)
        out = net(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma), labels).sample
        return {"lam": -float(sigma.log())}, "x0", scheduler.precondition_outputs(x, out, sigma)
    if hasattr(scheduler, "alphas_cumprod"):
        step = int(place * 1000)
        kinds = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
        out = net(x, torch.tensor([step, step]), labels).sample[:, : x.shape[1]]
        return (
            {"alpha": float(scheduler.alphas_cumprod[step]) ** 0.5, "t": (step + 1) / 1000},
            kinds[scheduler.config.prediction_type],
            out,
        )
    count = scheduler.config.num_train_timesteps
    return {"t": place}, "flow", net(x, torch.tensor([count * place] * 2), labels).sample


@pytest.mark.parametrize("case", RUNS)
def test_a_run_becomes_theirs(tiny, tmp_path, case):
    """Diffusers' network and scheduler say of a state what ours says; the null is one more class, the last."""
    denoise = run(tiny, *RUNS[case][:3], **RUNS[case][3])
    bridge.write(denoise, tmp_path / "out")
    net, scheduler = theirs_of(tmp_path / "out")
    again, x = rv.load(tmp_path / "out"), noise(2, 1, 8, 8)
    assert not isinstance(again.net, Foreign)
    cond = rv.Cond(label=[2, 0]).drop(torch.tensor([True, False]))
    with torch.no_grad():
        for place in (0.1, 0.4, 0.95):
            at, kind, expected = answers(net, scheduler, x, place, torch.tensor([2, 3]))
            point = denoise.schedule.at(at["lam"]) if "lam" in at else denoise.schedule.point(at["t"])
            assert abs(point.alpha - at.get("alpha", point.alpha)) < 1e-4
            mine = denoise(x, point, cond)
            said = mine.eps - mine.x0 if kind == "flow" else getattr(mine, kind)
            assert close(said, expected, 1e-4), place
            assert not close(
                said, answers(net, scheduler, x, place + 0.002, torch.tensor([2, 3]))[2], 1e-4
            )  # the time is read
            assert not close(said.flip(0), expected, 1e-2)
            whole = again(
                x,
                point,
                rv.Cond(label=[2, 0 if net.config.get("num_embeds_ada_norm") else 3]).drop(
                    torch.tensor([True, isinstance(denoise.net, nets.UNet)])
                ),
            )
            assert close(whole.eps - whole.x0 if kind == "flow" else getattr(whole, kind), expected, 1e-4)
            if mine.variance is not None:
                assert close(
                    2.0 * mine.variance - 1.0, net(x, int(place * 1000), torch.tensor([2, 3])).sample[:, 1:], 1e-4
                )


@pytest.mark.parametrize("case", ["edm", "ddpm"])
def test_whole_pipelines_draw_by_class(tiny, tmp_path, case):
    import diffusers

    config, schedule, kind, options = RUNS[case]
    denoise = run(tiny, config, schedule, kind, channels=3, **options)
    bridge.write(denoise, tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    if case == "ddpm":  # the steps of one that draws no noise
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    x, labels = noise(2, 3, 8, 8), [2, 0]
    theirs = pipeline(2, class_labels=labels, num_inference_steps=5, latents=x, output_type="pt").images
    if case == "edm":
        x, steps = (
            x * float(pipeline.scheduler.init_noise_sigma),
            {"solver": rv.solve.DDIM(), "steps": 5, "grid": rv.grids.karras()},
        )
    else:
        steps = bridge.Scheduler(dict(pipeline.scheduler.config) | {"_class_name": "DDIMScheduler"})(5)
    with torch.no_grad():
        ours = rv.sample(denoise, cond=rv.Cond(label=labels), x=x, **steps)
    assert close((ours / 2 + 0.5).clamp(0, 1), theirs, 1e-4) and theirs.std() > 0.05


FOLDED = replace(UNET, patch=2)
DRAWN = {
    **{case: RUNS[case] for case in ("flow", "flow, another count", "ddpm", "ddpm, a learned variance", "zero terminal", "cosine", "edm")},
    "flow, DiT": (DIT, Flow(), "flow", {}),
    "flow, DiT, a learned variance": (replace(DIT, learn_sigma=True), Flow(), "flow", {"learned_variance": True}),
    "folded pixels": (FOLDED, Flow(), "flow", {}),
    "folded pixels on a table": (replace(FOLDED, resample="residual", learn_sigma=True), Table.linear(), "eps", {"learned_variance": True}),
    "a prior": (replace(UNET, image=1), Flow(), "flow", {}),
    "the default: a prior, folded pixels": (replace(FOLDED, image=1), Flow(), "flow", {}),
}  # fmt: skip


def with_prior(denoise, classes):
    """The denoiser with Gaussians that are fitted to something."""
    prior = Prior(classes or 1, denoise.shape, 3)
    x = noise(30, *denoise.shape, seed=5) * torch.linspace(0.1, 1.0, 8) + torch.linspace(-0.5, 0.5, 30).view(
        -1, 1, 1, 1
    )
    prior.fit(x, None if classes is None else torch.arange(30) % classes)
    denoise.net.prior = prior
    return NetDenoiser(denoise.net, denoise.schedule, denoise.kind, shape=denoise.shape)


@pytest.mark.parametrize("classes", [3, None])
@pytest.mark.parametrize("case", DRAWN)
def test_the_lines_that_are_printed_draw_what_ours_draws(tiny, tmp_path, case, classes):
    """Grey pictures by class, in diffusers alone, guided; labels are read, and the folder opens here again."""
    config, schedule, kind, options = DRAWN[case]
    if classes is None and isinstance(config, nets.DiTConfig):
        return  # refused: theirs has classes
    denoise = run(tiny, config, schedule, kind, classes=classes, **options)
    if getattr(config, "image", 0):
        denoise = with_prior(denoise, classes)
    bridge.write(denoise, tmp_path / "out")
    scope, code = {}, lines(tmp_path / "out", 5, scale=1.5)
    exec(compile(code, "lines", "exec"), scope)
    assert [picture.size for picture in scope["images"]] == [(8, 8)] * 4
    torch.manual_seed(7)
    exec(
        compile(code.replace("num_inference_steps=5", "num_inference_steps=5, output_type='np'"), "lines", "exec"),
        scope,
    )
    theirs = torch.from_numpy(scope["images"]).permute(0, 3, 1, 2)
    torch.manual_seed(7)
    x = torch.randn(4, 1, 8, 8)
    if isinstance(schedule, EDM):
        x = x * (schedule.sigma_max**2 + 1) ** 0.5
        how = {"solver": rv.solve.DDIM(), "steps": 5, "grid": rv.grids.karras()}
    else:
        stated = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
        flow = stated["_class_name"].startswith("Flow")
        how = bridge.Scheduler(stated if flow else stated | {"_class_name": "DDIMScheduler"})(5)
    again = rv.load(tmp_path / "out")
    assert not isinstance(again.net, Foreign) and again.shape == denoise.shape
    with torch.no_grad():
        cond, other = (None if classes is None else rv.Cond(label=which) for which in ([0, 1, 2, 0], [1, 2, 0, 1]))
        guided = denoise if classes is None else rv.guide.cfg(denoise, 1.5)
        ours, wrong = ((rv.sample(guided, cond=c, x=x, **how) / 2 + 0.5).clamp(0, 1) for c in (cond, other))
        point = schedule.point(0.6)
        assert close(again(x, point, cond).x0, denoise(x, point, cond).x0, 1e-4)
        if denoise.prior is not None:
            bare = NetDenoiser(denoise.net, schedule, kind, shape=denoise.shape)
            bare.prior.values.mul_(1.5)
            assert not close(bare(x, point, cond).x0, again(x, point, cond).x0, 1e-3)
    assert theirs.std() > 0.05 and close(ours, theirs, 1e-3)
    assert classes is None or not close(wrong, theirs, 1e-2)


def test_a_run_without_classes_becomes_theirs(tiny, tmp_path):
    denoise = run(tiny, UNET, Table.linear(), "eps", classes=None)
    bridge.write(denoise, tmp_path / "out")
    import diffusers

    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    x = noise(2, 1, 8, 8)
    with torch.no_grad():
        assert close(pipeline.unet(x, 400).sample, denoise(x, denoise.schedule.point(401 / 1000)).eps, 1e-4)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


@pytest.mark.parametrize("variance", [False, True])
def test_a_dit_of_ours_becomes_theirs(tiny, tmp_path, variance):
    import diffusers

    torch.manual_seed(0)
    config = nets.DiTConfig(patch=2, width=16, depth=2, heads=2, endpoint=True, learn_sigma=variance, mlp_eps=0.1)
    net = tiny.shaken(nets.build(config, channels=4, size=8, classes=3))
    denoise = NetDenoiser(net, Flow(), "flow", shape=(4, 8, 8), learned_variance=variance)
    bridge.write(denoise, tmp_path / "out")
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    x, label = noise(2, 4, 8, 8), torch.tensor([2, 0])
    cond = rv.Cond(label=label)
    with torch.no_grad():
        expected = theirs(x, torch.tensor([400.0, 400.0]), label).sample
        assert close(net(x, torch.tensor(0.4), cond), expected)
        assert not close(net(x, torch.tensor(0.5), cond), expected, 1e-2)
        assert close(net(x, torch.tensor(0.4), None), theirs(x, torch.tensor([400.0] * 2), torch.tensor([3, 3])).sample)
        assert close(rv.load(tmp_path / "out").net(x, torch.tensor(0.4), cond), expected)


@pytest.mark.parametrize("norm", [False, True])
def test_an_mmdit_of_ours_becomes_theirs(tiny, tmp_path, norm):
    import diffusers

    torch.manual_seed(0)
    config = nets.MMDiTConfig(
        patch=2, width=16, depth=2, heads=2, context=6, vector=3, pos_embed_max_size=8, qk_norm=norm
    )
    net = tiny.shaken(nets.build(config, channels=2, size=8))
    bridge.write(NetDenoiser(net, Flow(), "flow", shape=(2, 8, 8)), tmp_path / "out")
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    x, text, vector = noise(2, 2, 8, 8), noise(2, 5, 6), noise(2, 3)
    with torch.no_grad():
        expected = theirs(x, text, vector, torch.tensor([400.0, 400.0])).sample
        cond = rv.Cond(text=text, vector=vector)
        assert close(net(x, torch.tensor(0.4), cond), expected)
        assert not close(net(x, torch.tensor(0.4), rv.Cond(text=text.flip(0), vector=vector)), expected, 1e-3)
        assert close(rv.load(tmp_path / "out").net(x, torch.tensor(0.4), cond), expected)


UNWRITTEN = {
    "a DiT of the paper's code": (nets.DiTConfig(patch=2, width=16, depth=1, heads=2, endpoint=False), {}, "--net.endpoint"),
    "no classes": (nets.DiTConfig(patch=2, width=16, depth=1, heads=2, endpoint=True), {"classes": None}, "classes"),
    "DDPM++": (replace(UNET, skip_scale=0.5**0.5, fourier=16.0), {}, "--net.skip-scale 1.0, --net.fourier None"),
    "heads": (replace(UNET, attention=(1, 2)), {}, "--net.head-width 8"),
    "groups": (replace(UNET, groups=32), {}, "--net.groups 16"),
    "clean pictures on a flow": (UNET, {"kind": "x0"}, "--kind flow"),
    "the time": (UNET, {"time": "log_sigma"}, "--time t"),
    "scaled input": (UNET, {"data_std": 0.5}, "--data-std None"),
    "sub-vp": (UNET, {"schedule": SubVP()}, "--schedule flow, cosine, vp, trigonometric, ddpm or edm"),
    "ε at pure noise": (UNET, {"schedule": Cosine(), "kind": "eps"}, "--kind v"),
    "the default kind on a table": (UNET, {"schedule": Table.linear(), "kind": "flow"}, "--kind v"),
    "a short table": (UNET, {"schedule": Table.linear(100), "kind": "eps"}, "--net.time-scale 100"),
    "edm by default": (
        UNET, {"schedule": EDM()}, "--time log_sigma, --net unet, --net.time-scale 1, --kind edm, --data-std 0.5"
    ),
    "a variance beside a factor": (
        replace(DIT, learn_sigma=True), {"schedule": Trigonometric(), "learned_variance": True}, "--net.no-learn-sigma"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNWRITTEN)
def test_what_diffusers_lacks_is_said_in_a_line(tiny, tmp_path, case):
    config, options, remedy = UNWRITTEN[case]
    denoise = run(tiny, config, **{"schedule": Flow(), "kind": "flow"} | options)
    with pytest.raises(InputError) as refused:
        bridge.write(denoise, tmp_path / "out")
    name = type(denoise.net).__name__
    assert str(refused.value) == f"diffusers has nothing like this {name} run: train with {remedy}"
    assert not list(tmp_path.iterdir())


def test_every_reason_at_once(tmp_path):
    net = nets.build(nets.UNetConfig(width=8, blocks=1, image=1, fourier=16.0), channels=1, size=16)
    net.prior = Prior(1, (1, 16, 16), 4)
    with pytest.raises(InputError, match=r"train with --prior None, --net\.fourier None, --net\.groups 8, --kind v$"):
        bridge.write(NetDenoiser(net, Cosine(), "eps", shape=(1, 16, 16)), tmp_path / "out")
    net = nets.build(nets.UViTConfig(patch=2, width=16, depth=1, heads=2), channels=1, size=8)
    silent = nets.build(nets.MMDiTConfig(patch=2, width=16, depth=1, heads=2), channels=1, size=8)
    with pytest.raises(
        InputError, match=r"told a text.* and this MMDiT run was trained without: train a net unet or dit"
    ):
        bridge.write(NetDenoiser(silent, Flow(), shape=(1, 8, 8)), tmp_path / "out")
    with pytest.raises(InputError, match="no network like UViT: train a net unet, dit or mmdit"):
        bridge.write(NetDenoiser(net, Flow(), shape=(1, 8, 8)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_page_runs(tmp_path, monkeypatch):
    """The example that needs no folder."""
    page = (Path(__file__).parents[2] / "docs" / "networks" / "bridge.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "diffusers.UNet2DModel" in block
    )
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(code, "bridge.md", "exec"), scope)
    assert scope["images"].shape == (4, 1, 16, 16) and not scope["images"].isnan().any()
