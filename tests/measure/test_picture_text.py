"""Losses of two towers against closed forms, retrieval against constructed embeddings, and CLIP against transformers."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.core import spelling
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Entry, Label, Text
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.measure.captions import CaptionScores, caption_scores, looked_up, shuffled
from reverie.measure.config import TowersConfig
from reverie.measure.contrastive import sigmoid_loss, softmax_loss
from reverie.measure.retrieval import PictureText, clip_score, found, matched, ranks, retrieved
from reverie.measure.towers import Pairing
from reverie.nets import EncoderConfig

EYE = torch.eye(5, dtype=torch.bool)
SPEC = DataSpec((3, 8, 8), {"text": Text(20)}, name="some")
SMALL = TowersConfig(
    encoder=EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2),
    width=16,
    depth=1,
    heads=2,
    dim=8,
    distort=False,
)
NOW = Moment(0, 0, 100)
WORDS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "grey") for thing in ("fox", "bird", "ship")]


def test_where_all_embeddings_are_one_the_softmax_loss_is_log_n():
    assert softmax_loss(torch.full((5, 5), 3.0), EYE) == pytest.approx([math.log(5)] * 5)
    assert softmax_loss(3.0 * torch.eye(5), EYE) != pytest.approx([math.log(5)] * 5)


def test_the_softmax_loss_is_the_cross_entropy_of_rows_and_columns():
    logits = torch.randn(5, 5, dtype=torch.float64)
    target = torch.arange(5)
    wanted = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    assert softmax_loss(logits, EYE).mean() == pytest.approx(wanted.item(), abs=1e-12)
    assert abs(softmax_loss(logits, EYE.roll(1, 0)).mean() - wanted) > 0.05


def test_a_caption_that_two_pictures_share_is_a_distribution_over_both():
    """Pictures 0 and 1 have one caption, and logits say just that: a row's loss is the entropy of its target, log 2 there, 0 elsewhere."""
    same = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).bool()
    assert softmax_loss(100.0 * same, same) == pytest.approx([math.log(2), math.log(2), 0.0], abs=1e-6)
    assert softmax_loss(100.0 * torch.eye(3), same)[:2].min() > 10.0


def test_the_sigmoid_loss_by_hand():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)
    soft = lambda z: math.log1p(math.exp(-z))  # noqa: E731
    wanted = [soft(2.0) + soft(1.0), soft(-0.5) + soft(3.0)]
    assert sigmoid_loss(logits, EYE[:2, :2]) == pytest.approx(wanted, abs=1e-12)
    assert sigmoid_loss(logits.T, EYE[:2, :2]) != pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_gradients_pull_pairs_together_and_push_others_apart(loss):
    logits = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, EYE).sum(), logits)
    assert (gradient[EYE] < 0).all() and (gradient[~EYE] > 0).all()
    assert torch.autograd.gradcheck(lambda x: loss(x, EYE).sum(), logits)


def test_orthonormal_embeddings_find_their_captions_and_shuffled_ones_do_not():
    eye = torch.eye(300)
    assert retrieved(eye, eye, torch.arange(300)) == (2.5, 1.0, 1.0)
    score, at_one, at_five = retrieved(eye, eye, torch.arange(300).roll(1))
    assert score == 0.0 and at_one <= 0.01 and at_five <= 0.05


def test_a_score_that_says_the_same_of_all_is_at_chance_exactly():
    one = F.normalize(torch.ones(250, 4), dim=1)
    score, at_one, at_five = retrieved(one, one, torch.arange(250))
    assert score == pytest.approx(2.5) and (at_one, at_five) == pytest.approx((0.01, 0.05), abs=1e-9)


def test_random_embeddings_are_at_chance_and_close_ones_are_not():
    """Of 600 pictures the share found is binomial: within four standard errors of 1 and 5 in 100."""
    texts, pictures = F.normalize(torch.randn(2, 600, 32), dim=2)
    own = torch.arange(600)
    _, at_one, at_five = retrieved(pictures, texts, own)
    assert abs(at_one - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 600)
    assert abs(at_five - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 600)
    near = F.normalize(texts + 0.5 * pictures, dim=1)
    assert retrieved(near, texts, own).at_one > 0.99


def test_the_others_are_chosen_by_the_seed_and_the_own_one_is_among_them():
    similarity = torch.arange(400.0).expand(3, -1)
    own = torch.tensor([0, 200, 399])
    nearer, tied = ranks(similarity, own, among=100)
    assert nearer[0] == 99 and nearer[2] == 0 and 25 < nearer[1] < 75 and not tied.any()
    assert torch.equal(ranks(similarity, own, 100, seed=0)[0], nearer)
    assert not torch.equal(ranks(similarity, own, 100, seed=1)[0], nearer)
    assert torch.equal(ranks(similarity, own, among=1000)[0], torch.tensor([399, 199, 0]))


def test_ties_are_broken_by_chance():
    assert found(torch.tensor([0, 1, 4, 5]), torch.tensor([0, 3, 9, 0]), 5) == pytest.approx([1.0, 1.0, 0.1, 0.0])


def test_clip_score_is_two_and_a_half_cosines_and_never_below_zero():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[3.0, 4.0], [2.0, 0.0], [-1.0, 0.0]])
    assert clip_score(a, b) == pytest.approx([1.5, 2.5, 0.0])


def test_shuffled_captions_are_all_others_as_far_as_there_are():
    said = ["a", "b", "a", "c", "d", "a"]
    assert sorted(shuffled(said)) == sorted(said) and all(a != b for a, b in zip(said, shuffled(said), strict=True))
    assert any(a == b for a, b in zip(["a", "a", "b"], shuffled(["a", "a", "b"]), strict=True))


class Looks(nn.Module):
    """In place of EfficientNet-Lite0, whose weights are a package of their own: batch statistics that training mode would change."""

    dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12))
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.net(x).mean((2, 3))


def test_a_locked_tower_stays_as_it_is_and_is_not_saved(monkeypatch):
    monkeypatch.setattr("reverie.measure.towers.EfficientNetLite0", Looks)
    model = replace(SMALL, locked=True).build(SPEC, seed=0)
    looks = model.image.looks[0]
    before = {name: value.clone() for name, value in looks.state_dict().items()}
    task, captions = Pairing(model.train(), [], "softmax", distorted=False), WORDS * 2  # pyright: ignore[reportArgumentType]
    said = Cond(text=Entry(spelling.spelled(captions, 20), None, torch.ones(len(captions), dtype=torch.bool)))
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(60):
        adam.zero_grad()
        loss = task.loss("towers", Batch(painted(captions), said), Draws(0, step, len(captions)), NOW)["pairs"].mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(value, before[name]) for name, value in looks.state_dict().items())
    assert not any("looks" in name for name in model.state_dict())
    assert any(name.startswith("image.project") for name in model.state_dict())
    assert model.double().image.looks[0].net[0].weight.dtype == torch.float64  # moved and cast along
    free = SMALL.build(SPEC, seed=0)  # the control: a tower of our own is trained and saved
    assert any(name.startswith("image.") and p.requires_grad for name, p in free.named_parameters())


class Palette:
    """The colour that a text names or a picture has on average, as a unit vector: the right answer for pictures of one colour."""

    name, data, seen = "palette", "elsewhere", "no pictures"
    colours = torch.randn(len(WORDS), 3, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)

    def pictures(self, images):
        return F.normalize(images.mean((2, 3)), dim=1)

    def texts(self, texts):
        return F.normalize(torch.stack([self.colours[WORDS.index(text)] for text in texts]), dim=1)


def painted(captions):
    return torch.stack([Palette.colours[WORDS.index(c)] for c in captions])[:, :, None, None].expand(-1, 3, 8, 8)


class Painter:
    """Draws what it is told, or with ``deaf`` something else."""

    def __init__(self, deaf=0):
        self.conditions, self.deaf = {"label": Label(len(WORDS))}, deaf

    def sample(self, n, cond, *, seed):
        return painted([WORDS[(label + self.deaf) % len(WORDS)] for label in cond["label"].value.tolist()])

    def settings(self):
        return {"steps": 1}


class Held:
    name = "held"

    def batch(self, rows):
        return Batch(painted([WORDS[i] for i in rows.tolist()]))


def tell(texts):
    return Cond(label=[WORDS.index(text) for text in texts])


def test_a_painter_that_listens_is_as_good_as_real_pictures_and_a_deaf_one_is_at_the_shuffled_row(tmp_path):
    assert isinstance(Palette(), PictureText)
    best, worst = (
        caption_scores(Painter(deaf), tell, Palette(), Held(), WORDS, WORDS[:5], seeds=(0, 1), batch_size=5)  # pyright: ignore
        for deaf in (0, 3)
    )
    assert best.rows["samples"] == pytest.approx(best.rows["real"], abs=1e-3) and best.rows["real"][1] == 1.0
    assert worst.rows["real"] == best.rows["real"] and worst.rows["samples"][1] == 0.0
    assert best.rows["shuffled"][1] == 0.0 and best.rows["chance"] == (None, 1 / 12, 5 / 12)
    assert (best.count, best.among, best.new, best.own) == (12, 12, 7, False)
    assert "7 of which no training picture has" in best.how and "palette has seen no pictures" in best.how
    assert best.heads[0] == "picture-text score" and "lookup" not in best.rows
    path = tmp_path / "captions.json"
    for each in (worst, best, best):
        each.save(path)
    assert CaptionScores.load_all(path) == [best]  # settings are alike: the newest takes the place of the one before


def test_looking_up_finds_trained_captions_and_of_others_the_nearest_picture():
    known, trained = Held(), ["", *WORDS[1:5]]
    found = caption_scores(Painter(), tell, Palette(), Held(), WORDS, trained, known, seeds=(0,), batch_size=5)  # pyright: ignore
    assert found.rows["lookup"][1] == pytest.approx(
        4 / 12
    )  # those that were trained are found, no other is its own nearest
    rows = looked_up(Palette(), WORDS, trained)  # pyright: ignore
    assert rows[1:5].tolist() == [1, 2, 3, 4] and 0 not in rows.tolist()
    cosines = Palette().texts(WORDS[5:]) @ Palette().texts(WORDS[1:5]).T
    assert torch.equal(rows[5:], 1 + cosines.argmax(1))
    assert "pictures of nearest captions" in [row[0] for row in found.table]


def towers(**others):
    return SMALL.__class__(**{**vars(SMALL), **others}).build(SPEC, 0)


def test_the_scale_of_the_cosines_is_at_most_a_hundred():
    model = towers()
    u, v = F.normalize(torch.randn(2, 3, 8), dim=2)
    assert torch.allclose(model.logits(u, v), u @ v.T / 0.07)
    torch.nn.init.constant_(model.log_scale, 50.0)
    assert torch.allclose(model.logits(u, v), 100.0 * u @ v.T)
    assert torch.allclose(towers(objective="sigmoid").logits(u, v), 10.0 * u @ v.T - 10.0)


def test_padding_says_nothing_and_capitals_and_spaces_neither():
    model = towers()
    alone, beside = model.texts(["red fox"]), model.texts(["red fox", "a longer one by far"])
    assert torch.allclose(alone[0], beside[0], atol=1e-6) and not torch.allclose(beside[0], beside[1], atol=1e-2)
    assert torch.equal(alone, model.texts([" Red   FOX "]))
    assert alone.norm(dim=1).item() == pytest.approx(1.0)


def test_a_long_text_is_cut_with_a_warning_and_strange_input_refused():
    model = towers()
    with pytest.warns(UserWarning, match="of 31 tokens the first 20 are kept"):
        model.texts(["x" * 30])
    with pytest.raises(InputError, match="text 1 is empty"):
        model.texts(["fox", " "])
    with pytest.raises(InputError, match="these have \\(3, 16, 16\\)"):
        model.pictures(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match=r"--data\.captions"):
        SMALL.build(DataSpec((3, 8, 8), {"label": Label(3)}), 0)
    with pytest.raises(InputError, match="a caption a picture"):
        matched(model, torch.zeros(2, 3, 8, 8), ["fox", "fox"])


class Pictures:
    def __init__(self, captions):
        self.captions = captions

    def __len__(self):
        return len(self.captions)

    def batch(self, rows):
        said = [self.captions[i] for i in rows]
        tokens = Entry.of(spelling.spelled(said, 20))._replace(present=torch.tensor([bool(text) for text in said]))
        return Batch(painted([text or WORDS[0] for text in said]), Cond(text=tokens))


@pytest.mark.parametrize(("objective", "steps"), [("softmax", 60), ("sigmoid", 800)])
def test_towers_learn_colours_from_their_names(objective, steps):
    """Twelve captions, each of pictures of one colour: after a few steps all are found, before, one in twelve or so. The bias of −10
    is that of large batches, in which nearly all pairs are wrong; in a small one it takes longer to get over."""
    torch.manual_seed(0)
    model, data = towers(objective=objective), Pictures(WORDS)
    task = Pairing(model, data, objective, distorted=False)  # pyright: ignore[reportArgumentType]
    before = task.validate()["at_one"]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for i in range(steps):
        optimizer.zero_grad()
        task.loss("towers", data.batch(range(12)), Draws(0, i, 12), NOW)["pairs"].mean().backward()
        optimizer.step()
    assert before < 0.5 and task.validate()["at_one"] > 0.9


def test_a_picture_without_a_caption_is_no_pair():
    model, data = towers(), Pictures(["red fox", "", "blue ship"])
    task = Pairing(model, data, "softmax", distorted=False)  # pyright: ignore[reportArgumentType]
    loss = task.loss("towers", data.batch(range(3)), Draws(0, 0, 3), NOW)["pairs"]
    assert loss[1] == 0.0 and loss[0] > 0.0 and loss[2] > 0.0
    assert Pairing(model, Pictures(["", "red fox"]), "softmax").validate() == {}  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP of random weights that transformers saves, with a tokenizer over letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("clip") / "tiny"
    path.mkdir()
    letters = [chr(i) for i in range(97, 123)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    n = len(vocabulary)
    config = CLIPConfig(
        text_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": n,
            "max_position_embeddings": 12, "bos_token_id": n - 2, "eos_token_id": n - 1, "pad_token_id": 1,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
            "patch_size": 8,
        },
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(path)
    CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=12).save_pretrained(path)
    return path


def test_clip_of_transformers_says_what_transformers_says(folder):
    from transformers import CLIPModel, CLIPTokenizer

    from reverie.measure.clip import CLIP, MEAN, STD

    ours, theirs = CLIP(folder), CLIPModel.from_pretrained(folder).eval()
    images, texts = torch.rand(3, 3, 16, 16) * 2 - 1, ["red fox", "bird", "blue ship"]
    rows = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = ((images + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, **rows).logits_per_image
        assert torch.allclose(ours.logits(ours.pictures(images), ours.texts(texts)), wanted, atol=1e-4)
        assert not torch.allclose(ours.logits(ours.pictures(images.flip(1)), ours.texts(texts)), wanted, atol=1e-2)
    assert isinstance(ours, PictureText) and ours.name == "clip-tiny"
    assert 0.0 <= matched(ours, images, texts).at_one <= 1.0


def test_clip_brings_pictures_to_its_side_and_cuts_texts_with_a_warning(folder):
    from PIL import Image

    from reverie.measure.clip import CLIP

    ours = CLIP(folder)
    wide = (torch.rand(1, 3, 24, 40) * 255).round()
    array = wide[0].permute(1, 2, 0).byte().numpy()
    resized = Image.fromarray(array).resize((27, 16), Image.Resampling.BICUBIC).crop((5, 0, 21, 16))
    by_pillow = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(16, 16, 3).permute(2, 0, 1)[None]
    cosine = F.cosine_similarity(ours.pictures(wide / 127.5 - 1), ours.pictures(by_pillow / 127.5 - 1))
    assert cosine > 0.999
    with pytest.warns(UserWarning, match="the first 12 are kept"):
        ours.texts(["a very long text of many letters"])
    with pytest.raises(InputError, match="1 or 3"):
        ours.pictures(torch.zeros(1, 4, 16, 16))
    with pytest.raises(InputError, match="holds no CLIP"):
        CLIP(folder.parent)
