"""Break-A-Scene: what is told, where errors count, where handles look, in two phases; and things of a picture that come apart."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import reverie as rv
from reverie.adapt.adapter import fingerprint
from reverie.adapt.break_a_scene import BreakAScene, begin, coarse
from reverie.adapt.scene_config import SceneConfig
from reverie.cli import main
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.guide import attention

from ..margin import apart
from . import told_discs
from .small import UNET, images, model, of_texts

NOW = Moment(0, 0, 8)
LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1
RIGHT = 1 - LEFT
MASKS = {"<a>": LEFT, "<b>": RIGHT.bool()}


def task(drawn: Tensor | None = None, **how) -> BreakAScene:
    config = SceneConfig(prompt="a {}", likes=("red", "blue"), **how)
    return BreakAScene(begin(config, of_texts(), list(MASKS), MASKS, drawn), config)


def test_any_number_of_things_is_told_in_any_order():
    work, n = task(), 2000
    things = work.chosen(Draws(0, 0, n))
    share = {said: count / n for said, count in Counter(map(work.say, things)).items()}
    assert set(share) == {"a <a>", "a <b>", "a <a> and <b>", "a <b> and <a>"}
    for value in share.values():
        assert abs(value - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert len({tuple(each) for each in work.chosen(Draws(1, 0, 8))}) > 1  # of one batch some differ


def test_the_error_counts_where_the_things_are_that_are_told():
    work, x, rng = task(attend=0.0), images(1).expand(8, -1, -1, -1), Draws(0, 0, 8)
    x0, noise = work.denoising.pair(x, rng)
    things = work.chosen(rng)
    told = work.beside.conditioner([work.say(each) for each in things])
    out = work.denoising.estimate(x0, noise, work.denoising.times(rng.even("time")), told).out
    error = (out - (noise - x0)).square()
    where = torch.stack([sum([(LEFT, RIGHT)[k] for k in each]) for each in things])[:, None]
    expected = (error * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
    found = work.loss("tokens", Batch(x), rng, NOW)
    assert set(found) == {"mse"} and torch.allclose(found["mse"], expected, rtol=1e-4)
    assert apart(error.mean((1, 2, 3)), expected) > 1e-2  # control: everywhere


def test_a_handle_is_astray_by_where_it_looks_and_its_thing_is_not():
    work = task()
    at = torch.arange(16) % 4 < 2
    seen = torch.zeros(1, 2, 16, 13)  # "a <a> and <b>" begins with a token of its own
    words = work.beside.conditioner.words("a <a> and <b>")
    seen = torch.zeros(1, 2, 16, 1 + max(max(v) for v in words.values()))
    for name, half in (("<a>", at), ("<b>", ~at)):
        seen[..., list(words[name])] = 0.2 * half.float()[:, None]
    work.maps[:] = [seen]
    assert float(work.astray([[0, 1]], ["a <a> and <b>"])) < 1e-12
    work.maps[:] = [seen.flip(2)]  # each where the other is
    assert float(work.astray([[0, 1]], ["a <a> and <b>"])) == pytest.approx(2.0)
    assert float(work.astray([[0]], ["a <a> and <b>"])) == pytest.approx(1.0)
    work.maps[:] = [seen.flip(2)[..., :1]]
    with pytest.raises(InputError, match="is longer than the model reads"):
        work.astray([[0]], ["a photo without it"])


def test_a_copy_of_the_task_watches_for_itself():
    work = task()
    other, batch = copy.deepcopy(work), Batch(images(2))
    one, two = (each.loss("tokens", batch, Draws(0, 0, 2), NOW) for each in (work, other))
    assert torch.equal(one["attention"], two["attention"]) and len(work.maps) == len(other.maps) > 0


def test_the_finest_maps_of_at_most_sixteen_a_side_are_compared():
    maps = [torch.full((1, 2, n * n, 3), float(n)) for n in (32, 16, 16, 8)]
    found = coarse(maps, (4, 64, 64))
    assert found.shape == (1, 3, 16, 16) and float(found.mean()) == 16.0
    assert coarse(maps[:1], (4, 64, 64)).shape == (1, 3, 32, 32)
    assert coarse(maps[3:], (4, 64, 64)).shape == (1, 3, 8, 8)
    assert coarse([torch.ones(1, 1, 32, 1)], (3, 8, 16)).shape == (1, 1, 4, 8)


def test_the_tokens_move_alone_and_then_all_weights():
    base, x = of_texts(), images(1)
    start = begin(SceneConfig(prompt="a {}"), base, list(MASKS), MASKS).adapter.state_dict()
    how = {"prompt": "a {}", "steps": 4, "batch": 2, "rate": 0.1}
    hashed = fingerprint(base.net)
    for first, moved in ((1.0, False), (0.5, True)):
        found = rv.adapt.scene(base, x, MASKS, first=first, token_rate=0.5, **how).state_dict()
        changed = [name for name in start if name.startswith("changed.")]
        assert all(apart(found[f"rows.{name}"], start[f"rows.{name}"]) > 1e-3 for name in MASKS)
        far = max(float(found[name].abs().max()) for name in changed)
        assert far > 1e-3 if moved else far == 0.0
    still = rv.adapt.scene(base, x, MASKS, first=1.0, token_rate=0.0, **how).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in still.items())
    assert fingerprint(base.net) == hashed


def test_pictures_of_the_class_are_preserved_if_wanted():
    batch, rng = Batch(images(1).expand(2, -1, -1, -1)), Draws(0, 0, 2)
    plain, kept = (task(images(3, seed=9), preserve=w).loss("adapter", batch, rng, NOW) for w in (0.0, 2.0))
    assert set(kept) - set(plain) == {"prior"} and torch.equal(kept["mse"], plain["mse"])
    assert float(kept["prior"].detach().mean()) > 0.0
    adapter = rv.adapt.scene(
        of_texts(), images(1), MASKS, likes=["red", "blue"], prompt="a {}", preserve=1.0, drawn=2, steps=2, batch=2
    )
    assert adapter.tokens == ["<a>", "<b>"]


def test_what_cannot_be_is_said():
    base, x = of_texts(), images(1)
    for words, given in (
        ("one picture", (base, images(2), MASKS)),
        ("a diffusion model of texts", (model(UNET), x, MASKS)),
        ("give them", (base, x, {})),
        ("the mask of <a> is empty", (base, x, {"<a>": 0 * LEFT})),
        ("the mask is 1x4x8", (base, x, {"<a>": LEFT[:4]})),
        ("angle brackets", (base, x, {"a": LEFT})),
    ):
        with pytest.raises(InputError, match=words):
            rv.adapt.scene(*given)
    with pytest.raises(InputError, match="2 tokens and 1 words"):
        rv.adapt.scene(base, x, MASKS, likes=["red"])
    with pytest.raises(InputError, match="where the things are named"):
        rv.adapt.scene(base, x, MASKS, prompt="a photo")
    with pytest.raises(InputError, match="cross-attention to a text"):
        coarse([], (1, 8, 8))


def test_a_picture_and_masks_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patches").mkdir()
    for i, colour in enumerate(np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)):
        Image.fromarray(colour).save(tmp_path / "patches" / f"{i}.png")
        (tmp_path / "patches" / f"{i}.txt").write_text(f"a {('red', 'blue')[i % 2]} patch")
    net = "--net unet --net.width 8 --net.multipliers 1 2 --net.groups 4 --net.attention 2 --text.width 16 --text.depth 1 --text.heads 2"
    quick = "--train.images 16 --train.batch 8 --sample.steps 2 --train.sample-every 16 --train.validate-every 16"
    assert main(f"train --data patches --data.captions {net} {quick} --out told".split()) == 0
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)).save("x.png")
    for name, mask in (("a", LEFT), ("b", RIGHT), ("c", LEFT[:4])):
        Image.fromarray(np.kron(mask.numpy().astype(np.uint8) * 255, np.ones((2, 2), np.uint8))).save(f"{name}.png")
    few = "--train.images 8 --train.batch 4 --train.save-every 4 --train.keep 9 --prompt {}"
    words = f"adapt told x.png --method scene --likes red blue {few} --out s --masks <a>=a.png"
    assert main([*words.split(), "<b>=c.png"]) == 2 and "draw one of its size" in capsys.readouterr().err
    assert main([*words.split(), "<b>"]) == 2 and "TOKEN=FILE" in capsys.readouterr().err
    assert main(["adapt", "told", "patches", *words.split()[3:], "<b>=b.png"]) == 2
    assert "one picture: got 24" in capsys.readouterr().err
    words = [*words.split(), "<b>=b.png"]
    assert main(words) == 0
    assert "next: reverie sample told --adapter s --text '<a>'" in capsys.readouterr().out.replace(
        str(tmp_path) + "/", ""
    )
    whole = (tmp_path / "s" / "adapter.safetensors").read_bytes()
    last = max((tmp_path / "s" / "checkpoints").glob("step-*"))
    for file in [*last.iterdir(), tmp_path / "s" / "adapter.safetensors"]:
        file.unlink()
    last.rmdir()
    assert main(words) == 0 and (tmp_path / "s" / "adapter.safetensors").read_bytes() == whole
    assert main(["sample", "told", "--adapter", "s", "--text", "<a> and <b>", "--n", "1"]) == 0
    assert main(["adapt", "told", "x.png", "--method", "scene", "--out", "none"]) == 2


def scene_of_discs() -> tuple[Tensor, dict[str, Tensor]]:
    """A green disc at the top left and a blue one at the bottom right, (1, 3, 16, 16), and their masks."""
    (one, a), (two, b) = told_discs.disc((0, 1, 0), (4.5, 4.5)), told_discs.disc((0, 0, 1), (10.5, 10.5))
    return torch.maximum(one, two)[None], {"<a>": a, "<b>": b}


def learned(masks: dict[str, Tensor], **how) -> NetDenoiser:
    base, (picture, _) = told_discs.model(), scene_of_discs()
    how = {"attend": 3.0, "token_rate": 5e-2, "rate": 1e-3, "preserve": 1.0, "drawn": 16, "steps": 80, "batch": 8} | how
    adapter = rv.adapt.scene(base, picture, masks, likes=["green", "blue"], prompt="{} ground", **how)
    return rv.adapt.apply(base, adapter)


def overlap(denoise: NetDenoiser, name: str) -> float:
    """Of where a handle looks most, in the noisy picture, and where its thing is: intersection over union, on its 8x8 places."""
    (picture, masks), said = scene_of_discs(), "<a> and <b> ground"
    watched, seen = attention(denoise, lambda seen: torch.zeros(1)), []
    for t in (0.3, 0.5, 0.7):
        point = denoise.schedule.point(t)
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            at = denoise.point(t, picture)
            maps = watched.look_at(point.alpha * picture + point.sigma * noise, at, denoise.conditioner(said))[1].maps  # pyright: ignore[reportAttributeAccessIssue]
        seen.append(torch.stack(list(maps.values())).mean(0)[0])
    a = torch.stack(seen).mean(0)[list(denoise.conditioner.words(said)[name])].sum(0)
    there = interpolate(masks[name][None, None].float(), a.shape, mode="area")[0, 0] > 0.5
    looks = a > 0.5 * a.max()
    return float((looks & there).sum() / (looks | there).sum())


def drawn(denoise: NetDenoiser, said: str) -> tuple[float, float]:
    """The shares of pictures that show something green, and something blue."""
    x = rv.sample(denoise, 16, denoise.conditioner(said), "euler", steps=20, seed=0, progress="")
    return tuple(((x > 0.0).sum((2, 3)) > 10).double().mean(0)[1:].tolist())


def test_handles_look_at_their_things_and_one_alone_omits_the_other():
    masks = scene_of_discs()[1]
    denoise = learned(masks)
    assert all(overlap(denoise, name) >= 0.5 for name in masks)
    one, other, both = (drawn(denoise, f"{said} ground") for said in ("<a>", "<b>", "<b> and <a>"))
    assert min(one[0], other[1], *both) > 0.9 and max(one[1], other[0]) < 0.5, (one, other, both)
    untrained = learned(masks, steps=1, rate=0.0, token_rate=0.0)
    assert sum(overlap(untrained, name) for name in masks) / len(masks) < 0.45


@pytest.mark.slow
def test_without_the_term_of_the_maps_handles_look_elsewhere():
    masks = scene_of_discs()[1]
    blind = learned(masks, attend=0.0)
    assert all(overlap(blind, name) < 0.4 for name in masks)
