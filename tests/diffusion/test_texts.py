"""Models that read texts: what the encoder makes of a text, how it is told, and that a network listens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Entry, Text, Tokens, Vector
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.spelling import PADDING, spelled
from reverie.core.task import Moment, Optim
from reverie.data.captions import Captions
from reverie.diffusion import building
from reverie.diffusion.config import DenoisingConfig
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.texts import Texts, with_gaps
from reverie.learn import optim
from reverie.nets.config import DiTConfig, JiTConfig, MMDiTConfig, NetConfig, TextConfig, UNetConfig, UViTConfig
from reverie.nets.text import TextEncoder
from reverie.recipes import serialisation
from reverie.recipes.training import train

from ..margin import apart

NETS: dict[str, NetConfig] = {
    "dit": DiTConfig(patch=4, width=16, depth=2, heads=2),
    "unet": UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4),
    "uvit": UViTConfig(patch=4, width=16, depth=3, heads=2),
    "mmdit": MMDiTConfig(patch=4, width=16, depth=2, heads=2),
}
SMALL = TextConfig(width=16, depth=1, heads=2)
TEXTS = ["a red heart", "dog"]


def model(net: str = "dit", length: int = 24, seed: int = 0):
    """A network with weights that are nowhere zero, which reads texts."""
    config = DenoisingConfig(net=NETS[net], text=SMALL)
    denoise = building.denoiser(config, DataSpec((3, 8, 8), {"text": Text(length)}), seed, None)
    torch.manual_seed(seed)
    for module in config.modules(denoise).values():
        for p in module.parameters():
            nn.init.normal_(p, std=0.2)
        module.requires_grad_(False)
    return denoise


def out(denoise, cond: Cond | None, n: int = 2):
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return denoise(x, 0.6, cond).out


def test_what_follows_a_text_changes_nothing():
    torch.manual_seed(0)
    encoder = TextEncoder(SMALL, 32)
    short, long = spelled(["red heart"], 32), spelled(["red heart", "a much longer text than this"], 32)
    (alone, _), (beside, mask) = encoder(short), encoder(long)
    torch.testing.assert_close(beside[0, : short.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    assert mask[0].sum() == short.shape[1]
    changed = long.clone()
    changed[0, 3] += 1  # the control: a letter does
    assert apart(encoder(changed)[0][0, : short.shape[1]], alone[0]) > 1e-2


@pytest.mark.parametrize("net", NETS)
def test_padding_changes_nothing_of_what_a_network_says(net):
    denoise = model(net)
    alone, beside = (
        denoise.conditioner(text=texts).index([0]).expand(2) for texts in (["dog"], ["dog", "a longer text by far"])
    )
    assert beside["text"].value.shape[1] > alone["text"].value.shape[1]
    torch.testing.assert_close(out(denoise, beside), out(denoise, alone), atol=1e-5, rtol=1e-5)
    unmasked = Cond(**{name: beside[name]._replace(mask=None) for name in beside})
    assert apart(out(denoise, unmasked), out(denoise, alone)) > 1e-4  # the control: told that the padding is real


@pytest.mark.parametrize("net", NETS)
def test_two_captions_swapped_swap_what_is_said(net):
    denoise = model(net)
    cond, x = denoise.conditioner(text=TEXTS), torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    with torch.no_grad():
        one, other = denoise(x, 0.6, cond).out, denoise(x, 0.6, cond.index([1, 0])).out
    torch.testing.assert_close(other, one.flip(0), atol=1e-5, rtol=1e-5)
    assert apart(one[0], one[1]) > 1e-3
    assert apart(out(denoise, cond.null()), out(denoise, cond)) > 1e-3


def test_what_data_says_is_what_is_said_in_words():
    denoise = model()
    raw = Cond(text=Captions([(t,) for t in TEXTS], 24).entry(TEXTS))
    assert torch.equal(out(denoise, raw), out(denoise, denoise.conditioner(text=TEXTS)))
    some = raw.drop(torch.tensor([True, False]))
    assert torch.equal(out(denoise, some)[1], out(denoise, denoise.conditioner(text=TEXTS).null())[1])


def test_equal_texts_are_bit_equal_and_samples_are_drawn_by_text():
    denoise = model()
    draw = {"steps": 2, "solver": "euler", "seed": 5}
    a = rv.sample(denoise, text=TEXTS, **draw)
    assert torch.equal(a, rv.sample(denoise, text=["A  red heart", "dog "], **draw))
    assert torch.equal(a, rv.sample(denoise, cond=denoise.conditioner(text=TEXTS), **draw))
    assert a.shape == (2, 3, 8, 8)
    assert apart(rv.sample(denoise, text=["a rad heart", "dog"], **draw)[0], a[0]) > 1e-3
    assert rv.sample(denoise, 3, text="dog", **draw).shape[0] == 3


def test_a_negative_text_takes_the_place_of_nothing():
    denoise = model()
    guided = rv.guide.cfg(denoise, 3.0)
    said, away = (denoise.conditioner(text=each) for each in (TEXTS, ["blurry", "blurry"]))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        led = guided(x, 0.6, denoise.conditioner(text=TEXTS, negative="blurry")).out
        by_hand = torch.lerp(denoise(x, 0.6, away).out, denoise(x, 0.6, said).out, 3.0)
        plain = guided(x, 0.6, said).out
    torch.testing.assert_close(led, by_hand, atol=1e-4, rtol=1e-4)
    assert apart(plain, led) > 1e-3
    several = denoise.conditioner(text=TEXTS, negative=["blurry", "a sad and grey thing"])
    with torch.no_grad():
        first = guided(x, 0.6, several).out[0]
    torch.testing.assert_close(first, led[0], atol=1e-4, rtol=1e-4)  # the other's length is padding


def test_the_map_from_words_to_tokens():
    denoise = model()
    text = "a red heart"
    tokens, found = spelled([text], 24)[0], denoise.conditioner.words(text)
    assert [bytes(int(t) - 2 for t in tokens[list(found[word])]) for word in text.split()] == [b"a", b"red", b"heart"]
    assert denoise.conditioner(text=text)["text"].value.shape[1] == len(tokens)


def test_a_text_that_is_too_long_says_what_is_kept():
    denoise = model(length=8)
    with pytest.warns(UserWarning, match="has 12 tokens, the text encoder takes 8: the first 8 are kept"):
        cond = denoise.conditioner(text="a red heart")
    assert cond["text"].value.shape[1] == 8
    raw = Cond(text=Entry.of(spelled(["a red heart"], 64)))
    assert torch.equal(out(denoise, raw.expand(2)), out(denoise, cond.expand(2)))


def test_errors_say_what_to_do():
    denoise = model()
    with pytest.raises(InputError, match="text 1 is empty"):
        denoise.conditioner(text=["dog", " "])
    with pytest.raises(InputError, match="give one of them"):
        rv.sample(denoise, text="dog", cond=denoise.conditioner(text="dog"))
    with pytest.raises(InputError, match="say with text= what to draw"):
        rv.sample(denoise, negative="dog")
    spec = DataSpec((3, 8, 8), {"text": Text(24)})
    with pytest.raises(InputError, match="dit, unet, uvit, mmdit"):
        building.denoiser(DenoisingConfig(net=JiTConfig(patch=4, width=16, depth=2, heads=2)), spec, 0, None)
    with pytest.raises(InputError, match="names each encoder once"):
        building.denoiser(DenoisingConfig(text=TextConfig(encoders=())), spec, 0, None)
    with pytest.raises(InputError, match="no text encoder in"):
        building.denoiser(DenoisingConfig(text=TextConfig(encoders=("nowhere",))), spec, 0, None)
    deaf = building.denoiser(DenoisingConfig(net=NETS["unet"]), DataSpec((3, 8, 8)), 0, None)
    with pytest.raises(InputError, match="reads no texts"):
        rv.sample(deaf, text="dog")


def test_a_network_learns_two_captions_and_draws_by_nothing_else():
    """Black for one caption, white for the other: after seconds of training each draws its own, and with the attention to the text and
    its vector shut neither draws apart from nothing said."""
    config = DenoisingConfig(net=NETS["dit"], text=SMALL)
    denoise = building.denoiser(config, DataSpec((3, 8, 8), {"text": Text(24)}), 0, None)
    x = torch.tensor([-1.0, 1.0]).repeat(8)[:, None, None, None].expand(16, 3, 8, 8)
    said = Captions([("night",), ("snow",)], 24).entry(["night", "snow"] * 8)
    held_out = Batch(x[:2].contiguous(), Cond(text=said).index(slice(0, 2)))
    task = Denoising(denoise, building.times(config, denoise.schedule), drop=0.1, held_out=held_out)
    assert set(task.players) == {"denoiser", "text"}
    weights = [p for player in task.players.values() for p in player.module.parameters()]
    before = {id(p): p.detach().clone() for p in weights}
    adam = torch.optim.Adam(weights, lr=3e-3)
    for step in range(120):
        adam.zero_grad()
        loss = task.loss("denoiser", Batch(x, Cond(text=said)), Draws(0, 16 * step, 16, 0), Moment(step, 0, 1))
        loss["mse"].mean().backward()
        adam.step()
    assert all(not torch.equal(p, before[id(p)]) for p in task.players["text"].module.blocks.parameters())  # pyright: ignore
    drawn = rv.sample(denoise, 4, text=["night", "snow", "night", "snow"], steps=8, solver="euler", scale=1.0).detach()
    means = drawn.mean((1, 2, 3))
    assert (means[::2] < -0.5).all() and (means[1::2] > 0.5).all()
    assert apart(out(denoise, denoise.conditioner(text=["night", "snow"])), out(denoise, None)) > 0.05
    with torch.no_grad():
        measured = task.validate()
        assert measured["exchanged"] - measured["loss"] > 0.05  # pyright: ignore[reportOperatorIssue]
        for block in denoise.net.blocks:  # pyright: ignore  # the control
            block.cross.out.weight.zero_()
        denoise.net.conditioning.vector[2].weight.zero_()  # pyright: ignore
        assert task.validate()["exchanged"] == pytest.approx(task.validate()["loss"], rel=1e-5)
    torch.testing.assert_close(out(denoise, denoise.conditioner(text=["night", "snow"])), out(denoise, None))


def test_beside_a_network_that_muon_steps_the_encoder_is_stepped_slowly_by_adam():
    recipe = serialisation.load(serialisation.find("emoji-text"))
    denoise = building.denoiser(
        DenoisingConfig(net=NETS["unet"], text=SMALL), DataSpec((3, 8, 8), {"text": Text(24)}), 0, None
    )
    task = Denoising(denoise, building.times(DenoisingConfig(), denoise.schedule))
    network, text = (optim.settings(recipe.train, task.players[name].optim or Optim()) for name in ("denoiser", "text"))
    assert (network.optimizer, text.optimizer) == ("muon", "adamw") and text.lr < 0.1 * network.lr


def test_two_encoders_stand_one_after_the_other():
    class Other:
        """An encoder that gives what it is given."""

        width, length = 4, 3

        def __call__(self, texts):
            return torch.ones(len(texts), 3, 4), torch.tensor([[True, True, False]] * len(texts))

        def counts(self, texts):
            return [2] * len(texts)

    torch.manual_seed(0)
    own = TextEncoder(SMALL, 24)
    both = Texts(own, [Other()])  # pyright: ignore
    assert (both.width, both.vector, both.length) == (16, 20, 27)
    entries, alone = both(["dog"]), Texts(own)(["dog"])
    assert torch.equal(entries["text"].value[:, :4], alone["text"].value)
    assert entries["text"].value[0, 4:, :4].eq(1).all() and entries["text"].value[0, 4:, 4:].eq(0).all()
    mask = entries["text"].mask
    assert mask is not None and mask[0].tolist() == [True] * 4 + [True, True, False]
    assert torch.equal(entries["vector"].value[:, 16:], torch.ones(1, 4))
    Cond(**entries).check({"text": Tokens(16, 27), "vector": Vector(20)})


def test_words_are_left_out_in_training_whole_and_at_their_share():
    """Our own encoder hears the rest of the text as it stands; the n-grams of the closed form are of all of it."""
    said = ["a red heart", "two grey birds on a wire"]
    cond = Cond(text=Entry(spelled(said * 500, 64), None, torch.ones(1000, dtype=torch.bool)))
    gaps = with_gaps(cond, 0.3, Draws(0, 0, 1000))
    assert gaps is not None
    tokens, heard = gaps["text"].value, gaps["text"].mask
    assert heard is not None and torch.equal(tokens, cond["text"].value) and heard[:, 0].all()
    assert not heard[tokens == PADDING].any()
    letters = heard[::2, 1 : 1 + len(said[0])]
    words = {"a": letters[:, :1], "red": letters[:, 1:5], "heart": letters[:, 5:]}  # with the spaces before them
    for word in words.values():
        assert torch.equal(word.all(1), word.any(1)) and 0.22 < 1 - word.float().mean() < 0.38
    both = (~words["red"][:, 0] & ~words["heart"][:, 0]).float().mean()
    assert 0.05 < both < 0.13  # apart from each other
    part = with_gaps(cond.index(torch.arange(300, 400)), 0.3, Draws(0, 300, 100))
    assert part is not None and part["text"].mask is not None and torch.equal(part["text"].mask, heard[300:400])
    assert with_gaps(None, 0.3, Draws(0, 0, 1)) is None

    own = TextEncoder(SMALL, 64)
    texts = Texts(own, spelt=True)
    told, whole = texts.told(gaps), texts.told(cond)
    assert torch.equal(told["grams"].value, whole["grams"].value)
    assert told["text"].mask is not None and torch.equal(told["text"].mask, heard)
    other = gaps["text"].value.clone()
    other[~heard] = 99
    again = own(other, heard=heard)[0]
    assert torch.allclose(again[heard], told["text"].value[heard], atol=1e-5)  # what is not heard changes nothing


def test_a_run_reads_texts_after_it_is_opened_again(tmp_path: Path):
    recipe = serialisation.load(serialisation.find("emoji-text"))
    small = replace(
        recipe.train, images=8, batch=4, processes=1, warmup=4, sample_every=8, validate_every=100, save_every=8
    )
    task = replace(
        recipe.task, net=replace(NETS["unet"], patch=4, attention=(1,)), text=SMALL, prior=4, prior_captions=50
    )
    run, _ = train(replace(recipe, train=small, task=task), tmp_path / "run")
    opened = rv.load(run.folder)
    draw = {"steps": 2, "solver": "euler"}
    a = rv.sample(opened, text="red heart", negative="blue", **draw)
    assert torch.equal(a, rv.sample(rv.load(run.folder), text="red heart", negative="blue", **draw))
    assert (run.folder / "samples").exists() and run.spec.conditions == {"text": Text(73)}
    assert "text.norm.weight" in run.checkpoint.tensors("ema")
