"""Captions: where they come from, how they are told, and what a text is as tokens."""

import json

import pytest
import torch
from PIL import Image

from reverie import data
from reverie.core import spelling
from reverie.core.condition import Cond, Entry, Text
from reverie.core.errors import InputError
from reverie.data.captions import Captioned, Captions, unheard
from reverie.recipes import sources
from reverie.recipes.recipe import DataConfig, Recipe


def pictures(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (20 * i, 0, 0)).save(folder / name)


def said(tokens: torch.Tensor) -> str:
    return bytes(int(t) - spelling.SHIFT for t in tokens if t >= spelling.SHIFT).decode()


def test_text_files_beside_pictures_are_captions(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("a red fox\na fox that is red\n")
    (tmp_path / "c.txt").write_text("a blue bird")
    (tmp_path / "notes.txt").write_text("not of a picture")
    found = data.load(tmp_path, "all")
    assert found.texts == ["a red fox\na fox that is red", "", "a blue bird"]
    assert [item.path for item in found.skipped] == ["notes.txt"]
    told = found.with_captions()
    assert told.captions is not None and told.captions.texts == [
        ("a red fox", "a fox that is red"), (), ("a blue bird",)
    ]  # fmt: skip
    batch = told.batch([0, 1, 2])
    assert batch.cond is not None and batch.cond["text"].present.tolist() == [True, False, True]
    assert said(batch.cond["text"].value[2]) == "a blue bird"
    assert any("1 picture of 3 have no caption" in note for note in told.notes)


def test_metadata_as_hugging_face_has_it(tmp_path):
    pictures(tmp_path, "train/a.png", "train/b.png")
    rows = [{"file_name": "b.png", "text": "two"}, {"file_name": "a.png", "caption": ["one", "the first"]}]
    (tmp_path / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert data.load(tmp_path, "all").texts == ["one\nthe first", "two"]
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "b.png"}')
    with pytest.raises(InputError, match=r"line 1 of .* is not like"):
        data.load(tmp_path, "all")
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name":')
    with pytest.raises(InputError, match="is not JSON"):
        data.load(tmp_path, "all")


def test_data_without_captions_says_so(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    plain = data.load(tmp_path)
    with pytest.raises(InputError, match="no captions in the data"):
        plain.with_captions()
    with pytest.raises(InputError, match="no captions in the data digits8"):
        sources.load(Recipe(data=DataConfig(name="digits8", captions=True)))


def test_templates_say_a_caption_in_several_ways():
    columns = {"name": ["fox", "heart"], "kind": ["animal", "sign"]}
    captions = Captions.of(columns, "name", ("{}", "a {}, {kind}"))
    assert captions.texts == [("fox", "a fox, animal"), ("heart", "a heart, sign")]
    assert captions.length == 1 + len("a heart, sign")
    with pytest.raises(InputError, match="kind"):
        Captions.of(columns, "name", ("{kinds}",))


def test_every_way_is_told_once_in_an_epoch_and_mirror_images_stay_behind():
    emoji = data.load("emoji").with_captions(("{}", "a picture of {}"))
    assert emoji.captions is not None
    several = Captioned(data.Mirrored(emoji), emoji.captions)
    assert len(several) == 4 * len(emoji)
    batch = several.batch([6, 7, 6 + len(several) // 2])
    assert batch.cond is not None
    name = str(emoji.columns["name"][3]).lower()
    assert [said(row) for row in batch.cond["text"].value] == [name, f"a picture of {name}", name]
    assert torch.equal(batch.x[0], batch.x[1]) and torch.equal(batch.x[0], batch.x[2].flip(-1))


def test_the_emoji_hold_out_captions_that_training_never_says():
    train, test = data.load("emoji"), data.load("emoji", "test")
    assert train.texts is not None and test.texts is not None
    never = unheard(train.texts, test.texts)
    assert len(never) >= len(test) - 1
    assert unheard([*train.texts, *test.texts], test.texts) == []  # the control: what is said is heard


def test_a_recipe_tells_captions_in_place_of_classes():
    recipe = Recipe(data=DataConfig(name="emoji", captions=True))
    train, test = sources.load(recipe), sources.load(recipe, "test")
    assert set(train.spec.conditions) == {"text"} and train.labels is None
    resolved = sources.resolve(recipe, train, test)
    assert sources.spec(resolved.data).conditions == train.spec.conditions == {"text": Text(55)}
    assert train.batch([0]).cond is not None


def test_a_text_is_read_without_regard_to_capitals_and_spaces():
    assert torch.equal(spelling.spelled(["A  Red\tHeart "], 64), spelling.spelled(["a red heart"], 64))
    assert not torch.equal(spelling.spelled(["a red heart"], 64), spelling.spelled(["a rad heart"], 64))


def test_long_texts_end_at_a_whole_letter():
    tokens = spelling.spelled(["åland", "a"], 4)
    assert tokens.shape == (2, 4) and said(tokens[0]) == "ål" and tokens[1].tolist()[2:] == [spelling.PADDING] * 2
    assert said(spelling.spelled(["aål"], 3)[0]) == "a"  # å would be half inside
    assert spelling.count("åland") == 7


def test_the_tokens_of_a_word_spell_it():
    text = "red Heart red"
    tokens = spelling.spelled([text], 64)[0]
    found = spelling.words(text, 64)
    assert [said(tokens[torch.tensor(found[word])]) for word in ("red", "Heart")] == ["redred", "heart"]
    assert spelling.words(text, 6) == {"red": (1, 2, 3), "Heart": (5,)}


def test_a_text_is_checked():
    Text(8).check("text", Entry.of(spelling.spelled(["fox"], 8)))
    for wrong in (torch.zeros(1, 9, dtype=torch.int64), torch.zeros(1, 3), torch.full((1, 3), 258)):
        with pytest.raises(InputError, match="a text of 1 to 8 tokens"):
            Cond(text=wrong).check({"text": Text(8)})
