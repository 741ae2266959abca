"""Text encoders of transformers from a folder: tiny ones with random weights that transformers itself has saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import reverie as rv
from reverie.core.batch import DataSpec
from reverie.core.condition import Text
from reverie.core.errors import InputError, RunError
from reverie.data import ImageSet
from reverie.diffusion import building
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.diffusion.foreign_text import ForeignText
from reverie.diffusion.texts import captioned
from reverie.learn.config import TrainConfig
from reverie.nets.config import TextConfig, UNetConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.training import train

from ..margin import apart

WORDS = ["<pad>", "<unk>", "a", "red", "heart", "dog", "sad", "##gy", "</s>"]
SMALL = TextConfig(width=16, depth=1, heads=2)
NET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4)


def tokenizer(folder: Path, words: list[str] = WORDS, most: int = 6) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", known["</s>"])])  # pyright: ignore
    names: Any = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=most, **names).save_pretrained(folder)


def saved(folder: Path, kind: str) -> Path:
    """A folder with a text encoder of a kind, as its user has it."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 8}
    if kind == "t5":
        config: Any = transformers.T5Config(d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2, **sizes)
        model: Any = transformers.T5EncoderModel(config)
    elif kind == "clip":
        sizes |= {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPTextConfig(max_position_embeddings=6, bos_token_id=8, **sizes)
        model = transformers.CLIPTextModel(config)
    else:
        sizes |= {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = transformers.BertModel(transformers.BertConfig(max_position_embeddings=6, **sizes))
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_features_are_those_of_transformers_and_padding_is_masked(tmp_path, kind):
    import transformers

    encoder = ForeignText(saved(tmp_path, kind))
    names = {"clip": "CLIPTextModel", "t5": "T5EncoderModel", "bert": "BertModel"}
    theirs = getattr(transformers, names[kind]).from_pretrained(tmp_path).eval()
    features, mask = encoder(["dog", "a red heart"])
    assert (encoder.width, encoder.length, mask.sum(1).tolist()) == (12, 6, [2, 4])
    with torch.no_grad():
        alone = theirs(input_ids=torch.tensor([[5, 8]]), attention_mask=torch.ones(1, 2)).last_hidden_state
    torch.testing.assert_close(features[:1, :2], alone, atol=1e-5, rtol=1e-5)
    assert apart(encoder(["sad"])[0], alone) > 1e-3
    assert encoder.words("a doggy heart") == {"a": (0,), "doggy": (1, 2), "heart": (3,)}


def test_a_text_that_is_too_long_says_what_is_kept(tmp_path):
    denoise = made(saved(tmp_path, "bert"))
    with pytest.warns(UserWarning, match="has 8 tokens, the text encoder takes 6: the first 6 are kept"):
        cond = denoise.conditioner(text="a red red red red red heart")
    assert cond["text"].value.shape[1] == 6


def made(*folders: Path | str):
    config = DenoisingConfig(net=NET, text=TextConfig(encoders=tuple(map(str, folders)), width=16, depth=1, heads=2))
    return building.denoiser(config, DataSpec((3, 8, 8), {"text": Text(24)}), 0, None)


def pictures() -> ImageSet:
    torch.manual_seed(0)
    store = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    names = {"name": ["a red heart", "dog", "a sad dog"]}
    whole = ImageSet("few", "train", store, torch.arange(3), columns=names, text="name")
    return whole.with_captions(("{}", "a {}"))


def test_captions_are_encoded_once_and_are_what_is_said_in_words(tmp_path, monkeypatch):
    """The cached features of a caption tell the network what the caption itself tells it, our own encoder beside two others."""
    folders = [saved(tmp_path / kind, kind) for kind in ("bert", "t5")]
    (tmp_path / "run").mkdir()
    denoise = made("bytes", *folders)
    config = TextConfig(encoders=("bytes", *map(str, folders)))
    data = pictures()
    told = captioned(config, data, data, tmp_path / "run")
    cond = told.batch([0, 2, 5]).cond
    assert cond is not None and denoise.told is not None
    x = torch.randn(3, 3, 8, 8)
    for p in denoise.net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        raw = denoise(x, 0.6, cond).out
        said = denoise(x, 0.6, denoise.conditioner(text=["a red heart", "dog", "a a sad dog"])).out
        other = denoise(x, 0.6, denoise.conditioner(text=["dog", "a red heart", "a a sad dog"])).out
    torch.testing.assert_close(raw, said, atol=1e-4, rtol=1e-4)
    assert apart(other[:2], said[:2]) > 1e-3  # the control: captions that belong to other pictures
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "codes").iterdir()}
    assert len(files) == 2
    monkeypatch.setattr(ForeignText, "__call__", lambda self, texts: pytest.fail("encoded again"))
    again = captioned(config, data, data, tmp_path / "run").batch([0, 2, 5]).cond
    assert again is not None and torch.equal(again["text1"].value, cond["text1"].value)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "codes").iterdir()}


def test_other_weights_or_captions_make_another_file(tmp_path):
    (tmp_path / "run").mkdir()
    encoder = ForeignText(saved(tmp_path / "bert", "bert"))
    first = encoder.features(["dog"], tmp_path / "run")
    encoder.features(["dog", "a sad dog"], tmp_path / "run")
    changed = {name: value + 0.1 for name, value in load_file(tmp_path / "bert/model.safetensors").items()}
    save_file(changed, tmp_path / "bert/model.safetensors", {"format": "pt"})
    other = ForeignText(tmp_path / "bert").features(["dog"], tmp_path / "run")
    assert len(list((tmp_path / "run").iterdir())) == 3
    assert not torch.equal(first.tokens, other.tokens)


def test_a_run_opens_with_the_encoder_that_it_was_trained_with_alone(tmp_path):
    folder = saved(tmp_path / "bert", "bert")
    config = DenoisingConfig(net=NET, text=TextConfig(encoders=(str(folder),)))
    often = TrainConfig(images=8, batch=4, warmup=4, save_every=8, sample_every=8, validate_every=8, device="cpu")
    names = DataConfig(name="emoji", size=8, captions=True)
    recipe = Recipe(data=names, task=config, train=often, sample=SampleConfig(solver="euler", steps=2))
    run, _ = train(recipe, tmp_path / "run")
    opened = rv.load(run.folder)
    assert opened.conditioner.words("a dog") == {"a": (0,), "dog": (1,)}
    assert rv.sample(opened, text="a red heart").shape == (1, 3, 8, 8)
    changed = {name: value + 0.1 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="its text is"):
        rv.load(run.folder)


def test_folders_that_are_no_text_encoder_say_so(tmp_path):
    with pytest.raises(InputError, match="no text encoder in"):
        ForeignText(tmp_path)
    folder = saved(tmp_path / "bert", "bert")
    tokenizer(folder, [*WORDS, "one", "more"])
    with pytest.raises(InputError, match="knows 11 tokens and the encoder 9: they are of different models"):
        ForeignText(folder)(["dog"])
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer in"):
        ForeignText(folder)(["dog"])
    tokenizer(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="could not be loaded"):
        ForeignText(folder)(["dog"])
