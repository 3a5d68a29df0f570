"""compress prune: the main job."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.gates import GATES
from compress.options import (
    DataOptions,
    GateOptions,
    HowOptions,
    check_apart,
    check_output,
    data_options,
    gate_options,
    how_options,
    json_option,
    report_option,
    seed_option,
    shape_option,
)
from compress.targets import Target, TargetError, Unreachable, parse_target

if TYPE_CHECKING:
    from compress.api import Result


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
@click.option(
    "--int8", is_flag=True, help="Quantise too: the output is on 8-bit integers, its floats lie beside it as -float."
)
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="Where --search evolve can be resumed from."
)
@gate_options(*(name for name in GATES if name != "max-drop"))  # which is what is searched for
@how_options
@data_options
@shape_option
@seed_option
@json_option
@report_option
def command(
    data: DataOptions,
    how: HowOptions,
    gates: GateOptions,
    model: Path,
    target_flops: str | None,
    target_params: str | None,
    target_size: str | None,
    target_latency: str | None,
    max_drop: float | None,
    output: Path | None,
    int8: bool,
    force: bool,
    checkpoint: Path | None,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
    page: Path | None,
) -> int:
    """Prune MODEL until all targets hold and write the smaller model.

    The model keeps its names, inputs, outputs and opset; MODEL itself is never changed. Patterns are those of the
    shell (*conv2*), matched against the names of nodes and of their outputs; `compress inspect` lists them.
    Gates are judged at the end: where one is missed, as where a latency is, the model is written all the same.
    """
    given = {"macs": target_flops, "params": target_params, "bytes": target_size, "latency": target_latency}
    targets = _targets(given, max_drop)
    destination = output or model.with_name(f"{model.stem}-pruned{model.suffix}")
    floats = destination.with_name(f"{destination.stem}-float{destination.suffix}") if int8 else destination
    for written in dict.fromkeys((destination, floats)):
        check_output(model, written, force, data.data, data.labels)
    known = (model, destination, floats, data.data, data.labels, checkpoint)
    check_apart(json_path, *known)
    gates.check_apart(*known, json_path)
    check_apart(page, *known, json_path, gates.junit, gates.markdown, option="--report")
    options = replace(how.settings(data, shapes, seed), max_drop=max_drop, checkpoint=checkpoint)

    from compress.api import prune
    from compress.conclusion import Conclusion, concluded, out_of_reach, verdicts_of
    from compress.gates import Figures, judged
    from compress.progress import on_terminal
    from compress.report import console, print_notes, print_report, report_json, write_json

    try:
        result = prune(model, targets, data.data, options, int8=int8, details=page is not None, progress=on_terminal)
    except Unreachable as error:
        conclusion = Conclusion("prune", str(model), out_of_reach(str(error)))
        return concluded(conclusion, gates.junit, gates.markdown)
    result.save(floats, overwrite=force)
    if int8:
        result = _quantised(result, destination, floats, force)
    report = result.report if int8 else result.written_to(destination).report
    after, outputs = report.shipped
    report = replace(report, gates=judged(gates.gates, Figures(report.before, after, outputs)))
    print_report(report, console())
    print_notes(report.notes)
    if json_path is not None:
        write_json(report_json(report), json_path)
    if page is not None and result.details is not None:
        from compress.html.page import made, write_page
        from compress.html.prune import page_of

        write_page(page_of(report, result.details, made(click.get_current_context().obj or ())), page)
    conclusion = Conclusion("prune", f"{model} → {destination}", verdicts_of(report), report.before, after)
    if conclusion.missed:
        print_notes([f"{destination} was written all the same"])
    return concluded(conclusion, gates.junit, gates.markdown)


def _quantised(result: "Result", destination: Path, floats: Path, force: bool) -> "Result":
    """Write the model on integers; the result then has both files on record. Raises ModelError where there is none."""
    from graph.errors import ModelError
    from graph.model import save

    if result.int8 is None:
        raise ModelError(f"{floats} was written, {destination} was not: {result.report.stages[-1].said}")
    save(result.int8, destination, overwrite=force)
    return replace(result, report=replace(result.report, output=str(destination), floats=str(floats)))


def _targets(given: dict[str, str | None], max_drop: float | None) -> tuple[Target, ...]:
    targets = tuple(parse_target(metric, text) for metric, text in given.items() if text is not None)
    if not targets and max_drop is None:
        raise TargetError(
            "give a target: --target-flops 0.5 (half of the MACs left), --target-params, --target-size, "
            "--target-latency, or several, or --max-drop 0.01"
        )
    return targets
