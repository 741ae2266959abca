"""A grid of accuracies as a picture: SVG, readable by itself and inside a page, on light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reverie.read.probes.grid import Grid, Probed

COLOURS = ((247, 244, 236), (250, 205, 135), (236, 132, 78), (183, 55, 82), (88, 24, 88))
"""From low to high accuracy, ever darker."""
CELL_WIDTH, CELL_HEIGHT, TOP, GAP = 52, 26, 44, 36
NARROWEST = 120
"""Width of a panel that its title fits into."""


def heatmap(probed: Probed) -> str:
    """The trained and the untrained network's accuracies side by side on one scale; the best cell of each is framed."""
    grids = [("trained", probed.trained), ("untrained", probed.untrained)]
    means = [sum(seeds) / len(seeds) for _, grid in grids for row in grid.measured for seeds in row]
    low, high = min(means), max(means)
    left = 8 + 7 * max(len(site) for site in probed.trained.sites)
    panel = max(CELL_WIDTH * len(probed.trained.levels), NARROWEST)
    width = left + 2 * panel + GAP
    height = TOP + CELL_HEIGHT * len(probed.trained.sites) + 46
    parts = []
    for number, (title, grid) in enumerate(grids):
        x = left + number * (panel + GAP)
        parts.append(f'<text class="t" x="{x}" y="16" font-weight="600">{title}: {grid.score.mean:.1%}</text>')
        parts.append(_panel(grid, x, low, high, labels=number == 0))
    unit = "log SNR" if probed.trained.unit == "logsnr" else "t"
    parts.append(f'<text class="q" x="{left}" y="{height - 8}">{unit}: little noise … much noise</text>')
    style = (
        ".t{fill:#1e1d1b}.q{fill:#66635d}@media (prefers-color-scheme:dark){.t{fill:#ecebe7}.q{fill:#a19d95}}"
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;font-variant-numeric:tabular-nums}"
    )
    description = f"Probe accuracy by site and noise level, trained and untrained. {probed.sentence}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(description)}"><style>{style}</style>{"".join(parts)}</svg>'
    )


def _panel(grid: Grid, left: float, low: float, high: float, labels: bool) -> str:
    parts = []
    for j, at in enumerate(grid.levels):
        x = left + (j + 0.5) * CELL_WIDTH
        name = f"{at:g}".replace("-", "−")
        parts.append(f'<text class="q" x="{x:g}" y="{TOP - 8}" text-anchor="middle">{name}</text>')
    for i, (site, row) in enumerate(zip(grid.sites, grid.measured, strict=True)):
        y = TOP + i * CELL_HEIGHT
        if labels:
            parts.append(
                f'<text class="q" x="{left - 8}" y="{y + CELL_HEIGHT / 2 + 4}" text-anchor="end">{escape(site)}</text>'
            )
        for j, seeds in enumerate(row):
            mean = sum(seeds) / len(seeds)
            place = (mean - low) / (high - low) if high > low else 0.5
            x = left + j * CELL_WIDTH
            colour = _colour(place)
            middle = f'x="{x + CELL_WIDTH / 2:g}" y="{y + CELL_HEIGHT / 2 + 4:g}"'
            parts.append(
                f'<rect x="{x:g}" y="{y:g}" width="{CELL_WIDTH - 1}" height="{CELL_HEIGHT - 1}" fill="{_hex(colour)}"/>'
                f'<text {middle} text-anchor="middle" style="fill:{_ink(colour)}">{100 * mean:.0f}</text>'
            )
    site, at = grid.best
    x, y = left + grid.levels.index(at) * CELL_WIDTH, TOP + grid.sites.index(site) * CELL_HEIGHT
    frame = f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{CELL_WIDTH - 3}" height="{CELL_HEIGHT - 3}" fill="none" stroke-width="2"'
    return f'{"".join(parts)}{frame} stroke="#1565c0"/>'


def _colour(place: float) -> tuple[int, ...]:
    at = min(max(place, 0.0), 1.0) * (len(COLOURS) - 1)
    i = min(int(at), len(COLOURS) - 2)
    return tuple(round(a + (at - i) * (b - a)) for a, b in zip(COLOURS[i], COLOURS[i + 1], strict=True))


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


def _ink(colour: Sequence[int]) -> str:
    """Black or white, whichever stands out more: by the relative luminance of WCAG 2, a contrast of 4.5 at least."""
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (value / 255 for value in colour))
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > 0.179 else "#ffffff"
