"""compress quantize: the model on 8-bit integers."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.options import (
    DataOptions,
    check_apart,
    check_output,
    data_options,
    json_option,
    metric_option,
    provider_option,
    seed_option,
    shape_option,
    threads_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from compress.int8 import QuantiseReport


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: MODEL with -int8 before the suffix]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@metric_option
@threads_option
@provider_option
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    model: Path,
    output: Path | None,
    force: bool,
    metric: str | None,
    threads: int,
    provider: str,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> None:
    """Put MODEL on 8-bit integers, by ONNX Runtime's own static quantiser, and measure what came of it.

    Weights have a scale per output channel; the ranges of activations are those that the samples show. Names, inputs
    and outputs stay; MODEL itself is never changed.
    """
    destination = output or model.with_name(f"{model.stem}-int8{model.suffix}")
    check_output(model, destination, force, data.data, data.labels)
    check_apart(json_path, model, destination, data.data, data.labels)

    from compress.int8 import quantize
    from compress.progress import on_terminal
    from compress.report import console, print_notes, with_version, write_json

    options = replace(data.settings(shapes, seed), metric=metric, threads=threads, provider=provider)
    result = quantize(model, data.data, options, progress=on_terminal)
    result.save(destination, overwrite=force)
    report = result.written_to(destination).report
    _show(report, console())
    print_notes(report.notes)
    if json_path is not None:
        write_json(with_version({"command": "quantize", **vars(report)}), json_path)


def _show(report: "QuantiseReport", to: "Console") -> None:
    from compress.report import measurement_table, printable

    to.print(printable(f"{report.model} → {report.output}"), soft_wrap=True)
    to.print(measurement_table(report.before, report.after))
    for line in (report.said, report.measured_on, report.used_for):
        to.print(printable(line), soft_wrap=True)
