"""compress sweep: one calibration, many budgets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.errors import OptionError
from compress.files import same_file
from compress.options import (
    DataOptions,
    HowOptions,
    check_apart,
    check_output,
    data_options,
    how_options,
    json_option,
    picture_option,
    seed_option,
    shape_option,
)
from compress.targets import Target, kept_as, parse_target

if TYPE_CHECKING:
    from rich.table import Table

    from compress.measurement import Measurement
    from compress.sweep import Sweep

TARGETS = "0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2"


@click.command("sweep")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--targets", default=TARGETS, show_default=True, metavar="LIST", help="MACs to be left: 0.9,0.5 or 50%,60M."
)
@picture_option("accuracy and latency over MACs")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the models, as MODEL-TARGET.onnx.",
)
@click.option("--force", is_flag=True, help="Overwrite models in --output-dir.")
@how_options
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    how: HowOptions,
    model: Path,
    targets: str,
    picture: Path | None,
    output_dir: Path | None,
    force: bool,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> None:
    """Cut MODEL at many budgets after one calibration: how far can one go?"""
    wanted = tuple(parse_target("macs", text) for text in targets.split(",") if text.strip())
    _check(model, wanted, output_dir, force)
    check_apart(json_path, model, picture, data.data, data.labels)
    if picture is not None and (same_file(picture, model) or (data.data and same_file(picture, Path(data.data)))):
        raise OptionError(f"--picture {picture} would replace what is read: give another name")
    options = how.settings(data, shapes, seed)

    from compress.progress import on_terminal
    from compress.report import console, print_notes, printable, with_version, write_json
    from compress.sweep import sweep

    found = sweep(
        model,
        wanted,
        data.data,
        options,
        output_dir=output_dir,
        overwrite=force,
        progress=on_terminal,
    )
    screen = console()
    screen.print(printable(f"{model}, on {found.data}"), soft_wrap=True)
    screen.print(_table(found))
    for line in (found.measured_on, found.used_for, *(row.reason for row in found.rows if row.reason)):
        screen.print(printable(line), soft_wrap=True)
    print_notes(found.notes)
    if json_path is not None:
        write_json(with_version({"command": "sweep", **vars(found)}), json_path)
    if picture is not None:
        from compress.picture import draw

        draw(found, picture)


def _check(model: Path, targets: Sequence[Target], output_dir: Path | None, force: bool) -> None:
    """Find before the work what would lose its result after it."""
    if not targets:
        raise OptionError("--targets: give at least one, such as 0.9,0.7,0.5")
    if output_dir is not None:
        if not output_dir.parent.is_dir():
            raise OptionError(f"{output_dir.parent} is not a folder: create it, or give another --output-dir")
        output_dir.mkdir(exist_ok=True)
        for target in targets:
            check_output(model, output_dir / kept_as(model.stem, target), force)


def _table(found: "Sweep") -> "Table":
    from rich.text import Text

    from compress.report import percent, printable, quantity, table

    def written(measurement: "Measurement") -> list[str]:
        latency = measurement.latency_ms
        cells = [f"{quantity(measurement.macs or 0)}", quantity(measurement.params or 0)]
        cells.append(f"{quantity(measurement.file_bytes or 0)}B")
        cells += ["" if share is None else percent(share) for share in (measurement.top1, measurement.agreement)]
        cells.append("" if measurement.metric is None else f"{measurement.metric:.4g}")
        cells.append("" if measurement.relative_error is None else f"{measurement.relative_error:.3f}")
        return [*cells, *(("", "") if latency is None else (f"{latency.p50_ms:.3g}", f"{latency.ratio.value:.3f}"))]

    titles = ("MACs", "params", "file", "top-1", "agreement", "metric", "error", "p50 ms", "ratio")
    unreached = ["out of reach", *[""] * (len(titles) - 1)]
    rows = [written(found.before), *(unreached if row.after is None else written(row.after) for row in found.rows)]
    shown = [column for column in range(len(titles)) if any(row[column] for row in rows)]
    made = table("target", *(titles[column] for column in shown))
    for name, row in zip(("original", *(row.target for row in found.rows)), rows, strict=True):
        made.add_row(Text(printable(name)), *(row[column] for column in shown))
    return made
