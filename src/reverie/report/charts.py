"""Line charts as inline SVG. Colours are classes, so that the page's style sheet sets them for light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40


@dataclass(frozen=True, eq=False)
class Line:
    """A named series: points in data units, a CSS class, and whether the area below it is filled."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    css: str
    fill: bool = False


def chart(
    lines: Sequence[Line], x_label: str, y_label: str, description: str, *, log: bool = False, percent: bool = False
) -> str:
    """An SVG figure with axes and a legend of the lines' names.

    Args:
        lines: what to draw; points that are not finite (or not positive on a log axis) are left out.
        x_label, y_label: of the axes.
        description: for those who cannot see it.
        log: logarithmic y axis.
        percent: y values are fractions.
    """
    points = {line: [(a, b) for a, b in zip(line.x, line.y, strict=True) if _fits(a, b, log)] for line in lines}
    every = [point for some in points.values() for point in some]
    if not every:
        return ""
    x0, x1 = _range([a for a, _ in every])
    values = [math.log10(b) if log else b for _, b in every]
    y0, y1 = _range(values if log else [0.0, *values])
    y0, y1 = (y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)) if log else (y0, y1 * 1.04)

    def px(a: float) -> float:
        return LEFT + (a - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(b: float) -> float:
        return HEIGHT - BOTTOM - ((math.log10(b) if log else b) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in _decades(y0, y1) if log else _ticks(y0, y1, 4):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(tick):.1f}" y2="{py(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{py(tick) + 4:.1f}" text-anchor="end">{_number(tick, percent)}</text>')
    for tick in _ticks(x0, x1, 5):
        parts.append(f'<text x="{px(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for line, some in points.items():
        path = "M" + "L".join(f"{px(a):.1f} {py(b):.1f}" for a, b in some)
        if line.fill and some:
            parts.append(
                f'<path class="area {line.css}" d="{path}L{px(some[-1][0]):.1f} {py(0.0):.1f}L{px(some[0][0]):.1f} {py(0.0):.1f}Z"/>'
            )
        if len(some) == 1:
            parts.append(f'<circle class="dot {line.css}" cx="{px(some[0][0]):.1f}" cy="{py(some[0][1]):.1f}" r="3"/>')
        elif some:
            parts.append(f'<path class="line {line.css}" d="{path}"/>')
    legend = "".join(f'<li class="{line.css}">{escape(line.name)}</li>' for line in lines)
    return (
        f'<figure class="chart"><figcaption><span>{escape(y_label)}</span><ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">{"".join(parts)}</svg></figure>'
    )


def steps(edges: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The outline of a histogram, as the points of a line."""
    x = [edge for edge in edges for _ in (0, 1)][1:-1]
    return x, [value for value in values for _ in (0, 1)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean over ``window`` neighbours, fewer at the ends."""
    half = window // 2
    return [sum(some) / len(some) for i in range(len(values)) if (some := values[max(0, i - half) : i + half + 1])]


def _fits(a: float, b: float, log: bool) -> bool:
    return math.isfinite(a) and math.isfinite(b) and (b > 0 or not log)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Round values between 10^low and 10^high: powers of ten, 1, 2 and 5 of each, or evenly spaced ones, the narrower the range."""
    if high - low < 0.7:
        return _ticks(10.0**low, 10.0**high, 4)
    marks = (1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    return [m * 10.0**e for e in exponents for m in marks if low <= math.log10(m * 10.0**e) <= high]


def _number(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:g} %"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.10g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.10g}k"
    return f"{value:.6g}".replace("-", "−")
