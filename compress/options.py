"""Options that several commands share, each group as one decorator that hands the command one object."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from compress.errors import OptionError

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrate.preprocess import Preprocess
    from calibrate.source import Source

P = ParamSpec("P")
R = TypeVar("R")


def _writable(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Find before the work what would lose its result after it."""
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{path.parent} is no folder that can be written to")
    return path


def check_apart(json_path: Path | None, *others: str | os.PathLike[str] | None) -> None:
    """Raise OptionError where the JSON report would replace another file that the command reads or writes."""
    for other in others:
        if json_path is not None and other is not None and same_file(json_path, Path(other)):
            raise OptionError(f"--json {json_path} would replace {other}: give the report another name")


def same_file(first: Path, second: Path) -> bool:
    """Say whether two paths lead to one file, by links too, whether it exists or not."""
    if first.exists() and second.exists():
        return first.samefile(second)
    return os.path.realpath(first) == os.path.realpath(second)


json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_writable,
    metavar="FILE",
    help="Write everything as JSON.",
)


def _shapes(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Read NAME:1x3x320x320; a name may hold colons itself."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.lower().split("x"))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise click.BadParameter(f"{text!r}: give NAME:1x3x320x320 with numbers above 0")
        shapes[name] = shape
    return shapes


shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    callback=_shapes,
    metavar="NAME:1x3x320x320",
    help="The shape of an input that leaves sizes free. Repeatable. [default: sizes that the model runs with]",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of what is drawn."
)


@dataclass(frozen=True)
class DataOptions:
    """What the user typed about the data."""

    data: str | None = None
    samples: int | None = None
    labels: Path | None = None
    preprocess: str | None = None
    mean: str | None = None
    std: str | None = None
    scale: str | None = None
    resize: str | None = None
    layout: str | None = None
    bgr: bool = False

    def preprocessing(self) -> "Preprocess | None":
        """Return the preprocessing that was asked for; None where nothing was. Raises DataError."""
        from calibrate.preprocess import preprocess_from_options

        return preprocess_from_options(
            self.preprocess,
            mean=self.mean,
            std=self.std,
            scale=self.scale,
            resize=self.resize,
            layout=self.layout,
            bgr=self.bgr,
        )

    def open(self, model: "ir.Model", shapes: Mapping[str, Sequence[int]], seed: int) -> "Source":
        """Open the source for a model; without `--data` it is generated. Raises DataError or ModelError."""
        from calibrate.sources import open_source
        from graph.inputs import input_specs, settle

        specs = input_specs(model, shapes)
        return open_source(
            self.data,
            settle(model, specs) if self.data is None else specs,
            self.preprocessing(),
            samples=self.samples,
            seed=seed,
            labels_file=self.labels,
        )


_DATA = (
    click.option(
        "--data",
        metavar="SOURCE",
        help="A folder of images (sub-folders are classes), an .npz or .npy, or module:function, which is imported."
        " Without it images are generated; real ones do better.",
    ),
    click.option("--samples", type=int, metavar="N", help="Use at most N samples."),
    click.option("--labels", type=click.Path(path_type=Path), metavar="CSV", help="name,class for a folder of images."),
    click.option(
        "--preprocess",
        metavar="PRESET",
        help="imagenet, cifar10, tf (x/127.5-1), unit (x/255), raw, caffe, standardise.",
    ),
    click.option("--mean", metavar="R,G,B", help="Subtracted after scaling."),
    click.option("--std", metavar="R,G,B", help="Divided by, after the mean."),
    click.option("--scale", metavar="FACTOR", help="Multiplies the pixels 0...255 first: a number or 1/255."),
    click.option("--resize", metavar="HxW", help="Size for a model that leaves it free."),
    click.option("--layout", metavar="NCHW|NHWC", help="Of the model's input; read off its shape by default."),
    click.option("--bgr", is_flag=True, help="The model wants blue first."),
)


def data_options(command: Callable[Concatenate[DataOptions, P], R]) -> Callable[P, R]:
    """Give a command the options on data; it receives them as its first argument, a DataOptions."""
    names = tuple(DataOptions.__dataclass_fields__)

    @wraps(command)
    def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen = DataOptions(**{name: kwargs.pop(name) for name in names})  # type: ignore[arg-type]  # click's types
        return command(chosen, *args, **kwargs)

    wrapped: Callable[P, R] = gathered
    for option in reversed(_DATA):
        wrapped = option(wrapped)
    return wrapped
