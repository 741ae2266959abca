"""The heat map can be read: its numbers stand out from their cells on any page, and its words do not run into each other."""

import itertools
import re

import pytest

from reverie.read.probes.grid import Grid, Probed
from reverie.read.probes.heatmap import heatmap

SITES = ["down.0.0", "middle.0"]
LETTER = 7.0
"""Pixels, an upper bound of the mean advance of a 12 pixel font."""


def probed(levels: list[float]) -> Probed:
    count = len(SITES) * len(levels)
    values = iter([0.1 + 0.9 * i / (2 * count - 1) for i in range(2 * count)])
    grids = []
    for _ in range(2):
        cells = [[[next(values)] for _ in levels] for _ in SITES]
        grids.append(Grid(SITES, levels, "logsnr", cells, cells))
    return Probed("mnist5k", 300, "linear", 1, 10, 100, *grids, [0.5], 2)


def contrast(a: str, b: str) -> float:
    """Of WCAG 2: 1 for equal colours, 21 for black on white."""

    def luminance(colour: str) -> float:
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_numbers_stand_out_from_their_cells_whatever_the_page_says_of_texts():
    svg = heatmap(probed([8.0, 6.0, 4.0, 2.0, 0.0, -3.0]))
    cells = re.findall(r'<rect [^>]*fill="(#\w{6})"/><text [^>]*style="fill:(#\w{6})">\d+</text>', svg)
    assert len(cells) == 24
    assert {ink for _, ink in cells} == {"#000000", "#ffffff"}
    assert min(contrast(cell, ink) for cell, ink in cells) >= 4.5


@pytest.mark.parametrize("levels", [[2.0], [2.0, 0.0], [8.0, 6.0, 4.0, 2.0, 0.0]])
def test_words_do_not_run_into_each_other(levels: list[float]):
    svg = heatmap(probed(levels))
    width = float(re.search(r'viewBox="0 0 (\S+)', svg).group(1))
    lines: dict[str, list[tuple[float, float]]] = {}
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", svg):
        x, y = (re.search(rf'\b{name}="([^"]*)"', attributes).group(1) for name in "xy")
        length = LETTER * len(text)
        start = float(x) - {"middle": length / 2, "end": length}.get(
            (re.search(r'text-anchor="(\w+)"', attributes) or [None, None])[1], 0.0
        )
        lines.setdefault(y, []).append((start, start + length))
    for spans in lines.values():
        spans = sorted(spans)
        assert spans[0][0] >= 0 and spans[-1][1] <= width
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans)), spans
