"""Encoders that show a model of texts subjects: at first nothing, then their own, where their word stands; alone, together, in files."""

import copy
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.adapt.adapter import fingerprint
from reverie.adapt.composing import Composed, Composing, astray, nouns, read
from reverie.adapt.demonstrations import cropped
from reverie.adapt.elite import ELITE, Local, depths
from reverie.adapt.encoder import AdapterEncoder, Subjects, build
from reverie.adapt.showing import Demonstrating, Eliting, Showing
from reverie.adapt.showing_config import DemonstrationsConfig, ELITEConfig, FastComposerConfig
from reverie.adapt.training import own
from reverie.core import spelling
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Label
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.data import ImageSet
from reverie.data.captions import Captions
from reverie.data.maps import NONE, Painted
from reverie.guide import cfg
from reverie.nets import taps

from ..margin import apart
from . import halves, patterns
from .small import DIT, UNET, images, model, of_texts, says
from .subjects import LOOK, trained

NOW = Moment(0, 0, 8)
METHODS = {
    "elite": partial(ELITEConfig, words=3),
    "fastcomposer": FastComposerConfig,
    "suti": DemonstrationsConfig,
    "instantbooth": partial(DemonstrationsConfig, word=True),
    "taming": partial(DemonstrationsConfig, patches=False, beside=2),
}
BASES = {"unet": of_texts, "dit": lambda: of_texts(DIT)}
LEFT = torch.zeros(1, 8, 8)
LEFT[..., :4] = 1.0


def encoder(method: str, kind: str = "unet", size: float = 0.0) -> AdapterEncoder:
    """An encoder of a small model of texts; ``size`` moves its numbers, as training does."""
    made = build(METHODS[method](net=LOOK, width=16, like="heart", prompt="a {}"), BASES[kind](), 0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.net.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return made


def drawn_by(made: AdapterEncoder, shown: Tensor, text: str = "a <mine>", scale: float = 1.0) -> Tensor:
    applied = rv.adapt.apply(made.base, (rv.adapt.encode(made, shown), scale))
    return says(applied, applied.conditioner(text))


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_encoder_shows_nothing_to_the_bit_and_another_one_what_it_sees(method, kind):
    fresh = encoder(method, kind)
    hashed, before = fingerprint(fresh.base.net), says(fresh.base, fresh.base.conditioner("a heart"))
    if method != "taming":  # whose tokens stand beside the text from the first: its null is the text without
        assert torch.equal(drawn_by(fresh, images(3)), before)
    made = encoder(method, kind, 0.2)
    seen = drawn_by(made, images(3))
    others = apart(drawn_by(made, images(3, seed=8)), seen)
    assert apart(seen, before) > 1e-3 and others > 1e-4
    assert apart(drawn_by(made, images(3).flip(0)), seen) < 0.02 * others  # their order makes no difference
    assert fingerprint(made.base.net) == hashed


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_without_strength_or_without_its_word_nothing_is_shown_to_the_bit(method, kind):
    """At strength 0 the words alone are told (ELITE's λ = 0), and a text of other words is the base's."""
    made = encoder(method, kind, 0.2)
    mine = rv.adapt.encode(made, images(3))
    blind = rv.adapt.Adapter(mine.method, mine.base, rows=dict(mine.rows))
    alone, without = rv.adapt.apply(made.base, blind), rv.adapt.apply(made.base, (mine, 0.0))
    applied = rv.adapt.apply(made.base, mine)
    words = says(alone, alone.conditioner("a <mine>"))
    assert torch.equal(says(without, without.conditioner("a <mine>")), words)
    assert torch.equal(says(applied, applied.conditioner("a tree")), says(made.base, made.base.conditioner("a tree")))
    assert torch.equal(says(applied), says(made.base))  # told nothing
    whole, half = (drawn_by(made, images(3), scale=scale) for scale in (1.0, 0.5))
    assert min(apart(whole, words), apart(half, words), apart(whole, half)) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_guidance_leads_away_from_a_subject_as_from_a_word(method):
    """Its two branches, in one batch, are those of a model that is called for each."""
    made = encoder(method, size=0.2)
    applied = rv.adapt.apply(made.base, rv.adapt.encode(made, images(3)))
    x, cond = images(2, seed=5), applied.conditioner("a <mine>").expand(2)
    with torch.no_grad():
        guided, told, null = cfg(applied, 3.0)(x, 0.6, cond).out, applied(x, 0.6, cond).out, applied(x, 0.6, None).out
    assert apart(guided, null + 3.0 * (told - null)) < 0.01 * apart(guided, told)
    assert torch.equal(null, made.base(x, 0.6, None).out)


@pytest.mark.parametrize("method", METHODS)
def test_a_subject_is_told_late_if_wanted(method, tmp_path):
    made = encoder(method, size=0.2)
    mine = rv.adapt.encode(made, images(3))
    path = mine.delayed(0.3).save(tmp_path / "late.safetensors")
    late, now, off = (rv.adapt.apply(made.base, each) for each in (rv.adapt.load(path), mine.delayed(0.0), (mine, 0.0)))
    cond, x = late.conditioner("a <mine>"), images(2, seed=5)

    def at(denoise, t: float) -> Tensor:
        with torch.no_grad():
            return denoise(x, t, cond).out

    assert torch.equal(at(late, 0.8), at(off, 0.8)) and torch.equal(at(late, 0.6), at(now, 0.6))
    assert apart(at(now, 0.8), at(off, 0.8)) > 1e-4 and apart(at(now, 0.6), at(off, 0.6)) > 1e-4
    never = rv.adapt.apply(made.base, mine.delayed(1.0))
    drawn = [rv.sample(each, 2, cond, steps=3, seed=0, progress="") for each in (never, off, now)]
    assert torch.equal(drawn[0], drawn[1]) and apart(drawn[2], drawn[1]) > 1e-4
    for delay in (-0.1, 1.1):
        with pytest.raises(InputError, match="0 to 1"):
            mine.delayed(delay)
    with pytest.raises(InputError, match="shows none"):
        rv.adapt.Adapter("textual", mine.base, rows=dict(mine.rows)).delayed(0.3)


@pytest.mark.parametrize("method", METHODS)
def test_two_subjects_stand_side_by_side_in_any_order(method, tmp_path):
    made = encoder(method, size=0.2)
    a, b = (rv.adapt.encode(made, images(2, seed=seed), token) for seed, token in ((3, "<a>"), (8, "<b>")))
    assert a.method == made.net.adapter.method and a.tokens[0] == "<a>"
    again = rv.adapt.load(a.save(tmp_path / "a.safetensors"))
    assert again.tokens == a.tokens
    both, turned = (rv.adapt.apply(made.base, *each) for each in ((a, b), (b, again)))
    one, alone = rv.adapt.apply(rv.adapt.apply(made.base, a), b), rv.adapt.apply(made.base, a)
    said = {
        name: says(each, each.conditioner("<a> by <b>"))
        for name, each in (("both", both), ("turned", turned), ("one", one))
    }
    assert torch.equal(said["both"], said["one"]) and apart(said["both"], said["turned"]) < 1e-5
    assert apart(says(both, both.conditioner("a <b>")), says(both, both.conditioner("a <a>"))) > 1e-4
    assert torch.equal(says(both, both.conditioner("a <a>")), says(alone, alone.conditioner("a <a>")))
    with pytest.raises(InputError, match="apply them together"):
        rv.adapt.joined((a, 1.0), (b, 1.0))
    with pytest.raises(InputError, match="another checkpoint"):
        rv.adapt.apply(of_texts(seed=5), a)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_subjects_is_each_of_them_alone(method, kind):
    """The loss of a batch, each picture with the sight of its own subject, is that of each with its adapter applied."""
    made = encoder(method, kind, 0.2)
    shown, x = images(6, seed=6).reshape(3, 2, 1, 8, 8), images(3, seed=7)
    task = Showing(made, own)
    with torch.no_grad():
        whole = task.errors(x, task.said(Batch(x, None, {"shown": shown})), Draws(3, 0, 3))

    def alone(i: int, subject: int) -> Tensor:
        applied = rv.adapt.apply(made.base, rv.adapt.encode(made, shown[subject]))
        other = own(applied)
        with torch.no_grad():
            batch = Batch(x[i : i + 1], applied.conditioner("a <mine>"))
            return other.loss("denoiser", batch, Draws(3, i, 1), NOW)["mse"]

    exchanged = apart(whole, torch.cat([alone(i, (i + 1) % 3) for i in range(3)]))
    assert exchanged > 1e-5 and apart(whole, torch.cat([alone(i, i) for i in range(3)])) < 0.05 * exchanged


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_from_what_is_shown(method):
    made = encoder(method, size=0.2)
    start = rv.adapt.encode(made, images(3))
    how = {"start": start, "steps": 2, "batch": 2, "prompt": "a {}"}
    same, more = (rv.adapt.fit(made.base, images(3), rate=rate, **how) for rate in (0.0, 0.01))
    assert same.method == more.method == start.method
    for name, value in start.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
        assert apart(more.state_dict()[name], value) > 1e-5 or not name.startswith("seen.")
    a, b = rv.adapt.apply(made.base, start), rv.adapt.apply(made.base, same)
    assert torch.equal(says(a, a.conditioner("a <mine>")), says(b, b.conditioner("a <mine>")))


def test_what_cannot_be_shown_is_said():
    config = ELITEConfig(net=LOOK, width=16, like="1", prompt="a {}")
    for base in (model(UNET), model(DIT)):
        with pytest.raises(InputError, match="reverie train e4t"):
            build(config, base, 0)
    made = encoder("elite")
    with pytest.raises(InputError, match=r"got \(2, 1, 8, 8\)"):
        rv.adapt.encode(made, images(3), masks=LEFT.expand(2, -1, -1, -1))
    with pytest.raises(InputError, match="leave 'cat' out"):
        rv.adapt.encode(made, images(3), like="cat")


# ELITE


def eliting(made: AdapterEncoder) -> Eliting:
    return Eliting(made, own, 0.5)


def batch(n: int = 4) -> Batch:
    shown = images(2 * n, seed=6).reshape(n, 2, 1, 8, 8)
    mask = LEFT.expand(n, -1, -1, -1)
    return Batch(images(n), None, {"shown": shown, "masks": mask[:, None].expand(-1, 2, -1, -1, -1), "mask": mask})


def test_the_words_learn_first_and_then_what_is_seen():
    made = encoder("elite", size=0.2)
    task, hashed = eliting(made), fingerprint(made.base.net)
    assert [task.turns(Moment(0, i, 8)) for i in (0, 3, 4, 7)] == [["words"]] * 2 + [["local"]] * 2
    for player, parts in (("words", {"mse", "words"}), ("local", {"mse", "values"})):
        found = task.loss(player, batch(), Draws(0, 0, 4), NOW)
        assert set(found) == parts
        sum(part.mean() for part in found.values()).backward()
        stepped = [p for p in task.players[player].module.parameters() if p.requires_grad]
        assert stepped and all(p.grad is not None and p.grad.isfinite().all() for p in stepped)
    assert fingerprint(made.base.net) == hashed and all(p.grad is None for p in made.base.net.parameters())


def test_all_words_are_told_while_they_learn_and_the_first_alone_is_the_subject():
    made = encoder("elite", size=0.2)
    task, rng = eliting(made), Draws(0, 0, 4)
    said = task.said(batch())
    texts, names = task.say(2, 3)
    assert texts[1] == "a <subject-1> <subject-1_1> <subject-1_2>" and names[0][0] == "<subject-0>"
    with torch.no_grad():
        one, all_ = (task.errors(batch().x, said, rng, words=words, strength=0.0) for words in (1, 3))
    assert apart(one, all_) > 1e-3
    mine = rv.adapt.encode(made, images(3))
    assert mine.tokens == ["<mine>", "<mine_1>", "<mine_2>"]


def test_the_error_counts_where_the_subject_is():
    made, rng, given = encoder("elite", size=0.2), Draws(0, 0, 4), batch()
    task = eliting(made)
    with torch.no_grad():
        found = task.parts(given, task.said(given), rng, NOW)["mse"]
        everywhere = task.errors(given.x, task.said(given), rng)
        halves = [
            task.errors(given.x, task.said(given), rng, mask=each.expand(4, -1, -1, -1)) for each in (LEFT, 1 - LEFT)
        ]
    assert torch.equal(found, halves[0]) and apart(everywhere, (halves[0] + halves[1]) / 2) < 1e-5
    assert apart(halves[1], halves[0]) > 1e-2


def test_only_the_subject_is_seen_of_the_pictures_and_words_see_all():
    made = encoder("elite", size=0.2)
    x = images(1)
    other = torch.where(LEFT > 0, x, -x)  # the ground is another
    with torch.no_grad():
        (a, b), (c, d) = ([made.net(each[None], mask) for each in (x, other)] for mask in (LEFT[None, None], None))
    key = next(iter(a.sight.numbers))
    assert (
        torch.equal(a.sight.numbers[key], b.sight.numbers[key])
        and apart(c.sight.numbers[key], d.sight.numbers[key]) > 1e-3
    )
    assert apart(a.numbers["rows.<subject>"], b.numbers["rows.<subject>"]) > 1e-4


def test_the_size_of_words_and_of_values_is_held():
    made = encoder("elite", size=0.2)
    said = made.net(batch().extra["shown"])
    words = [value for name, value in said.numbers.items() if name.startswith("rows.")]
    assert apart(said.parts["words"][0], 0.01 * torch.stack([w[0].abs().mean() for w in words]).mean()) < 1e-5
    values = [value for name, value in said.sight.numbers.items() if name.endswith("/values")]
    assert apart(said.parts["values"][0], 1e-4 * torch.stack([v[0].abs().mean() for v in values]).mean()) < 1e-5


def test_what_is_added_is_scaled_by_where_the_word_is_looked_at():
    made = encoder("elite", size=0.2)
    mine = rv.adapt.encode(made, images(3))
    applied, blind = (rv.adapt.apply(made.base, (mine, scale)) for scale in (1.0, 0.0))
    site = sorted(mine.sights["<mine>"].attends)[0]
    seen: dict[str, tuple[Tensor, ...]] = {}

    def keep(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        out = at.attend(q, k, v)
        seen["given"] = (q, k, v, at.probabilities(q, k), out)
        return out

    cond = applied.conditioner("a <mine>")
    where = cond["subjects"].value[0, :, 0]
    says(taps.attention(blind, {site: keep}), cond)
    q, _, _, maps, plain = seen["given"]
    word = maps[..., where > 0].sum(-1)
    numbers = mine.sights["<mine>"].numbers
    keys, values = (numbers[f"{site.replace('.', '/')}/{part}"] for part in ("keys", "values"))
    own_ = (q @ keys.mT * q.shape[-1] ** -0.5).softmax(-1) @ values
    expected = plain + (word / word.amax(-1, keepdim=True))[..., None] * own_
    says(taps.attention(applied, {site: keep}), cond)  # acts outside: it sees what was added
    found = seen["given"][4]
    assert where.sum() == len("heart") and apart(found, expected) < 1e-5 and apart(plain, expected) > 1e-3


def test_words_read_depths_from_the_deepest_on():
    down = ["down.0.0", "down.1.1", "middle.0", "middle.1", "up.0.0", "up.0.1"]
    assert depths(down, 3) == [3, 2, 0] and depths(down, 1) == [3]
    assert depths([f"blocks.{i}" for i in range(9)], 5) == [8, 6, 4, 2, 0]


def learned() -> tuple[AdapterEncoder, AdapterEncoder]:
    """An encoder of 128 patterns on the left, and the same with an untrained local branch."""
    config = ELITEConfig(net=patterns.LOOK, width=32, prompt=patterns.PROMPT, like="thing", words=2)
    made = build(config, patterns.base(), 0)
    seen = Subjects(patterns.Patterned(128, 1), range(128), 1)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))

    def feed(rows: Tensor) -> Batch:
        return seen.batch(order[rows % len(seen)])

    trained(eliting(made), feed, 20, 1e-2, player="words")
    fresh = copy.deepcopy(made)
    trained(eliting(made), feed, 120, 1e-2, player="local")
    return made, fresh


def test_what_is_seen_brings_the_pixels_of_a_subject_that_training_has_not_seen():
    made, fresh = learned()
    assert isinstance(made.net, ELITE) and isinstance(made.net.local, Local)
    new = patterns.Patterned(6, 99)

    def drawn(each: AdapterEncoder, by: int = 0, scale: float = 1.0) -> float:
        found = []
        for i in range(6):
            shown = new.x[4 * ((i + by) % 6)][None]
            applied = rv.adapt.apply(each.base, (rv.adapt.encode(each, shown, masks=patterns.MASK[None]), scale))
            cond = applied.conditioner("<mine> ground")
            x = rv.sample(applied, 6, cond, steps=8, seed=0, progress="")
            found.append(patterns.alike(x, new.patterns[i : i + 1]))
        return sum(found) / 6

    whole, words, other, untrained = drawn(made), drawn(made, scale=0.0), drawn(made, 1), drawn(fresh)
    assert whole > 0.4 and max(abs(words), abs(other), abs(untrained)) < whole - 0.3, (whole, words, other, untrained)


# FastComposer


def composing(made: AdapterEncoder, **how) -> Composing:
    return Composing(made, own, ("red fox", "blue owl", "tree"), **how)


def captioned() -> Batch:
    """Four pictures: of a fox and an owl, of an owl, of a fox that no map shows and a tree, and of a fox."""
    texts = ["a Fox, an owl", "an owl", "a fox by a tree", "fox"]
    maps = torch.zeros(4, 3, 8, 8)
    maps[0, 0, :, :4] = maps[0, 1, :, 4:] = maps[1, 1, 2:6, 2:6] = maps[2, 2, :4] = maps[3, 0, 4:] = 1.0
    return Batch(images(4), None, {"maps": maps, "text": spelling.spelled(texts, 64)})


def test_a_subject_is_fused_into_its_tokens_and_no_others():
    made = encoder("fastcomposer", size=0.2)
    sight = rv.adapt.encode(made, images(3)).sights["<mine>"]
    text, where = torch.randn(2, 6, 16), torch.zeros(2, 6)
    where[0, 1:3] = 1.0
    with torch.no_grad():
        said, mask = sight.read(text, None, where, torch.ones(2))
        half, _ = sight.read(text, None, where, torch.full((2,), 0.5))
        subject = made.net.look(images(3)[None])[0]
        expected = made.net.fusing(text[0, 1], subject)
    assert mask is None and torch.equal(said[1], text[1]) and torch.equal(said[0, [0, 3, 4, 5]], text[0, [0, 3, 4, 5]])
    assert apart(said[0, 1], expected) < 1e-5 and apart(expected, text[0, 1]) > 1e-2
    assert apart(half, (text + said) / 2) < 1e-6


def test_a_picture_is_told_its_own_subjects_in_their_nouns():
    assert nouns(["a", "Fox,", "an", "owl"], ["red fox", "blue owl", "tree"]) == {0: "Fox,", 1: "owl"}
    made, given, rng = encoder("fastcomposer", size=0.2), captioned(), Draws(0, 0, 4)
    task = composing(made, localise=0.0)
    with torch.no_grad():
        whole, exchanged = (task.composed(given, rng, 0.0, by)["mse"] for by in (0, 2))
    assert apart(whole, exchanged) > 1e-5

    def alone(i: int) -> Tensor:
        """By adapters of the subjects that a picture shows, in the places of their nouns."""
        text, named = [("<a>, <b>", ["<a>", "<b>"]), ("<b>", ["<b>"]), ("a fox by a <c>", ["<c>"]), ("<a>", ["<a>"])][i]
        text = {0: "a <a>, an <b>", 1: "an <b>"}.get(i, text)
        kinds = {"<a>": (0, "fox"), "<b>": (1, "owl"), "<c>": (2, "tree")}
        adapters = [
            rv.adapt.encode(made, given.x[i : i + 1], n, given.extra["maps"][i, kinds[n][0]][None, None], kinds[n][1])
            for n in named
        ]
        applied = rv.adapt.apply(made.base, *(each.delayed(0.0) for each in adapters))
        with torch.no_grad():
            each = Batch(given.x[i : i + 1], applied.conditioner(text))
            return own(applied).loss("denoiser", each, Draws(0, i, 1), NOW)["mse"]

    assert apart(whole, torch.cat([alone(i) for i in range(4)])) < 0.05 * apart(whole, exchanged)


def test_half_of_the_errors_count_where_subjects_are():
    made, given, rng = encoder("fastcomposer", size=0.2), captioned(), Draws(0, 0, 4)
    task = composing(made)
    with torch.no_grad():
        whole, inside, some = (task.composed(given, rng, share)["mse"] for share in (0.0, 1.0, 0.5))
    chosen = rng.uniform("masked") < 0.5
    assert 0 < chosen.sum() < 4 and torch.equal(some, torch.where(chosen, inside, whole))
    assert torch.equal(whole[0], inside[0]) and apart(whole[1:], inside[1:]) > 1e-3  # the first is all subjects


def test_a_map_is_astray_where_its_subject_is_not():
    masks = torch.zeros(2, 2, 8, 8)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = masks[1, 0, :, :4] = 1.0
    where = torch.zeros(2, 5, 2)
    where[:, 1, 0] = where[0, 3, 1] = 1.0
    left = (torch.arange(16) % 4 < 2).float()
    maps = torch.zeros(2, 3, 16, 5)
    maps[..., 1], maps[..., 3] = 0.4 * left, 0.2 * (1 - left)
    assert apart(astray([maps], where, masks, (1, 8, 8)), torch.tensor([-0.3, -0.4])) < 1e-5
    assert apart(astray([maps.flip(2)], where, masks, (1, 8, 8)), torch.tensor([0.3, 0.4])) < 1e-5
    seven = [maps.flip(2), *[maps] * 5, maps.flip(2)]  # the middle five count
    assert apart(astray(seven, where, masks, (1, 8, 8)), torch.tensor([-0.3, -0.4])) < 1e-5


@pytest.mark.parametrize("localise", [30.0, 0.0], ids=["drawn", "control: left alone"])
def test_the_tokens_of_subjects_are_drawn_to_where_they_are(localise):
    made, given = encoder("fastcomposer"), captioned()
    measured, task = composing(made, localise=1.0), composing(made, localise=localise)

    def now() -> float:
        with torch.no_grad():
            return float(measured.composed(given, Draws(9, 0, 4), 0.0)["astray"].mean())

    before = now()
    trained(task, lambda rows: given, 30, 1e-2, 4)
    assert (now() < before - 0.02) == bool(localise), (before, now())


def test_captions_name_what_maps_show():
    data = ImageSet("some", "train", ((images(4) + 1) * 127.5).byte(), torch.arange(4))
    captions = Captions([("a fox",), ("a tree",), ("an owl and a fox",), ("a fox",)], 32)
    values = torch.full((4, 8, 8), NONE, dtype=torch.uint8)
    values[0, :4], values[1, :4], values[2, 4:] = 0, 0, 1  # a fox, a fox that is called a tree, an owl, nothing
    known = replace(data, captions=captions, layout=Painted(values, [0, 1, 2, 3], ("fox", "owl")))
    found = Composed(known)
    assert found.rows.tolist() == [0, 2] and read(found.batch([1]).extra["text"][0]) == "an owl and a fox"
    assert found.batch([0, 1]).extra["maps"].amax((2, 3)).tolist() == [[1, 0], [0, 1]]
    for other in (data, replace(data, captions=captions), replace(known, captions=None)):
        with pytest.raises(InputError, match="learns from captions, and maps"):
            Composed(other)
    with pytest.raises(InputError, match="no caption names"):
        Composed(replace(known, captions=Captions([("a house",)] * 4, 32)))


def swapped(localise: float) -> tuple[float, float]:
    """Of pictures told two subjects, how often each half has its own colour, and how often the other's."""
    base = halves.base()
    config = FastComposerConfig(net=halves.LOOK, width=32, like="left", prompt="{}")
    made = build(config, base, 0)
    trained(Composing(made, own, halves.SIDES, localise), halves.batch, 50, 5e-3)
    right = wrong = count = 0
    for one, two in itertools.permutations(range(3), 2):
        x = halves.painted(torch.tensor([[one, -1], [-1, two]]), 5)
        a, b = (
            rv.adapt.encode(made, x[i : i + 1], token, halves.HALVES[i][None, None], side).delayed(0.0)
            for i, (token, side) in enumerate(zip(("<a>", "<b>"), halves.SIDES, strict=True))
        )
        both = rv.adapt.apply(base, a, b)
        seen = halves.seen(rv.sample(both, 16, both.conditioner("<a> <b>"), steps=8, seed=0, progress=""))
        right += int((seen == torch.tensor([one, two])).sum())
        wrong += int((seen == torch.tensor([two, one])).sum())
        count += seen.numel()
    return right / count, wrong / count


@pytest.mark.slow
def test_without_localisation_subjects_swap_their_looks_twice_as_often():
    (right, wrong), (_, more) = swapped(1.0), swapped(0.0)
    assert right > 0.7 and more > 0.3 and more >= 2.0 * wrong, (right, wrong, more)


# Demonstrations


def test_places_attend_to_patches_behind_a_gate_and_tokens_stand_beside_the_text():
    made = build(DemonstrationsConfig(net=LOOK, width=16, like="heart", prompt="a {}", beside=2), of_texts(), 0)
    with torch.no_grad():
        closed = made.net(images(3)[None]).sight.numbers
        made.net.gates += 0.3
        opened = made.net(images(3)[None]).sight.numbers
    values = [name for name in opened if name.endswith("/values")]
    assert values and all(not closed[name].any() and opened[name].any() for name in values)
    sight = rv.adapt.encode(made, images(3)).sights["<mine>"]
    text, mask = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    mask[0, 5] = False
    said, real = sight.read(text, mask, torch.zeros(2, 6), torch.tensor([1.0, 0.0]))
    assert torch.equal(said[:, :6], text) and torch.equal(real[:, :6], mask)
    assert torch.equal(said[0, 6:], opened["tokens"][0]) and real[:, 6:].tolist() == [[True] * 2, [False] * 2]
    assert sight.read(text, None, torch.zeros(2, 6), torch.ones(2))[1].all()  # pyright: ignore[reportOptionalMemberAccess]


def test_demonstrations_are_cropped_and_cut_out_at_random():
    shown, masks = images(6, seed=6).reshape(3, 2, 1, 8, 8), LEFT.expand(3, 2, -1, -1, -1)
    rng = Draws(0, 0, 3)
    still, where = cropped(shown, masks, 0.0, rng)
    turned = torch.stack([rng.uniform(f"turn {i}") < 0.5 for i in range(2)], 1)
    assert turned.any() and not turned.all()
    for b, k in itertools.product(range(3), range(2)):
        kept = [each.flip(-1) if turned[b, k] else each for each in (shown[b, k], masks[b, k])]
        assert apart(still[b, k], kept[0]) < 1e-4 and torch.equal(where[b, k], kept[1])
    near, where = cropped(shown, masks, 0.5, rng)
    assert near.shape == shown.shape and near.isfinite().all() and near.abs().max() <= shown.abs().max() + 1e-6
    assert apart(near, still) > 0.1 and set(where.unique().tolist()) == {0.0, 1.0}
    made = encoder("suti")
    given = Batch(images(3), None, {"shown": shown, "masks": masks})
    for share in (0.0, 1.0):
        varied = Demonstrating(made, own, cut=share).varied(given, rng)
        assert torch.equal(varied.extra["shown"], shown)
        assert torch.equal(varied.extra["masks"], masks if share else torch.ones_like(masks))
    without = Demonstrating(made, own, cut=1.0).varied(Batch(images(3), None, {"shown": shown}), rng)
    assert without.extra["masks"].all()


def test_nothing_to_show_is_refused():
    with pytest.raises(InputError, match="one way at least"):
        build(DemonstrationsConfig(net=LOOK, width=16, prompt="a {}", patches=False), of_texts(), 0)
    spec = DataSpec((1, 8, 8), {"label": Label(3)}, ("0", "1", "2"))
    with pytest.raises(InputError, match="--cut 0"):
        DemonstrationsConfig(cut=0.5).check(spec, None)


def test_a_subject_is_drawn_after_its_own_demonstrations_and_not_after_others():
    base = patterns.base()
    config = DemonstrationsConfig(net=patterns.LOOK, width=32, prompt=patterns.PROMPT, like="thing")
    made, fresh = build(config, base, 0), build(config, base, 0)
    seen = Subjects(patterns.Patterned(128, 1), range(128), 2)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    trained(Demonstrating(made, own), lambda rows: seen.batch(order[rows % len(seen)]), 140, 2e-2)
    new = patterns.Patterned(6, 99)
    shown = new.x.unflatten(0, (6, 4))[:, :2]
    held = Batch(new.x[2::4], None, {"shown": shown})
    measured = Demonstrating(made, own, held_out=held).validate()
    assert measured["loss"] < 0.9 * measured["exchanged"], measured  # pyright: ignore[reportOperatorIssue]

    def drawn(each: AdapterEncoder, by: int = 0) -> float:
        found = []
        for i in range(6):
            applied = rv.adapt.apply(each.base, rv.adapt.encode(each, shown[(i + by) % 6]))
            cond = applied.conditioner("<mine> ground")
            x = rv.sample(applied, 6, cond, steps=8, seed=0, progress="")
            found.append(patterns.alike(x, new.patterns[i : i + 1]))
        return sum(found) / 6

    whole, shuffled, untrained = drawn(made), drawn(made, 1), drawn(fresh)
    assert whole > 0.35 and max(abs(shuffled), abs(untrained)) < whole - 0.3, (whole, shuffled, untrained)
