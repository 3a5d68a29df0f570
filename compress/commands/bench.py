"""compress bench: latency with ONNX Runtime, models in turn."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.options import check_apart, json_option, seed_option, shape_option, writable
from compress.options_host import host_options, other_machine

if TYPE_CHECKING:
    from rich.table import Table

    from compress.bench import Latency

DURATION_S = 5.0
PATIENCE = 6  # times the duration, where a ratio is not precise by then
_FILE = click.Path(path_type=Path, dir_okay=False)


def _options(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE; a value may hold equals signs."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not key or not equals:
            raise click.BadParameter(f"{text!r}: give KEY=VALUE")
    return {key: value for key, _, value in pairs}


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads within an operator.")
@click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, ... as installed.")
@click.option(
    "--provider-option",
    "provider_options",
    multiple=True,
    callback=_options,
    metavar="KEY=VALUE",
    help="An option of the provider, as ONNX Runtime names it. Repeatable.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    default=DURATION_S,
    show_default=True,
    help=f"Seconds of timing in all; up to {PATIENCE} times that until ratios are within 0.5 %.",
)
@click.option("--batch", type=click.IntRange(1), help="For a model that leaves the batch free. [default: 1]")
@shape_option
@host_options
@click.option("--profile", is_flag=True, help="Also the time of each type of operator.")
@seed_option
@json_option
@click.option("--export-markdown", type=_FILE, callback=writable, metavar="FILE", help="Write the table as Markdown.")
@click.option("--export-csv", type=_FILE, callback=writable, metavar="FILE", help="Write the figures as CSV.")
def command(
    models: tuple[Path, ...],
    threads: int,
    provider: str,
    provider_options: dict[str, str],
    duration: float,
    batch: int | None,
    shapes: dict[str, tuple[int, ...]],
    host: str | None,
    host_python: str | None,
    profile: bool,
    seed: int,
    json_path: Path | None,
    export_markdown: Path | None,
    export_csv: Path | None,
) -> None:
    """Time models in ONNX Runtime, interleaved; ratios are to the first, slower ones in red."""
    check_apart(json_path, *models)
    check_apart(export_markdown, *models, json_path, option="--export-markdown")
    check_apart(export_csv, *models, json_path, export_markdown, option="--export-csv")
    there = other_machine(host, host_python)
    from compress.bench import bench, instabilities, left_alone
    from compress.bench_export import comma_separated, markdown
    from compress.files import write_file
    from compress.report import console, print_notes, printable, with_version, write_json

    latencies = bench(
        models,
        threads=threads,
        provider=provider,
        provider_options=provider_options,
        duration_s=duration,
        longest_s=PATIENCE * duration,
        batch=batch,
        shapes=shapes,
        memory=True,
        profile=profile,
        seed=seed,
        host=there,
    )
    screen = console()
    screen.print(_table(latencies))
    if profile:
        screen.print(_profile(latencies))
    screen.print(printable(_environment(latencies[0])), soft_wrap=True)
    print_notes((*left_alone(latencies), *instabilities(latencies)))
    if json_path is not None:
        entries = [_entry(latency) for latency in latencies]
        write_json(with_version({"command": "bench", "models": entries}), json_path)
    for path, written in ((export_markdown, markdown), (export_csv, comma_separated)):
        if path is not None:
            write_file(written(latencies).encode(), path)


def _entry(latency: "Latency") -> dict[str, object]:
    from compress.bench_export import by_operator

    operators = {name: {"nodes": nodes, "ms": ms} for name, (nodes, ms) in by_operator(latency.kernels).items()}
    return dataclasses.asdict(latency) | {"unstable": latency.unstable, "operators": operators}


def _table(latencies: "tuple[Latency, ...]") -> "Table":
    from rich.text import Text

    from compress.bench_export import COLUMNS, rows
    from compress.report import table

    shown = table(*COLUMNS)
    for latency, row in zip(latencies, rows(latencies), strict=True):
        shown.add_row(*(Text(cell) for cell in row), style="red" if latency.slower else None)
    return shown


def _profile(latencies: "tuple[Latency, ...]") -> "Table":
    from rich.text import Text

    from compress.bench_export import profile_columns, profile_rows
    from compress.report import table

    shown = table(*profile_columns(latencies))
    for row in profile_rows(latencies):
        shown.add_row(*map(Text, row))
    return shown


def _environment(latency: "Latency") -> str:
    machine = latency.environment
    inputs = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in machine.shapes.items())
    options = "".join(f", {key}={value}" for key, value in machine.provider_options.items())
    return (
        f"ONNX Runtime {machine.onnxruntime}, {machine.provider}{options}, threads: {machine.threads}, {machine.cpu}"
        f" ({' '.join(machine.flags)}); optimisation {machine.optimisation}, {machine.execution}, no spinning;"
        f" {inputs}; {latency.rounds} rounds of {latency.runs_per_round} runs; ratios of {machine.clock} time"
    )
