"""The adapter object: fresh it is the base to the bit; it stacks, scales, merges and travels in a file; another base refuses it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import reverie as rv
from reverie.adapt import DoRA, LowRank, Spectral
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import unmerged
from reverie.adapt.config import METHODS
from reverie.adapt.training import begin
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.schedules import Flow
from reverie.nets.config import CONFIGS
from reverie.nets.prior import Prior

from ..margin import apart
from .small import DIT, UNET, images, model, out

CASES = {
    "lora": ("lora", {"layers": ""}),
    "dora": ("lora", {"layers": "", "dora": True}),
    "dreambooth": ("dreambooth", {"preserve": 0.0}),
    "textual": ("textual", {}),
    "custom": ("custom", {"preserve": 0.0}),
    "svdiff": ("svdiff", {}),
}


def fresh(denoise, case: str, token: str | None = None) -> Adapter:
    name, settings = CASES[case]
    return begin(METHODS[name](token=token or "<mine>", **settings), denoise, 0).adapter


def moved(adapter: Adapter, size: float = 0.1, seed: int = 1) -> Adapter:
    """The adapter with all its numbers moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return adapter.requires_grad_(False)


@pytest.mark.parametrize("config", [DIT, UNET], ids=["dit", "unet"])
@pytest.mark.parametrize("case", CASES)
def test_a_fresh_adapter_is_the_base_to_the_bit_and_a_moved_one_is_not(case, config):
    denoise = model(config)
    before, hashed = out(denoise, rv.Cond(label=1)), fingerprint(denoise.net)
    adapter = fresh(denoise, case)
    for applied in (rv.adapt.apply(denoise, adapter), unmerged(denoise, adapter)):
        assert torch.equal(out(applied, rv.Cond(label=1)), before)
        assert torch.equal(out(applied), out(denoise))  # the null has moved by a row, and is what it was
    moved(adapter)
    told = rv.Cond(label=3) if case == "textual" else rv.Cond(label=1)
    assert apart(out(rv.adapt.apply(denoise, adapter), told), before) > 1e-3
    assert torch.equal(out(rv.adapt.apply(denoise, (adapter, 0.0)), rv.Cond(label=1)), before)
    assert fingerprint(denoise.net) == hashed and torch.equal(out(denoise, rv.Cond(label=1)), before)


@pytest.mark.parametrize("case", CASES)
def test_merged_equals_unmerged(case):
    denoise = model(UNET)
    adapter = moved(fresh(denoise, case))
    merged, beside = rv.adapt.apply(denoise, adapter), unmerged(denoise, adapter)
    cond = merged.conditioner("<mine>")
    assert apart(out(merged, cond), out(beside, cond)) < 1e-6
    assert merged.conditioner.classes == ["0", "1", "2", "<mine>"]
    drawn = rv.sample(merged, 2, cond, steps=2, seed=0, progress="")
    assert drawn.shape == (2, 1, 8, 8)


def test_a_product_is_of_its_rank_and_of_its_strength():
    weight = torch.randn(6, 4, 3, 3)
    change = LowRank.begin(weight, 2, 8.0, torch.Generator().manual_seed(0))
    assert not change.up.any() and change.down.any()
    with torch.no_grad():
        change.up.normal_()
    delta = change.delta(weight)
    expected = torch.einsum("or,rikl->oikl", change.up, change.down) * (8.0 / 2)
    assert torch.allclose(delta, expected, atol=1e-5) and not torch.allclose(delta, 2 * expected, atol=1e-1)
    assert int(torch.linalg.matrix_rank(delta.flatten(1).double(), rtol=1e-5)) == 2
    small = LowRank.begin(torch.randn(3, 5), 4, 8.0, torch.Generator())
    assert (small.rank, small.alpha) == (3, 6.0)


def test_dora_moves_length_and_direction_apart():
    weight = torch.randn(5, 7)
    change = DoRA.begin(weight, 2, 2.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        change.up.normal_()
        change.magnitude.copy_(torch.arange(1.0, 6.0))
    whole = weight + change.delta(weight)
    assert torch.allclose(whole.norm(dim=1), torch.arange(1.0, 6.0), atol=1e-5)
    directed = weight + change.product(weight)
    cosine = torch.nn.functional.cosine_similarity(whole, directed, dim=1)
    assert torch.allclose(cosine, torch.ones(5), atol=1e-5)
    assert apart(torch.nn.functional.normalize(weight), torch.nn.functional.normalize(whole)) > 0.1


def test_shifts_of_singular_values_keep_the_axes():
    weight = torch.randn(6, 2, 3, 3)
    weight[0] = 0.0
    weight[1] = weight[2]
    change = Spectral.blank(tuple(weight.shape), {})
    assert change.shift.shape == (6,)
    with torch.no_grad():
        change.shift.copy_(torch.tensor([1.0, 0.5, -9.0, 0.2, 7.0, 7.0]))
    u, s, vh = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    expected = s.clone()
    expected[:4] = (s[:4] + torch.tensor([1.0, 0.5, -9.0, 0.2])).clamp(min=0)  # the last two are zero, and stay
    found = (weight + change.delta(weight)).flatten(1).double()
    assert torch.allclose(found, (u * expected) @ vh, atol=1e-5)
    assert apart(found, weight.flatten(1).double()) > 0.1


def test_several_stack_in_any_order_scale_and_join():
    denoise = model(UNET)
    a = moved(begin(METHODS["lora"](token="<a>"), denoise, 0).adapter, seed=1)
    b = moved(begin(METHODS["lora"](token="<b>", rank=2), denoise, 1).adapter, seed=2)
    cond = rv.Cond(label=2)
    both = rv.adapt.apply(denoise, (a, 0.8), b)
    assert both.conditioner.classes[-2:] == ["<a>", "<b>"]
    swapped, in_turn = rv.adapt.apply(denoise, b, (a, 0.8)), rv.adapt.apply(rv.adapt.apply(denoise, (a, 0.8)), b)
    assert apart(out(swapped, cond), out(both, cond)) < 1e-5 and torch.equal(out(in_turn, cond), out(both, cond))
    assert apart(out(both, cond), out(rv.adapt.apply(denoise, a, b), cond)) > 1e-3
    assert apart(out(both, both.conditioner("<a>")), out(both, both.conditioner("<b>"))) > 1e-3
    one = rv.adapt.joined((a, 0.8), (b, 1.0))
    whole = rv.adapt.apply(denoise, one)
    for token in ("<a>", "<b>"):
        assert apart(out(whole, whole.conditioner(token)), out(both, both.conditioner(token))) < 1e-5
    assert max(change.rank for change in one.changes.values()) <= 6  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="<a> is known already"):
        rv.adapt.apply(denoise, a, a)
    with pytest.raises(InputError, match="finite"):
        rv.adapt.apply(denoise, (a, float("nan")))
    with pytest.raises(InputError, match="svdiff adapter is no plain product"):
        rv.adapt.joined((a, 1.0), (fresh(denoise, "svdiff", "<c>"), 1.0))


@pytest.mark.parametrize("case", CASES)
def test_a_file_holds_it_all(case, tmp_path):
    denoise = model(UNET)
    adapter = moved(fresh(denoise, case))
    path = adapter.save(tmp_path / "a.safetensors")
    again = rv.adapt.load(path)
    assert isinstance(again, Adapter) and again.method == adapter.method and again.tokens == ["<mine>"]
    cond = rv.Cond(label=3)
    assert torch.equal(out(rv.adapt.apply(denoise, again), cond), out(rv.adapt.apply(denoise, adapter), cond))
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["reverie"])
    assert said["base"] == fingerprint(denoise.net)
    if case == "lora":
        assert all(layer["rank"] == layer["alpha"] <= 4 for layer in said["layers"].values())


def test_another_base_refuses_it_by_hash_with_the_way_round():
    denoise, other = model(), model(seed=1)
    adapter = moved(fresh(denoise, "lora"))
    with pytest.raises(InputError, match=f"hash {fingerprint(denoise.net)[:12]}.*anyway"):
        rv.adapt.apply(other, adapter)
    forced = rv.adapt.apply(other, adapter, anyway=True)
    assert apart(out(forced, rv.Cond(label=1)), out(other, rv.Cond(label=1))) > 1e-3
    with pytest.raises(InputError, match=r"which the model does not have|has shapes"):
        rv.adapt.apply(model(UNET), adapter, anyway=True)
    with pytest.raises(InputError, match="has shapes"):
        rv.adapt.apply(model(rv.nets.DiTConfig(patch=2, width=32, depth=2, heads=2)), adapter, anyway=True)


def test_files_that_are_not_whole_are_refused_by_name(tmp_path):
    denoise = model()
    path = moved(fresh(denoise, "lora")).save(tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    key = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != key}, path, header)
    with pytest.raises(InputError, match=r"incomplete|lacks"):
        rv.adapt.load(path)
    save_file({**tensors, "extra": torch.zeros(1)}, path, header)
    with pytest.raises(InputError, match="'extra': the file was changed"):
        rv.adapt.load(path)
    save_file({**tensors, key: tensors[key] * float("inf")}, path, header)
    with pytest.raises(InputError, match="not finite"):
        rv.adapt.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="damaged"):
        rv.adapt.load(path)
    with pytest.raises(InputError, match="no safetensors file"):
        rv.adapt.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_formats_of_others_both_ways_for_a_model_of_a_run(form, tmp_path):
    denoise = model(UNET)
    config = METHODS["lora"](layers="", rank=3, alpha=6.0)
    adapter = moved(Adapter("lora", fingerprint(denoise.net), config.changes(denoise.net, 0)))
    path = rv.adapt.write(adapter, tmp_path / ("x" if form == "peft" else "x.safetensors"), denoise, form)
    cond, mine = rv.Cond(label=1), out(rv.adapt.apply(denoise, adapter), rv.Cond(label=1))
    again = out(rv.adapt.apply(denoise, rv.adapt.load(path)), cond)
    assert apart(again, mine) < 1e-6 and apart(mine, out(denoise, cond)) > 1e-3
    with pytest.raises(InputError, match="of another model"):
        rv.adapt.apply(model(DIT), rv.adapt.load(path))
    if form == "peft":
        said = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
        assert set(said["rank_pattern"].values()) == {1, 3} and set(said["alpha_pattern"].values()) == {2.0, 6.0}
        (tmp_path / "x" / "adapter_config.json").unlink()
        with pytest.raises(InputError, match=r"adapter_config\.json"):
            rv.adapt.load(path)
    with pytest.raises(InputError, match="hold no tokens"):
        rv.adapt.write(fresh(denoise, "lora"), tmp_path / "y.safetensors", denoise, form)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_token_is_the_class_that_it_is_like_in_every_network(name):
    config = UNET if name == "unet" else CONFIGS[name](patch=2, width=16, depth=3, heads=2)
    denoise = model(config)
    adapter = begin(METHODS["lora"](token="<mine>", like="1"), denoise, 0).adapter
    for applied in (rv.adapt.apply(denoise, adapter), unmerged(denoise, adapter)):
        assert torch.equal(out(applied, rv.Cond(label=3)), out(denoise, rv.Cond(label=1)))
        assert torch.equal(out(applied), out(denoise))
    assert apart(out(denoise, rv.Cond(label=2)), out(denoise, rv.Cond(label=1))) > 1e-3


def test_a_fresh_token_is_the_class_that_it_is_like_also_to_the_closed_form_that_a_network_corrects():
    torch.manual_seed(0)
    net = rv.nets.build(rv.nets.DiTConfig(patch=2, width=16, depth=1, heads=2, image=1), channels=1, size=8, classes=2)
    net.prior = Prior(2, (1, 8, 8), 4)
    net.prior.fit(images(40), torch.arange(40) % 2)
    denoise = NetDenoiser(net.eval().requires_grad_(False), Flow(), "flow", shape=(1, 8, 8))
    like, free = (begin(METHODS["textual"](token="<mine>", like=each), denoise, 0).adapter for each in ("1", None))
    for adapter in (like, free):
        for applied in (rv.adapt.apply(denoise, adapter), unmerged(denoise, adapter)):
            assert apart(out(applied), out(denoise)) < 1e-6
            assert apart(out(applied, rv.Cond(label=1)), out(denoise, rv.Cond(label=1))) < 1e-6
    one, other = (out(rv.adapt.apply(denoise, adapter), rv.Cond(label=2)) for adapter in (like, free))
    assert apart(one, out(denoise, rv.Cond(label=1))) < 1e-6 and apart(other, one) > 1e-3
    assert denoise.conditions["label"].classes == 2 and len(net.prior.means) == 2  # pyright: ignore[reportAttributeAccessIssue]
