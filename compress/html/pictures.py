"""The pictures of the page, as SVG that stretches to any width: text beside them is the page's, and keeps its size.

Colours are those of the page's style sheet, by class: `before`, `after`, `third`. Names are escaped by ElementTree.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from compress.report import printable

GAP = 0.2  # of a column, beside its bar
BINS = 80
LEAST_SHARE = -8  # decades: what is smaller is rounding


@dataclass(frozen=True)
class Tick:
    """A label beside an axis; `at` is in percent, from the top or from the left."""

    at: float
    text: str


@dataclass(frozen=True)
class Picture:
    """An SVG with the labels of its two axes."""

    svg: str
    rows: tuple[Tick, ...] = ()
    columns: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One column: bars by class, the first behind the others, and what is said where one points at them."""

    values: tuple[tuple[str, float], ...]
    said: str


@dataclass(frozen=True)
class Series:
    """Figures in order, drawn in the colour of a class; None, like 0, is none to draw."""

    style: str
    values: Sequence[float | None]


def bars(columns: Sequence[Bar], title: str, written: Callable[[float], str]) -> Picture:
    """Draw one column each, in their order, from 0 up to the largest."""
    top = max((value for bar in columns for _, value in bar.values), default=0.0) or 1.0
    ticks = [Tick(100 - 100 * step / top, written(step)) for step in _steps(top)]
    svg = _svg(len(columns), title)
    _grid(svg, ticks, len(columns))
    for number, bar in enumerate(columns):
        column = _column(svg, number, bar.said)
        for style, value in bar.values:
            height = 100 * value / top
            _rectangle(column, style, number + GAP / 2, 100 - height, 1 - GAP, height)
    return Picture(_text(svg), tuple(ticks))


def errors(series: Sequence[Series], said: Sequence[str], title: str) -> Picture:
    """Draw shares in their order on a logarithmic scale of whole decades.

    One series is a line through its points; of several, the points of one place are joined: from what was to what is.
    """
    known = [math.log10(value) for line in series for value in line.values if value]
    low = max(math.floor(min(known, default=-1)), LEAST_SHARE)
    high = max(math.ceil(max(known, default=0)), low + 1)

    def height(value: float) -> float:
        return 100 * (high - max(math.log10(value), low)) / (high - low)

    step = max(1, (high - low) // 4)
    ticks = [Tick(height(10.0**decade), _share(10.0**decade)) for decade in range(low, high + 1, step)]
    places = [[(n + 0.5, height(value)) for n, value in enumerate(line.values) if value] for line in series]
    svg = _svg(len(said), title)
    _grid(svg, ticks, len(said))
    if len(series) == 1:
        SubElement(svg, "path", {"class": f"line {series[0].style}", "d": _path(places[0])})
    else:
        stems = zip(*(line.values for line in series), strict=True)
        ends = (([height(value) for value in values if value], n + 0.5) for n, values in enumerate(stems))
        drawn = "".join(_path([(x, min(ys)), (x, max(ys))]) for ys, x in ends if ys)
        SubElement(svg, "path", {"class": "stem", "d": drawn})
    for line, points in zip(series, places, strict=True):
        dots = "".join(f"{_path([place])}h0" for place in points)  # a line of no length with a round end
        SubElement(svg, "path", {"class": f"dots {line.style}", "d": dots})
    for number, text in enumerate(said):
        _column(svg, number, text)
    return Picture(_text(svg), tuple(ticks))


def end_of_scale(times: Sequence[Sequence[float]]) -> float:
    """Return where a scale of times may end: what waited much longer for another process would press all together."""
    return max(min(1.15 * float(np.quantile(each, 0.95)), 3 * float(np.median(each))) for each in times)


def distributions(times: Sequence[tuple[str, Sequence[float]]], title: str) -> Picture:
    """Draw how often which time was taken, from evenly spaced quantiles by class, from 0 to `end_of_scale`."""
    end = end_of_scale([each for _, each in times])
    ticks = [Tick(100 * step / end, f"{step:g} ms") for step in (0.0, *_steps(end))]
    edges = np.linspace(0, end, BINS + 1)
    found = [(style, _shares(np.sort(each), edges), float(np.median(each))) for style, each in times]
    top = max(float(shares.max()) for _, shares, _ in found)
    svg = _svg(100, title)
    for tick in ticks:
        SubElement(svg, "path", {"class": "grid", "d": _path([(tick.at, 0), (tick.at, 100)])})
    for style, shares, middle in found:
        outline = [(100 * x / end, 100 - 95 * share / top) for i, share in enumerate(shares) for x in edges[i : i + 2]]
        SubElement(svg, "path", {"class": f"area {style}", "d": f"{_path([(0, 100), *outline, (100, 100)])}Z"})
        SubElement(svg, "path", {"class": f"middle {style}", "d": _path([(100 * middle / end, y) for y in (0, 100)])})
    return Picture(_text(svg), (), tuple(ticks))


def _shares(ordered: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of the rounds between two edges each; between two quantiles they lie evenly."""
    ranks = np.linspace(0, 1, len(ordered))
    return np.diff(np.interp(edges, ordered, ranks, left=0.0, right=1.0))


def _steps(top: float) -> list[float]:
    """Return two to five round figures up to `top`, evenly spaced."""
    unit = 10.0 ** math.floor(math.log10(top / 2))
    step = max(size * unit for size in (1, 2, 5) if 2 * size * unit <= top)
    return [step * number for number in range(1, int(top / step + 1e-9) + 1)]


def _share(value: float) -> str:
    return f"{100 * value:.10f}".rstrip("0").rstrip(".") + " %"


def _svg(wide: int, title: str) -> Element:
    size = {"viewBox": f"0 0 {max(wide, 1)} 100", "preserveAspectRatio": "none"}
    return Element("svg", {"class": "picture", "role": "img", **size, "aria-label": title})


def _grid(svg: Element, ticks: Sequence[Tick], wide: int) -> None:
    for tick in ticks:
        SubElement(svg, "path", {"class": "grid", "d": _path([(0, tick.at), (wide, tick.at)])})


def _column(svg: Element, number: int, said: str) -> Element:
    """Return a column that answers where one points at it, whatever is drawn there."""
    column = SubElement(svg, "g")
    SubElement(column, "title").text = "\n".join(map(printable, said.split("\n")))
    _rectangle(column, "touch", number, 0, 1, 100)
    return column


def _rectangle(parent: Element, style: str, x: float, y: float, width: float, height: float) -> None:
    sizes = {"x": x, "y": y, "width": width, "height": height}
    SubElement(parent, "rect", {"class": style} | {name: _number(value) for name, value in sizes.items()})


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if n else 'M'}{_number(x)} {_number(y)}" for n, (x, y) in enumerate(places))


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(svg: Element) -> str:
    return tostring(svg, encoding="unicode")
