"""The picture of a training: accuracy and MACs over the epochs, and how narrow each group of channels became."""

from pathlib import Path

import numpy as np

from compress.picture import title, write_picture
from compress.training.course import Course
from compress.training.evaluate import Figures

FIGURES = (("top-1", "top1"), ("agreement", "agreement"), ("metric", "metric"), ("loss", "loss"))


def draw(course: Course, name: str, path: Path) -> None:
    """Write the picture as .png or .svg, as the name ends. Raises OptionError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    points: list[tuple[float, Figures]] = [(0, course.start)]
    points += [(epoch.number, epoch.held) for epoch in course.epochs]
    points += [(removal.before - 1, removal.held) for removal in course.removals]  # after the epoch before it
    points.sort(key=lambda point: point[0])
    label, attribute = next((label, each) for label, each in FIGURES if getattr(course.start, each) is not None)
    left.plot([at for at, _ in points], [getattr(figures, attribute) for _, figures in points], label=label)
    steps = [(0, course.macs), *((removal.before - 1, removal.macs) for removal in course.removals)]
    steps.append((course.epochs[-1].number if course.epochs else 0, steps[-1][1]))
    macs = [count / course.macs for _, count in steps]
    left.step([at for at, _ in steps], macs, where="post", linestyle="--", color="tab:gray", label="share of MACs")
    left.set_xlabel("epoch")
    left.grid(alpha=0.3)
    left.legend()
    rows = [course.widths, *(removal.widths for removal in course.removals)]
    left_over = np.array([[row[group] / max(width, 1) for row in rows] for group, width in course.widths.items()])
    shown = right.imshow(left_over, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    right.set_xlabel("removals")
    right.set_ylabel("groups of channels, from input to output")
    right.set_xticks(range(len(rows)))
    figure.colorbar(shown, ax=right, label="share of channels left")
    figure.suptitle(title(name))
    write_picture(figure, path)
