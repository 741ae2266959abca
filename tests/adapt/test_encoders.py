"""Encoders: what is predicted is an adapter, of the very pictures; the base stays, and training goes on from it."""

from functools import partial

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.adapt import LowRank
from reverie.adapt.adapter import fingerprint
from reverie.adapt.encoder import TOKEN, AdapterEncoder, Encoding, Subjects, build, parted
from reverie.adapt.encoder_config import E4TConfig, HyperDreamBoothConfig
from reverie.adapt.training import own
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.data import TensorSet

from ..margin import apart
from .small import DIT, UNET, images, model, of_texts, says
from .subjects import LOOK, Painted, base, colour_of, trained

NOW = Moment(0, 0, 8)
METHODS = {
    "e4t": partial(E4TConfig, net=LOOK, width=16),
    "hyperdreambooth": partial(HyperDreamBoothConfig, net=LOOK, width=16, depth=1, heads=2, outer=12, inner=10),
}
BASES = {"dit": lambda: model(DIT), "unet": lambda: model(UNET), "texts": of_texts}


def encoder(method: str, kind: str = "dit", size: float = 0.0) -> AdapterEncoder:
    """An encoder of a small model; ``size`` moves its numbers, as training does."""
    like = "heart" if kind == "texts" else "1"
    made = build(METHODS[method](like=like, prompt="a {}"), BASES[kind](), 0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.net.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return made


def told(model_, token: str = "<mine>"):
    if model_.conditioner.text is not None:
        return model_.conditioner(f"a {token}")
    return model_.conditioner(label=int(token) if token.isdecimal() else token)


def drawn_by(made: AdapterEncoder, shown: Tensor) -> Tensor:
    applied = rv.adapt.apply(made.base, rv.adapt.encode(made, shown))
    return says(applied, told(applied))


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_encoder_predicts_the_base_to_the_bit_and_another_one_what_it_sees(method, kind):
    fresh = encoder(method, kind)
    hashed = fingerprint(fresh.base.net)
    before = says(fresh.base, told(fresh.base, "heart" if kind == "texts" else "1"))
    assert torch.equal(drawn_by(fresh, images(3)), before)
    made = encoder(method, kind, 0.1)
    seen = drawn_by(made, images(3))
    assert apart(seen, before) > 1e-3
    others = apart(drawn_by(made, images(3, seed=8)), seen)
    assert (
        others > 1e-4 and apart(drawn_by(made, images(3).flip(0)), seen) < 0.02 * others
    )  # their order makes no difference
    assert fingerprint(made.base.net) == hashed


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_subjects_is_each_of_them_alone(method, kind):
    """The loss of a batch, each under its own adapter, is that of each with its adapter applied; with those exchanged it is not."""
    made = encoder(method, kind, 0.1)
    shown, x = images(6, seed=6).reshape(3, 2, 1, 8, 8), images(3, seed=7)
    with torch.no_grad():
        whole = Encoding(made, own).of(x, made.net(shown), Draws(3, 0, 3), NOW)["mse"]

    def alone(i: int, subject: int) -> Tensor:
        applied = rv.adapt.apply(made.base, rv.adapt.encode(made, shown[subject]))
        task = own(applied)
        with torch.no_grad():
            return task.loss(next(iter(task.players)), Batch(x[i : i + 1], told(applied)), Draws(3, i, 1), NOW)["mse"]

    exchanged = apart(whole, torch.cat([alone(i, (i + 1) % 3) for i in range(3)]))
    assert exchanged > 1e-5 and apart(whole, torch.cat([alone(i, i) for i in range(3)])) < 0.05 * exchanged


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_passes_the_base_and_ends_in_the_encoder(method, kind):
    made = encoder(method, kind, 0.1)
    hashed = fingerprint(made.base.net)
    shown = images(8, seed=6).reshape(4, 2, 1, 8, 8)
    task = Encoding(made, own, Batch(images(4), None, {"shown": shown}))
    assert task.turns(NOW) == ["encoder"]
    parts = task.loss("encoder", Batch(images(4), None, {"shown": shown}), Draws(0, 0, 4), NOW)
    sum(part.mean() for part in parts.values()).backward()
    stepped = {name: p for name, p in made.net.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stepped.values())
    assert any(p.grad.any() for name, p in stepped.items() if name.startswith("look."))
    assert fingerprint(made.base.net) == hashed and all(p.grad is None for p in made.base.net.parameters())
    measured = task.validate()
    assert set(measured) == {"loss", "exchanged"} and measured["loss"] != pytest.approx(measured["exchanged"], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_predicted_travels_in_a_file_at_any_strength_and_knows_its_base(method, tmp_path):
    made = encoder(method, "unet", 0.3)
    mine = rv.adapt.encode(made, images(3), "<cat>")
    assert mine.tokens == ["<cat>"] and mine.likes == {"<cat>": 1} and mine.method == method
    again = rv.adapt.load(mine.save(tmp_path / "cat.safetensors"))
    one, two = (rv.adapt.apply(made.base, each) for each in (mine, again))
    assert torch.equal(says(one, told(one, "<cat>")), says(two, told(two, "<cat>")))
    still = rv.adapt.apply(made.base, (mine, 0.0))
    assert torch.equal(says(still, told(still, "1")), says(made.base, told(made.base, "1")))
    with pytest.raises(InputError, match="another checkpoint"):
        rv.adapt.apply(model(UNET, seed=5), mine)


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_from_what_is_predicted(method):
    made = encoder(method, "unet", 0.3)
    start = rv.adapt.encode(made, images(3))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    same = rv.adapt.fit(made.base, images(3), start=start, steps=2, batch=2, rate=0.0)
    more = rv.adapt.fit(made.base, images(3), start=start, steps=2, batch=2, rate=0.01)
    assert same.method == more.method == method and more.tokens == ["<mine>"]
    for name, value in before.items():
        assert torch.equal(start.state_dict()[name], value) and torch.equal(same.state_dict()[name], value)
        assert apart(more.state_dict()[name], value) > 1e-5
    with pytest.raises(InputError, match="another checkpoint"):
        rv.adapt.fit(model(UNET, seed=5), images(3), start=start, steps=1)


def test_offsets_are_the_weight_times_a_row_and_a_column_and_shared_by_all_subjects():
    made = encoder("e4t", "unet", 0.3)
    one, other = rv.adapt.encode(made, images(3)), rv.adapt.encode(made, images(3, seed=8))
    for name, change in one.changes.items():
        weight = made.base.net.get_parameter(name)
        expected = weight.flatten(1) * torch.outer(change.row, change.column)  # pyright: ignore
        assert apart(change.delta(weight).flatten(1), expected) < 1e-6
        assert torch.equal(change.row, other.changes[name].row)  # pyright: ignore
    assert apart(one.rows["<mine>"], other.rows["<mine>"]) > 1e-3


@pytest.mark.parametrize("norm", [200.0, 0.0], ids=["held", "control: free"])
def test_the_penalty_holds_the_word_near_the_domain(norm):
    """Against a loss that pulls it away, which the control follows."""
    made = build(E4TConfig(like="1", net=LOOK, width=16, norm=norm), model(DIT), 0)
    shown, adam = images(6).reshape(3, 2, 1, 8, 8), torch.optim.Adam(made.net.parameters(), 0.02)
    for _ in range(60):
        said = made.net(shown)
        row = said.numbers[f"rows.{TOKEN}"]
        loss = (row - 1.0).square().mean() + said.parts["norm"].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    domain = made.net.adapter.rows[TOKEN]
    assert (apart(row.mean(0), domain) < 0.5) == bool(norm), apart(row.mean(0), domain)


def test_a_light_change_is_of_its_rank_in_two_fixed_spaces_that_a_seed_stands_for():
    net = model(UNET).net
    made = HyperDreamBoothConfig(rank=2, outer=5, inner=6).changes(net, 7)
    again, other = (HyperDreamBoothConfig(rank=2, outer=5, inner=6).changes(net, seed) for seed in (7, 99))
    for name, change in made.items():
        weight = net.get_parameter(name)
        left, right = change.auxiliary(weight)  # pyright: ignore
        assert apart(left.T @ left, torch.eye(left.shape[1])) < 1e-5
        assert apart(right @ right.T, torch.eye(len(right))) < 1e-5
        assert torch.equal(left, again[name].auxiliary(weight)[0])  # pyright: ignore
        assert apart(left, other[name].auxiliary(weight)[0]) > 0.1  # pyright: ignore
        assert sum(p.numel() for p in change.parameters()) == 2 * (left.shape[1] + len(right))
        with torch.no_grad():
            change.up.normal_()  # pyright: ignore
        assert int(torch.linalg.matrix_rank(change.delta(weight).flatten(1).double(), rtol=1e-5)) == 2
    assert all("auxiliary" not in key and "fixed" not in key for key in change.state_dict())


def test_a_relaxed_prediction_is_the_same_model_with_room_for_more():
    made = encoder("hyperdreambooth", "unet", 0.3)
    mine = rv.adapt.encode(made, images(3))
    wide = rv.adapt.relaxed(mine, made.base.net, 3)
    a, b = rv.adapt.apply(made.base, mine), rv.adapt.apply(made.base, wide)
    assert apart(says(b, told(b)), says(a, told(a))) < 1e-5
    assert apart(says(a, told(a)), says(made.base, told(made.base, "1"))) > 1e-3
    more = rv.adapt.fit(made.base, images(3), start=wide, steps=3, batch=2, rate=0.02)
    assert all(isinstance(change, LowRank) and change.rank > 1 for change in more.changes.values())
    for name, change in wide.changes.items():
        assert not change.up[:, 1:].any()  # pyright: ignore
        assert (more.changes[name].up.norm(dim=0) > 1e-4).all()  # pyright: ignore
    with pytest.raises(InputError, match="to a higher one"):
        rv.adapt.relaxed(rv.adapt.encode(encoder("e4t", "unet"), images(3)), made.base.net, 3)


def test_a_subject_is_shown_by_its_other_pictures_and_some_subjects_are_kept():
    data = Painted(5, 0)
    seen, kept = parted(data, 3)
    assert len(seen) == 24 and len(kept) == 16  # of one subject alone nothing could be exchanged
    for part, subjects in ((seen, [0, 1, 2]), (kept, [3, 4])):
        batch = part.batch(range(len(part)))
        expected = torch.tensor(subjects).repeat_interleave(8)
        assert apart(colour_of(batch.x), data.colours[expected]) < 0.05
        for k in range(3):
            assert apart(colour_of(batch.extra["shown"][:, k]), data.colours[expected]) < 0.05
            assert (batch.extra["shown"][:, k] - batch.x).flatten(1).abs().amax(1).min() > 0.01  # never itself
    with pytest.raises(InputError, match="a folder of pictures each"):
        parted(TensorSet(images(8)), 2)
    with pytest.raises(InputError, match="got 2"):
        parted(Painted(2, 0), 2)


def test_what_does_not_fit_is_said():
    made = encoder("e4t")
    for shown in (images(3)[:, :, :4], images(0), images(3)[0], images(3) * float("nan")):
        with pytest.raises(InputError, match="pictures are"):
            rv.adapt.encode(made, shown)
    with pytest.raises(InputError, match="angle brackets"):
        rv.adapt.encode(made, images(3), "mine")
    with pytest.raises(InputError, match="where the subject stands"):
        build(METHODS["e4t"](prompt="a cat"), of_texts(), 0)
    with pytest.raises(InputError, match="no layer matches"):
        build(METHODS["e4t"](layers="attenshun"), model(DIT), 0)


def learned(method: str) -> tuple[AdapterEncoder, AdapterEncoder]:
    """An encoder that has seen 256 colours, and the same untrained."""
    config = METHODS[method](like="0", width=64, **({"norm": 0.01} if method == "e4t" else {"outer": 100, "inner": 50}))
    made, fresh = build(config, base(), 0), build(config, base(), 0)
    seen = Subjects(Painted(256, 1), range(256), 4)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    steps, rate = {"e4t": (300, 1e-2), "hyperdreambooth": (200, 1e-3)}[method]
    trained(Encoding(made, own), lambda rows: seen.batch(order[rows % len(seen)]), steps, rate)
    return made, fresh


def off(made: AdapterEncoder, shown: Tensor, colour: Tensor) -> float:
    """How far the colour of what is drawn lies from a subject's."""
    applied = rv.adapt.apply(made.base, rv.adapt.encode(made, shown))
    drawn = rv.sample(applied, 8, applied.conditioner("<mine>"), steps=10, seed=0, progress="")
    return float((colour_of(drawn) - colour).norm(dim=1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_trained_encoder_knows_subjects_that_it_has_not_seen(method):
    """Of new colours: what is drawn after their own pictures is nearer than after another subject's, or by an untrained encoder; and tuning
    from what is predicted is ahead of tuning from the untrained one that has four times the steps."""
    made, fresh = learned(method)
    new = Painted(12, 99)
    held = Subjects(new, range(12), 4).batch(range(96))
    measured, control = (Encoding(each, own, held).validate() for each in (made, fresh))
    assert measured["loss"] < 0.97 * control["loss"] and measured["loss"] < 0.92 * measured["exchanged"], measured  # pyright: ignore
    assert control["loss"] == control["exchanged"]
    shown = new.x.unflatten(0, (12, 8))[:, :4]
    by_own, by_other, by_fresh = (
        sum(off(each, shown[(i + shift) % 12], new.colours[i]) for i in range(12)) / 12
        for each, shift in ((made, 0), (made, 1), (fresh, 0))
    )
    assert by_own < 0.93 * by_other and by_own < 0.93 * by_fresh, (by_own, by_other, by_fresh)

    def left(each: AdapterEncoder, i: int, steps: int) -> float:
        """The error of unseen pictures of a subject after so many steps on four."""
        start = rv.adapt.encode(each, shown[i])
        start = rv.adapt.relaxed(start, each.base.net, 4) if method == "hyperdreambooth" else start
        tuned = rv.adapt.apply(each.base, rv.adapt.fit(each.base, shown[i], start=start, steps=steps, rate=3e-3))
        x = new.x[8 * i + 4 : 8 * i + 8].repeat(32, 1, 1, 1)
        with torch.no_grad():
            task = own(tuned)
            cond = tuned.conditioner("<mine>").expand(128)
            return float(task.loss("denoiser", Batch(x, cond), Draws(7, 0, 128), NOW)["mse"].mean())

    few, many = (sum(left(each, i, steps) for i in range(4)) / 4 for each, steps in ((made, 5), (fresh, 20)))
    assert few < many, (few, many)
