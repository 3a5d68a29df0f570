"""Options that several commands share, each group as one decorator that hands the command one object."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from compress.errors import OptionError
from compress.files import same_file
from compress.gates import GATES, Gate, read_gate

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrate.preprocess import Preprocess
    from compress.data import Samples
    from compress.settings import Options

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

PICTURES = (".png", ".svg")


def writable(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Find before the work what would lose its result after it."""
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{path.parent} is no folder that can be written to")
    return path


def check_apart(report: Path | None, *others: str | os.PathLike[str] | None, option: str = "--json") -> None:
    """Raise OptionError where a report would replace another file that the command reads or writes."""
    for other in others:
        if report is not None and other is not None and same_file(report, Path(other)):
            raise OptionError(f"{option} {report} would replace {other}: give the report another name")


def check_output(model: Path, output: Path, force: bool, *data: str | os.PathLike[str] | None) -> None:
    """Find before the work what would lose its result after it."""
    if output.exists() and model.exists() and output.samefile(model):
        raise OptionError(f"{output} is the model itself, which is never overwritten: give another --output")
    if output.is_dir():
        raise OptionError(f"{output} is a folder: give the name of a file as --output")
    if output.exists() and not force:
        raise OptionError(f"{output} exists: give another --output, or --force to overwrite it")
    if not output.parent.is_dir():
        raise OptionError(f"{output.parent} is not a folder: create it, or give another --output")
    if not os.access(output.parent, os.W_OK):
        raise OptionError(f"{output.parent} cannot be written to: give another --output")
    for given in data:
        if given is not None and same_file(output, Path(given)):
            raise OptionError(f"{output} is what the data are read from: give another --output")


def _file_option(name: str, explanation: str, *names: str) -> Callable[[Any], Any]:
    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option(name, *names, type=kind, callback=writable, metavar="FILE", help=explanation)


json_option = _file_option("--json", "Write everything as JSON.", "json_path")
report_option = _file_option("--report", "Write a page about it, with pictures: one HTML file.", "page")


def picture_option(what: str) -> Callable[[Any], Any]:
    """Return the option --picture, which draws `what`."""
    return click.option(
        "--picture",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_drawable,
        metavar="FILE",
        help=f"Draw {what}, as .png or .svg.",
    )


def _drawable(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in PICTURES:
        raise OptionError(f"--picture {path}: the name must end in {' or '.join(PICTURES)}")
    return writable(context, parameter, path)


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

    def settings(self, shapes: Mapping[str, Sequence[int]], seed: int) -> "Options":
        """Return the options on data, and the seed, as Python takes them. Raises DataError."""
        from compress.settings import Options

        return Options(
            preprocess=self.preprocessing(),
            samples=self.samples,
            labels_file=self.labels,
            shapes=shapes,
            seed=seed,
        )

    def open(self, model: "ir.Model", shapes: Mapping[str, Sequence[int]], seed: int) -> "Samples":
        """Open the samples for a model; without `--data` they are generated. Raises DataError or ModelError."""
        from compress.data import open_samples

        return open_samples(
            model,
            self.data,
            self.preprocessing(),
            samples=self.samples,
            labels_file=self.labels,
            shapes=shapes,
            seed=seed,
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


CRITERIA = ("cap", "cap-forward", "magnitude-l1", "magnitude-l2", "random", "relevance")
SEARCHES = ("lagrange", "evolve", "bisect", "uniform")

metric_option = click.option(
    "--metric", metavar="MODULE:FUNCTION", help="Your own measure (outputs, references, labels) -> number, imported."
)


@dataclass(frozen=True)
class HowOptions:
    """What the user typed about how to prune."""

    criterion: str = "cap"
    search: str = "lagrange"
    jobs: int = 1
    ray: str | None = None
    refine: int = 0
    metric: str | None = None
    exclude: tuple[str, ...] = ()
    ratios: tuple[str, ...] = ()
    round_to: int | str | None = None
    threads: int = 1
    provider: str = "cpu"
    profile: Path | None = None
    keep_batchnorm: bool = False
    device: str = "cpu"

    def settings(self, data: DataOptions, shapes: Mapping[str, Sequence[int]], seed: int) -> "Options":
        """Return all options together, as Python takes them. Raises DataError or OptionError."""
        limits = dict(map(width_ratio, self.ratios))
        return replace(
            data.settings(shapes, seed),
            keep_batchnorm=self.keep_batchnorm,
            metric=self.metric,
            criterion=self.criterion,
            search=self.search,
            refine=self.refine,
            exclude=self.exclude,
            max_width_ratio=limits,
            round_to=self.round_to,
            threads=self.threads,
            provider=self.provider,
            profile=self.profile,
            jobs=self.jobs,
            ray=self.ray,
            device=self.device,
        )


def width_ratio(text: str) -> tuple[str, float]:
    """Read PATTERN=SHARE. Raises OptionError."""
    pattern, _, share = text.rpartition("=")
    try:
        ratio = float(share)
    except ValueError:
        ratio = -1.0
    if not pattern or not 0 < ratio <= 1:
        raise OptionError(f"--max-width-ratio {text!r}: give PATTERN=SHARE with a share above 0 and at most 1")
    return pattern, ratio


def _multiple(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise click.BadParameter(f"{text!r}: give a number above 0, or auto")
    return int(text)


multiple_option = click.option(
    "--round-to",
    callback=_multiple,
    metavar="N|auto",
    help="Widths: multiples of N, or of what suits the machine. [default: auto where latency counts, else 1]",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Within an operator, where latency counts."
)
provider_option = click.option(
    "--provider", default="cpu", show_default=True, metavar="NAME", help="Of ONNX Runtime, where latency counts."
)

exclude_option = click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave layers with such names whole. Repeatable."
)
ratio_option = click.option(
    "--max-width-ratio",
    "ratios",
    multiple=True,
    metavar="PATTERN=SHARE",
    help="Keep at most this share of the channels of layers with such names. Repeatable.",
)
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where torch computes."
)

_HOW = (
    click.option("--criterion", type=click.Choice(CRITERIA), default="cap", show_default=True, help="Ranks channels."),
    click.option("--search", type=click.Choice(SEARCHES), default="lagrange", show_default=True, help="Finds widths."),
    click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes of --search evolve."),
    click.option("--ray", metavar="ADDRESS", help="A Ray cluster for statistics and search: auto or host:port."),
    click.option(
        "--refine", type=click.IntRange(0), default=0, metavar="N", help="Steps of feature matching after the fit."
    ),
    metric_option,
    exclude_option,
    ratio_option,
    multiple_option,
    threads_option,
    provider_option,
    click.option(
        "--profile",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Latency is that of another machine: what compress profile wrote there.",
    ),
    click.option("--keep-batchnorm", is_flag=True, help="Do not fold BatchNormalization into convolutions."),
    device_option,
)


def data_options(command: Callable[Concatenate[DataOptions, P], R]) -> Callable[P, R]:
    """Give a command the options on data; it receives them as its first argument, a DataOptions."""
    return gathered_into(command, DataOptions, _DATA)


def how_options(command: Callable[Concatenate[HowOptions, P], R]) -> Callable[P, R]:
    """Give a command the options on how to prune; it receives them as its first argument, a HowOptions."""
    return gathered_into(command, HowOptions, _HOW)


@dataclass(frozen=True)
class GateOptions:
    """The gates that the user set, and where the verdicts on them are written besides."""

    gates: tuple[Gate, ...] = ()
    junit: Path | None = None
    markdown: Path | None = None

    def check_apart(self, *others: str | os.PathLike[str] | None) -> None:
        """Raise OptionError where a file of verdicts would replace another that the command reads or writes."""
        check_apart(self.junit, *others, option="--junit")
        check_apart(self.markdown, *others, self.junit, option="--markdown")


_VERDICTS = (
    _file_option("--junit", "Write the verdicts on what was asked as JUnit XML."),
    _file_option("--markdown", "Write a summary as Markdown. It is added to $GITHUB_STEP_SUMMARY, where that is set."),
)


def gate_options(*names: str) -> Callable[[Callable[Concatenate[GateOptions, P], R]], Callable[P, R]]:
    """Give a command the options of these gates; it receives them as its first argument, a GateOptions."""

    def given(command: Callable[Concatenate[GateOptions, P], R]) -> Callable[P, R]:
        @wraps(command)
        def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
            typed: dict[str, Any] = kwargs
            texts = {name: typed.pop(name.replace("-", "_")) for name in names}
            gates = tuple(read_gate(name, str(text)) for name, text in texts.items() if text is not None)
            return command(GateOptions(gates, typed.pop("junit"), typed.pop("markdown")), *args, **kwargs)

        limits = (
            click.option(f"--{name}", metavar=GATES[name].metavar, help=f"Exit with 1 if {GATES[name].help}")
            for name in names
        )
        return _with_options(gathered, (*limits, *_VERDICTS))

    return given


def gathered_into(
    command: Callable[Concatenate[T, P], R], kind: type[T], options: Sequence[Callable[[Any], Any]]
) -> Callable[P, R]:
    """Give a command several options; it receives them as its first argument, an object of `kind` (a dataclass)."""
    names = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]  # kind is a dataclass

    @wraps(command)
    def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(kind(**{name: kwargs.pop(name) for name in names}), *args, **kwargs)

    return _with_options(gathered, options)


def _with_options(command: Callable[P, R], options: Sequence[Callable[[Any], Any]]) -> Callable[P, R]:
    """Give a command options, which --help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command
