"""How far can one go: a model calibrated once and cut at many budgets, each measured as `compress prune` would."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.bench import Latency
from compress.cut import cut as cut_at
from compress.errors import OptionError
from compress.figures import (
    compared_with_original,
    latencies,
    measured_on,
    model_name,
    sample,
    samples_by_use,
    used_for,
)
from compress.goal import Limit
from compress.measure import Comparison, in_figures, measure_size
from compress.measurement import Measurement
from compress.pipeline import targets_of
from compress.prepare import Examined, Prepared, examine, prepare
from compress.progress import Progress, Timed, silent
from compress.settings import Options
from compress.targets import Target, Unreachable, kept_as
from graph.interface import check_interface
from graph.model import save

_DEFAULTS = Options()


@dataclass(frozen=True)
class Row:
    """One budget: what came of it, the file where it was kept, or why it was not reached."""

    target: str
    share: float
    after: Measurement | None = None
    output: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """The original, a row for each budget from the largest to the smallest, and how they were measured."""

    model: str
    before: Measurement
    rows: tuple[Row, ...]
    measured_on: str = ""
    used_for: str = ""
    data: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    criterion: str = "cap"
    search: str = "lagrange"
    compensation: str = "asymmetric"
    metric: str | None = None
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Cut:
    """One budget before latency is known."""

    row: Row
    file: Path | None = None
    compared: Comparison | None = None
    notes: tuple[str, ...] = ()


def sweep(
    model: str | Path | ir.Model,
    targets: Sequence[Target | float | str],
    data: Any = None,
    options: Options = _DEFAULTS,
    *,
    latency: bool = True,
    output_dir: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Sweep:
    """Cut a model at each of several targets (shares of MACs, counts, or `Target`s) after one calibration.

    The models are kept in `output_dir`, where that is given, as NAME-TARGET.onnx. Raises what `prune` raises, but
    a target out of reach is a row that says so; Unreachable only where all are.
    """
    if options.max_drop is not None or options.checkpoint is not None:
        raise OptionError("a sweep has budgets: neither --max-drop nor a checkpoint goes with it")
    timed = Timed(progress)
    wanted = tuple(dict.fromkeys(target for each in targets for target in targets_of(each, options)))
    examined = examine(model, data, options, timed)
    limits = sorted(map(examined.limit, wanted), key=lambda limit: (limit.metric, -limit.limit))
    if all(reasons := [examined.out_of_reach(limit) for limit in limits]):
        raise Unreachable(reasons[0] if reasons else "no target was given")
    prepared = prepare(examined, timed)
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        kept = output_dir or Path(folder)
        with timed("budgets", len(limits)) as advance:
            cuts = [_cut(prepared, limit, kept, overwrite, advance) for limit in limits]
        original = Path(folder) / "original" / "model.onnx"
        original.parent.mkdir()
        save(examined.original, original)
        before = measure_size(examined.original, examined.path or original, examined.data.few(1))
        with timed("measure", 1):
            times, untimed = _times(examined, original, cuts) if latency else ([None] * (1 + len(cuts)), ())
    compared = next(cut.compared for cut in cuts if cut.compared is not None)
    return Sweep(
        model=model_name(examined),
        before=in_figures((before, before), compared, (times[0], None))[0],
        rows=tuple(_row(cut, time, output_dir) for cut, time in zip(cuts, times[1:], strict=True)),
        measured_on=measured_on(examined.data, compared, worst=False),
        used_for=used_for(examined.data),
        data=examined.data.source.description,
        samples=samples_by_use(examined.data),
        notes=tuple(dict.fromkeys((*prepared.notes, *(note for cut in cuts for note in cut.notes), *untimed))),
        criterion=options.criterion,
        search=options.search,
        compensation=options.compensation,
        metric=None if examined.metric is None else examined.metric.name,
        seed=options.seed,
        seconds=timed.seconds,
    )


def _cut(prepared: Prepared, limit: Limit, folder: Path, overwrite: bool, advance: Callable[[], None]) -> _Cut:
    """Cut and measure at one limit; what is out of reach has a reason instead."""
    examined = prepared.examined
    row = Row(limit.target.short, limit.limit / limit.original)
    try:
        if reason := examined.out_of_reach(limit):
            raise Unreachable(reason)
        pruned = cut_at(prepared, (limit,), Timed(silent))
    except Unreachable as error:
        return _Cut(replace(row, reason=str(error)))
    finally:
        advance()
    check_interface(examined.original, pruned.model)
    file = folder / kept_as(Path(model_name(examined)).stem, limit.target)
    save(pruned.model, file, overwrite)
    size = measure_size(pruned.model, file, examined.data.few(1))
    compared, notes = compared_with_original(examined, pruned.model)
    after = in_figures((size, size), compared, (None, None))[1]
    own = tuple(f"{row.target}: {note}" for note in pruned.notes[len(prepared.notes) :])
    return _Cut(replace(row, after=after), file, compared, own + notes)


def _times(examined: Examined, original: Path, cuts: Sequence[_Cut]) -> tuple[list[Latency | None], tuple[str, ...]]:
    """Return the latency of the original and of each budget that was reached, all timed in turn."""
    made = [cut for cut in cuts if cut.file is not None]
    files = [original, *(cut.file for cut in made if cut.file is not None)]
    names = ["original", *(cut.row.target for cut in made)]
    times, notes = latencies(files, names, sample(examined.data), examined.options)
    left = iter(times)
    return [next(left), *(None if cut.file is None else next(left) for cut in cuts)], notes


def _row(cut: _Cut, latency: Latency | None, output_dir: Path | None) -> Row:
    if cut.row.after is None:
        return cut.row
    output = str(cut.file) if output_dir is not None else None
    return replace(cut.row, after=replace(cut.row.after, latency_ms=latency), output=output)
