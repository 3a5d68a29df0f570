"""compress bench: latency with ONNX Runtime, models in turn."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.options import check_apart, json_option, seed_option, shape_option

if TYPE_CHECKING:
    from rich.table import Table

    from compress.bench import Latency


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads within an operator.")
@click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, ... as installed.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Seconds in all."
)
@click.option("--batch", type=click.IntRange(1), help="For a model that leaves the batch free. [default: 1]")
@shape_option
@seed_option
@json_option
def command(
    models: tuple[Path, ...],
    threads: int,
    provider: str,
    duration: float,
    batch: int | None,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> None:
    """Time models in ONNX Runtime, interleaved; ratios are to the first."""
    check_apart(json_path, *models)
    from compress.bench import bench, instabilities
    from compress.report import console, print_notes, printable, with_version, write_json

    latencies = bench(
        models,
        threads=threads,
        provider=provider,
        duration_s=duration,
        batch=batch,
        shapes=shapes,
        seed=seed,
    )
    screen = console()
    screen.print(_table(latencies))
    screen.print(printable(_environment(latencies[0])), soft_wrap=True)
    print_notes(instabilities(latencies))
    if json_path is not None:
        entries = [dataclasses.asdict(latency) | {"unstable": latency.unstable} for latency in latencies]
        write_json(with_version({"command": "bench", "models": entries}), json_path)


def _table(latencies: "tuple[Latency, ...]") -> "Table":
    from rich.text import Text

    from compress.report import printable, table

    shown = table("model", "p50 ms", "p90 ms", "p99 ms", "mean ms", "min ms", "ratio", "95 % interval")
    for number, latency in enumerate(latencies):
        ratio = latency.ratio
        figures = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.mean_ms, latency.min_ms)
        shown.add_row(
            Text(printable(latency.model)),
            *(f"{figure:.4g}" for figure in figures),
            f"{ratio.value:.3f}",
            f"{ratio.low:.3f} … {ratio.high:.3f}" if number else "",
        )
    return shown


def _environment(latency: "Latency") -> str:
    machine = latency.environment
    inputs = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in machine.shapes.items())
    return (
        f"ONNX Runtime {machine.onnxruntime}, {machine.provider}, threads: {machine.threads}, {machine.cpu};"
        f" optimisation {machine.optimisation}, {machine.execution}, no spinning; {inputs};"
        f" {latency.rounds} rounds of {latency.runs_per_round} runs"
    )
