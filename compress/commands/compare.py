"""compress compare: how far the outputs of two models are apart, with gates by exit code."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.errors import OptionError
from compress.options import (
    DataOptions,
    check_apart,
    data_options,
    json_option,
    metric_option,
    seed_option,
    shape_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from calibrate.source import Source
    from compress.measure import Comparison
    from compress.measurement import Measurement

share = click.FloatRange(0, 1)


@click.command("compare")
@click.argument("original", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option("--scores", metavar="OUTPUT", help="The output that holds the class scores, where several could.")
@click.option("--min-agreement", type=share, metavar="SHARE", help="Exit with 1 if top-1 agrees on less than this.")
@click.option(
    "--max-drop",
    type=share,
    metavar="SHARE",
    help="Exit with 1 if top-1, or the --metric, falls by more (0.01 = 1 point).",
)
@metric_option
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    original: Path,
    other: Path,
    scores: str | None,
    min_agreement: float | None,
    max_drop: float | None,
    metric: str | None,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> None:
    """Compare the outputs of two models; accuracy too if there are labels."""
    check_apart(json_path, original, other, data.data, data.labels)
    import numpy as np

    from compress.measure import compare, in_figures, measure_size
    from compress.metric import load_metric
    from compress.report import console, print_notes, with_version, write_json
    from graph.model import load

    measure = load_metric(metric)
    first, second = load(original), load(other)
    samples = data.open(first, shapes, seed)
    source = samples.source
    sample = source.batch(np.arange(samples.batch or 1) % len(source))
    # first of all, since nobody has run the models here yet, and this does it within limits
    sizes = measure_size(first, original, sample), measure_size(second, other, sample)
    comparison = compare(first, second, source, scores=scores, metric=measure, batch=samples.batch)
    missed = _missed(comparison, min_agreement, max_drop)
    before, after = in_figures(sizes, comparison, (None, None))
    _show(console(), original, other, before, after, comparison, source)
    print_notes(samples.notes)
    for line in missed:
        click.echo(f"compress: gate missed: {line}", err=True)
    if json_path is not None:
        result = {"command": "compare", "original": original, "other": other, "data": source.description}
        measured = {"before": before, "after": after, "comparison": comparison, "gates_missed": missed}
        write_json(with_version(result | measured | {"notes": samples.notes}), json_path)
    if missed:
        click.get_current_context().exit(1)


def _missed(comparison: "Comparison", min_agreement: float | None, max_drop: float | None) -> list[str]:
    """Return a sentence for each gate that is missed; OptionError for one that cannot be judged."""
    missed = []
    if min_agreement is not None:
        if comparison.agreement is None:
            raise OptionError("--min-agreement needs one output with class scores: name it by --scores")
        if comparison.agreement < min_agreement:
            missed.append(f"agreement {comparison.agreement:.4f} is below {min_agreement:g}")
    if max_drop is not None:
        judged, before, after = "top-1", comparison.top1_original, comparison.top1_other
        if comparison.metric_original is not None:
            judged, before, after = "the metric", comparison.metric_original, comparison.metric_other
        if before is None or after is None:
            raise OptionError(
                "--max-drop needs labels in the data and one output with class scores (--scores), or a --metric"
            )
        if before - after > max_drop + 1e-12:  # 0.93 - 0.92 > 0.01 in floating point
            missed.append(f"{judged} fell by {before - after:.4f}, more than {max_drop:g}")
    return missed


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
