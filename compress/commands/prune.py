"""compress prune: the main job."""

from dataclasses import replace
from pathlib import Path

import click

from compress.options import (
    DataOptions,
    HowOptions,
    check_apart,
    check_output,
    data_options,
    how_options,
    json_option,
    seed_option,
    shape_option,
)
from compress.targets import Target, TargetError, parse_target


@click.command("prune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target-flops", metavar="SHARE|COUNT", help="MACs to be left: 0.5, 50% or 60M (1 MAC = 2 FLOPs).")
@click.option("--target-params", metavar="SHARE|COUNT", help="Parameters to be left: 0.5, 50% or 1.2M.")
@click.option("--target-size", metavar="SHARE|BYTES", help="Bytes of the file to be left: 0.5, 50% or 4MB.")
@click.option("--target-latency", metavar="SHARE|TIME", help="Time to be left, as measured here: 0.5, 50% or 8ms.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="As small as possible with so much lost: 0.01 is one point of top-1, or agreement, or the --metric.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: MODEL with -pruned before the suffix]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="Where --search evolve can be resumed from."
)
@how_options
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    how: HowOptions,
    model: Path,
    target_flops: str | None,
    target_params: str | None,
    target_size: str | None,
    target_latency: str | None,
    max_drop: float | None,
    output: Path | None,
    force: bool,
    checkpoint: Path | None,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> int:
    """Prune MODEL until all targets hold and write the smaller model.

    The model keeps its names, inputs, outputs and opset; MODEL itself is never changed. Patterns are those of the
    shell (*conv2*), matched against the names of nodes and of their outputs; `compress inspect` lists them.
    """
    given = {"macs": target_flops, "params": target_params, "bytes": target_size, "latency": target_latency}
    targets = _targets(given, max_drop)
    destination = output or model.with_name(f"{model.stem}-pruned{model.suffix}")
    check_output(model, destination, force, data.data, data.labels)
    check_apart(json_path, model, destination, data.data, data.labels, checkpoint)
    options = replace(how.settings(data, shapes, seed), max_drop=max_drop, checkpoint=checkpoint)

    from compress.api import prune
    from compress.progress import on_terminal
    from compress.report import console, print_notes, print_report, report_json, write_json

    result = prune(model, targets, data.data, options, progress=on_terminal)
    result.save(destination, overwrite=force)
    report = result.written_to(destination).report
    print_report(report, console())
    print_notes(report.notes)
    if json_path is not None:
        write_json(report_json(report), json_path)
    return int(not all(target.met for target in report.targets))


def _targets(given: dict[str, str | None], max_drop: float | None) -> tuple[Target, ...]:
    targets = tuple(parse_target(metric, text) for metric, text in given.items() if text is not None)
    if not targets and max_drop is None:
        raise TargetError(
            "give a target: --target-flops 0.5 (half of the MACs left), --target-params, --target-size, "
            "--target-latency, or several, or --max-drop 0.01"
        )
    return targets
