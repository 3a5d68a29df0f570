"""compress compare: how far the outputs of two models are apart, with gates by exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.commands.bench import DURATION_S, PATIENCE
from compress.errors import OptionError
from compress.gates import GATES
from compress.options import (
    DataOptions,
    GateOptions,
    check_apart,
    data_options,
    gate_options,
    json_option,
    metric_option,
    provider_option,
    report_option,
    seed_option,
    shape_option,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from rich.console import Console

    from calibrate.source import Source
    from compress.bench import Latency
    from compress.measure import Comparison
    from compress.measurement import Measurement


@click.command("compare")
@click.argument("original", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option("--scores", metavar="OUTPUT", help="The output that holds the class scores, where several could.")
@gate_options(*GATES)
@metric_option
@data_options
@threads_option
@provider_option
@shape_option
@seed_option
@json_option
@report_option
def command(
    data: DataOptions,
    gates: GateOptions,
    original: Path,
    other: Path,
    scores: str | None,
    metric: str | None,
    threads: int,
    provider: str,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
    page: Path | None,
) -> int:
    """Compare the outputs of two models; accuracy too if there are labels. Gates end with exit code 1 if missed.

    Models are timed only for --min-speedup, as compress bench does it, with --threads and --provider.
    """
    read = (original, other, data.data, data.labels)
    check_apart(json_path, *read)
    gates.check_apart(*read, json_path)
    check_apart(page, *read, json_path, gates.junit, gates.markdown, option="--report")
    if gates.junit is not None and not gates.gates:
        raise OptionError("--junit writes verdicts on gates: give at least one, such as --min-agreement 0.99")
    import numpy as np

    from compress.bench import instabilities, left_alone
    from compress.conclusion import Conclusion, concluded
    from compress.gates import Figures, judged
    from compress.measure import compare, in_figures, measure_size
    from compress.metric import load_metric
    from compress.report import console, print_gates, print_notes, with_version, write_json
    from graph.model import load

    measure = load_metric(metric)
    first, second = load(original), load(other)
    samples = data.open(first, shapes, seed)
    source = samples.source
    if measure is None and source.classes is None and any(gate.name == "max-drop" for gate in gates.gates):
        raise OptionError("--max-drop needs classes as labels in the data, or a --metric")
    sample = source.batch(np.arange(samples.batch or 1) % len(source))
    # first of all, since nobody has run the models here yet, and this does it within limits
    sizes = measure_size(first, original, sample), measure_size(second, other, sample)
    times = _timed((original, other), gates, sample, {"threads": threads, "provider": provider, "seed": seed})
    comparison = compare(first, second, source, scores=scores, metric=measure, batch=samples.batch)
    before, after = in_figures(sizes, comparison, times)
    verdicts = judged(gates.gates, Figures(before, after, comparison.outputs))
    timed = [latency for latency in times if latency is not None]
    notes = (*samples.notes, *left_alone(timed), *instabilities(timed))
    _show(console(), original, other, before, after, comparison, source)
    print_gates(verdicts, console())
    print_notes(notes)
    if json_path is not None:
        result = {"command": "compare", "original": original, "other": other, "data": source.description}
        measured = {"before": before, "after": after, "comparison": comparison, "gates": verdicts}
        write_json(with_version(result | measured | {"notes": notes}), json_path)
    if page is not None:
        from compress.details import details_of_two
        from compress.html.compare import page_of
        from compress.html.page import made, write_page

        details = details_of_two(first, second, source, comparison, samples.batch)
        models = (str(original), str(other))
        facts = {"data": source.description, "seed": str(seed)}
        arguments = click.get_current_context().obj or ()
        found = page_of(models, (before, after), comparison, details, verdicts, notes, made(arguments), facts)
        write_page(found, page)
    conclusion = Conclusion("compare", f"{original} → {other}", verdicts, before, after)
    return concluded(conclusion, gates.junit, gates.markdown)


def _timed(
    models: tuple[Path, Path], gates: GateOptions, feeds: "Mapping[str, np.ndarray]", how: dict[str, Any]
) -> "tuple[Latency | None, Latency | None]":
    """Return the latency of both, as `compress bench` measures it; Nones where no gate is about it."""
    if not any(gate.name == "min-speedup" for gate in gates.gates):
        return None, None
    from compress.bench import bench

    first, second = bench(models, duration_s=DURATION_S, longest_s=PATIENCE * DURATION_S, feeds=feeds, **how)
    return first, second


def _show(
    screen: "Console",
    original: Path,
    other: Path,
    before: "Measurement",
    after: "Measurement",
    comparison: "Comparison",
    source: "Source",
) -> None:
    from compress.report import measurement_table, percent, printable, table

    def say(line: str) -> None:
        screen.print(printable(line), soft_wrap=True)

    say(f"{original} → {other}, on {source.description}")
    screen.print(measurement_table(before, after))
    errors = table("output", "relative error")
    for output in comparison.outputs:
        error = output.relative_error
        errors.add_row(printable(output.name), output.reason if error is None else f"{error:.3g}")
    screen.print(errors)
    if comparison.scores is None:
        say("no single output holds class scores (one vector per sample): agreement is not known")
    else:
        say(f"agreement on {comparison.scores}: {percent(comparison.agreement or 0)} of {comparison.samples} samples")
        kl = comparison.kl_divergence
        say(
            "KL divergence of the softmax: " + ("NaN or infinite scores" if kl is None else f"{kl:.4g} nats per sample")
        )
