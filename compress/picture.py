"""The picture of a sweep: what is left of the quality, and of the time, over the share of MACs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compress.files import write_file
from compress.measurement import Measurement
from compress.report import printable
from compress.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Figure = Callable[[Measurement], float | None]


def draw(sweep: Sweep, path: Path) -> None:
    """Write the picture as .png or .svg, as the name ends. Raises OptionError where it cannot be written."""
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [sweep.before, *(row.after for row in sweep.rows if row.after is not None)]
    whole = sweep.before.macs or 1

    def line(axes: Axes, name: str, value: _Figure) -> bool:
        known = [((point.macs or 0) / whole, y) for point in points if (y := value(point)) is not None]
        if known:
            axes.plot(*zip(*sorted(known), strict=True), marker="o", label=name)
        return bool(known)

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    quality, time = figure.subplots(1, 2)
    shares = [line(quality, "top-1", lambda m: m.top1), line(quality, "agreement", lambda m: m.agreement)]
    own = line(quality, sweep.metric or "", lambda m: m.metric) if sweep.metric else False
    if not any(shares) and not own:
        line(quality, "largest relative error", lambda m: m.relative_error)
    line(time, "latency p50, ms", lambda m: None if m.latency_ms is None else m.latency_ms.p50_ms)
    for axes in (quality, time):
        axes.set_xlabel("share of MACs")
        axes.set_xlim(1.05, 0)  # from the whole network down
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    time.set_ylim(bottom=0)
    figure.suptitle(title(Path(sweep.model).name))
    write_picture(figure, path)


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a figure as .png or .svg, as the name ends; the same picture has the same bytes. Raises OptionError."""
    from matplotlib import rc_context

    content, is_svg = io.BytesIO(), path.suffix.lower() == ".svg"
    with rc_context({"svg.hashsalt": "compress"}):
        figure.savefig(content, format=path.suffix[1:].lower(), metadata={"Date": None} if is_svg else {})
    write_file(content.getvalue(), path)


def title(name: str) -> str:
    """Return a name as matplotlib shows it: a dollar would begin mathematics."""
    return printable(name).replace("$", r"\$")
