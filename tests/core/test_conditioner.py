"""What people write becomes a checked condition: names of classes, texts, pictures, several at once."""

import pytest
import torch
from PIL import Image as Pillow

from reverie.core.condition import Entry, Image, Label, Tokens, Vector, entry_of
from reverie.core.conditioner import Conditioner
from reverie.core.errors import InputError


class Letters:
    """A text encoder whose tokens are letters: a = 1, b = 2, …; no text is one zero."""

    def __call__(self, texts, negative=None):
        away = [""] * len(texts) if negative is None else negative
        return {"text": Entry.of(self._encode(texts))._replace(null=self._encode(away))}

    def _encode(self, texts):
        rows = torch.zeros(len(texts), 4, 2)
        for row, text in zip(rows, texts, strict=True):
            for i, letter in enumerate(text[:4]):
                row[i] = ord(letter) - 96.0
        return rows

    def words(self, text):
        return {text: tuple(range(len(text)))}


def test_names_and_numbers_of_classes():
    conditioner = Conditioner({"label": Label(3)}, ["cat", "dog", "fox"])
    assert conditioner("fox")["label"].value.tolist() == [2]
    assert conditioner(["dog", "cat"])["label"].value.tolist() == [1, 0]
    assert conditioner(label=[2, "cat"])["label"].value.tolist() == [2, 0]
    for wrong, message in [("fix", "Did you mean 'fox'"), (3, "out of range")]:
        with pytest.raises(InputError, match=message):
            conditioner(label=wrong)
    with pytest.raises(InputError, match="have no names"):
        Conditioner({"label": Label(3)})("fox")
    with pytest.raises(InputError, match="Did you mean 'label'"):
        conditioner(lable=1)
    with pytest.raises(InputError, match="no text encoder; it is conditioned on: label"):
        conditioner.words("fox")


def test_texts_and_what_guidance_leads_away_from():
    conditioner = Conditioner({"text": Tokens(2, 4)}, text=Letters())
    cond = conditioner(["ab", "c"], negative="d")
    assert cond["text"].value[:, 0, 0].tolist() == [1.0, 3.0]
    null = entry_of(cond.null(), "text", torch.zeros(1, 2), 2)
    assert null.value[:, 0, 0].tolist() == [4.0, 4.0]
    assert (
        entry_of(conditioner("ab").null(), "text", torch.ones(1, 2), 1).value.tolist() == torch.zeros(1, 4, 2).tolist()
    )
    assert conditioner.words("ab") == {"ab": (0, 1)}
    with pytest.raises(InputError, match="2 negative texts for 3"):
        conditioner(["a", "b", "c"], negative=["d", "e"])


def test_pictures_and_several_conditions_at_once(tmp_path):
    spec = {"label": Label(2), "edge": Image(3), "style": Vector(4)}
    image = Pillow.new("RGB", (6, 4), (255, 0, 128))
    image.save(tmp_path / "edge.png")
    conditioner = Conditioner(spec, ["cat", "dog"])
    cond = conditioner("dog", edge=tmp_path / "edge.png", style=torch.ones(1, 4))
    assert set(cond) == {"label", "edge", "style"} and cond["edge"].value.shape == (1, 3, 4, 6)
    assert cond["edge"].value[0, :, 0, 0].tolist() == pytest.approx([1.0, -1.0, 128 / 127.5 - 1], abs=1e-6)
    assert torch.equal(conditioner(edge=[image, image])["edge"].value[1], cond["edge"].value[0])
    grey = Conditioner({"edge": Image(1)})(edge=image)["edge"].value
    assert grey.shape == (1, 1, 4, 6)
    Pillow.new("RGBA", (6, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (conditioner(edge=tmp_path / "clear.png")["edge"].value == 1.0).all()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert conditioner(edge=tmp_path / "turned.png")["edge"].value.shape == (1, 3, 6, 4)
    (tmp_path / "no.png").write_text("x")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        conditioner(edge=tmp_path / "no.png")
    with pytest.raises(InputError, match="1, 3 or 4 channels"):
        Conditioner({"edge": Image(5)})(edge=image)
