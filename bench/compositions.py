"""Whether a text-to-image run of emoji draws a colour and a thing together that no training caption holds together; the table of
docs/guide/text_to_image.md.

    python bench/compositions.py RUN TOWERS [--samples 4]

Pairs are "trained" where a training caption holds them, "held out" where one of the test split does, and "nobody's" where no emoji has
them, neither by its name nor by its looks. A colour is right if what is drawn is nearest to it of all eight. A thing is right if without
its colours it is nearest of all twelve to the pictures of it that TOWERS, a picture-text model of another style of the concepts, has
learned from, in the features of that model; by their names alone it knows a quarter of the real pictures. Real pictures say what the
judges are worth, and colours told exchanged what chance gives.
"""

import argparse
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

import reverie as rv
from reverie.core.conditioner import conditioner_of
from reverie.data import ImageSet
from reverie.measure.captions import shuffled
from reverie.measure.figures import percent
from reverie.recipes import measuring, sources

COLOURS = {
    "red": (240, 72, 60),
    "orange": (254, 155, 15),
    "yellow": (253, 203, 54),
    "green": (127, 180, 72),
    "blue": (35, 119, 207),
    "purple": (171, 75, 189),
    "brown": (183, 112, 89),
    "black": (75, 75, 75),
}
"""As Google's hearts, circles and squares have them, which are not the pictures that are looked at."""
THINGS = {
    "apple": "red apple",
    "bird": "bird",
    "book": "blue book",
    "car": "automobile",
    "cat": "cat",
    "circle": "large red circle",
    "dog": "dog",
    "fish": "fish",
    "hat": "top hat",
    "heart": "heavy black heart",
    "square": "large red square",
    "star": "white medium star",
}
"""Each with an emoji of it that is trained. Three are named by an outline or a filling ("black" in Unicode), and not by what they show."""
SIZES = {"large", "medium", "small"}
WHITE = 0.9
"""From which on a channel is bright; where all three are, is background."""
GREY = -0.3
"""The mean of what is drawn, in [−1, 1], without its colours."""
Pair = tuple[str, str]


def oklab(rgb: Tensor) -> Tensor:
    """sRGB (…, 3) in [0, 1] to lightness and two opponent colours (Ottosson 2020)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    cones.append([0.0883024619, 0.2817188376, 0.6299787005])
    lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    return (linear @ torch.tensor(cones).T).clamp(min=0) ** (1 / 3) @ torch.tensor(lab).T


def colour(image: Tensor) -> str | None:
    """Which of the colours is nearest to the mean of what is not white, (3, H, W) in [−1, 1]; None where all is."""
    pixels = (image.clamp(-1, 1) / 2 + 0.5).flatten(1).T
    drawn = pixels[pixels.amin(1) < WHITE]
    if not len(drawn):
        return None
    references = torch.tensor(list(COLOURS.values())) / 255
    return list(COLOURS)[int((oklab(drawn.mean(0)) - oklab(references)).norm(dim=1).argmin())]


def pair(caption: str) -> Pair | None:
    """The colour and the thing that a caption holds, whatever the size; None where it says something else."""
    words = tuple(word for word in caption.split() if word not in SIZES)
    return words if len(words) == 2 and words[0] in COLOURS and words[1] in THINGS else None  # pyright: ignore


def groups(train: Sequence[str], test: Sequence[str], looks: set[Pair]) -> dict[str, dict[Pair, str]]:
    """Of each kind the pairs, with what is said for them. ``looks`` are those that pictures show whatever they are called."""
    trained, held_out = ({p: said for said in reversed(captions) if (p := pair(said))} for captions in (train, test))
    new = {p: said for p, said in held_out.items() if p not in trained}
    others = {p: " ".join(p) for p in product(COLOURS, THINGS) if p not in {*trained, *held_out, *looks}}
    return {"trained": trained, "held out": new, "nobody's": others}


def greyed(images: Tensor) -> Tensor:
    """What is not white in grey, of one mean; (N, 3, H, W) in [−1, 1]."""
    drawn = images.amin(1, keepdim=True) < 2 * WHITE - 1
    grey = images.mean(1, keepdim=True)
    mean = (grey * drawn).sum((2, 3), keepdim=True) / drawn.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(drawn, grey - mean + GREY, 1.0).clamp(-1, 1).expand(-1, 3, -1, -1)


class Things:
    """Which thing a picture shows, by the pictures that a run of towers has learned from.

    Args:
        towers: the folder of the run.
    """

    def __init__(self, towers: str) -> None:
        self.looks = measuring.scorer(towers)
        known = sources.load(rv.recipes.Run(towers).recipe, "train")
        said = spoken(known)
        rows = [
            [i for i, name in enumerate(said) if name == shown or thing == held(name)]
            for thing, shown in THINGS.items()
        ]
        self.means = torch.stack([self.looks.pictures(greyed(known.batch(each).x)).mean(0) for each in rows])

    def __call__(self, images: Tensor) -> list[str]:
        near = self.looks.pictures(greyed(images)) @ F.normalize(self.means, dim=1).T
        return [list(THINGS)[i] for i in near.argmax(1).tolist()]


def held(caption: str) -> str | None:
    """The thing of the pair that a caption holds."""
    found = pair(caption)
    return found and found[1]


def spoken(data: ImageSet) -> list[str]:
    assert data.captions is not None
    return [data.captions.say(i) for i in range(len(data))]


def row(group: str, of: str, pairs: Sequence[Pair], colours: Sequence[str | None], things: Sequence[str]) -> str:
    right = torch.tensor([(c == p[0], t == p[1]) for p, c, t in zip(pairs, colours, things, strict=True)]).double()
    shares = [percent(float(share)) for share in (*right.mean(0), right.prod(1).mean())]
    return f"| {group} | {of} | {len(pairs)} | {' | '.join(shares)} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("towers")
    parser.add_argument("--samples", type=int, default=4, help="of each pair")
    given = parser.parse_args()
    run, things = rv.recipes.Run(given.run), Things(given.towers)
    generator = run.generator()
    train, test = (sources.load(run.recipe, split) for split in ("train", "test"))
    said = [spoken(train), spoken(test)]
    plain = train.batch([said[0].index(name) for name in THINGS.values()]).x
    looks = {(named, thing) for thing, image in zip(THINGS, plain, strict=True) if (named := colour(image))}
    print("| pairs | pictures | of them | colour | thing | both |\n|---|---|---:|---:|---:|---:|")
    for group, every in groups(*said, looks).items():
        pairs = [p for p in every for _ in range(given.samples)]
        told = conditioner_of(generator)(text=[every[p] for p in pairs])
        images = generator.sample(len(pairs), told, seed=0)
        colours, seen = [colour(image) for image in images], things(images)
        exchanged = [(c, p[1]) for c, p in zip(shuffled([p[0] for p in pairs]), pairs, strict=True)]
        print(row(group, "samples", pairs, colours, seen))
        print(row(group, "samples, colours exchanged", exchanged, colours, seen))
        if group != "nobody's":
            data, captions = (train, said[0]) if group == "trained" else (test, said[1])
            real = data.batch([captions.index(name) for name in every.values()]).x
            print(row(group, "real", list(every), [colour(image) for image in real], things(real)), flush=True)
    known = sum(map(str.__eq__, things(plain), THINGS))
    print(f"\nOf the {len(THINGS)} things by themselves {known} are known.")


if __name__ == "__main__":
    main()
