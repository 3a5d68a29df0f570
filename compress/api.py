"""The Python interface: `compress.prune(model, target, data, …) → Result`, the same job as the command line's."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.bench import Latency
from compress.cut import Pruned, Reached
from compress.details import Details, details_of
from compress.drop import Drop, fall
from compress.figures import (
    compared_with_original,
    latencies,
    measured_on,
    model_name,
    sample,
    samples_by_use,
    used_for,
)
from compress.gates import SLACK
from compress.int8 import Attempt, Stage, attempted, staged, written
from compress.measure import Comparison, in_figures, measure_size
from compress.measurement import Measurement
from compress.pipeline import Goal, prune_model
from compress.progress import Progress, silent
from compress.report import Asked, Report, Width
from compress.settings import Options
from graph.interface import check_interface
from graph.model import save
from graph.plan import Plan

__all__ = ["Options", "Result", "prune"]

_DEFAULTS = Options()


@dataclass(frozen=True)
class Result:
    """The pruned model, the plan that made it, the report with every figure, and the details where they were wanted.

    `int8` is the pruned model on integers, where that was asked for and could be made.
    """

    model: ir.Model
    plan: Plan
    report: Report
    details: Details | None = None
    int8: ir.Model | None = None

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the model; nothing half-written is left behind. Raises WriteError."""
        save(self.model, path, overwrite)

    def written_to(self, path: Path) -> "Result":
        """Return the result with the file it was written to on record."""
        return replace(self, report=replace(self.report, output=str(path)))


def prune(
    model: str | Path | ir.Model,
    target: Goal = None,
    data: Any = None,
    options: Options = _DEFAULTS,
    *,
    latency: bool = True,
    details: bool = False,
    int8: bool = False,
    progress: Progress = silent,
) -> Result:
    """Prune an ONNX model to a target and measure what came of it.

    `target` is a share of the MACs (0.5, "50%"), a count ("60M"), a `Target` or several, which must all hold; without
    one half of the MACs are left, or, with `options.max_drop`, as few as that allows. `data` is a folder of images, an
    .npz/.npy file, "module:function", arrays by input name, or None for generated images. `latency` False leaves the
    timing out, `details` takes a closer look at both models, for a page (see `compress.html`). With `int8` both are
    quantised too, on the samples of the fit, and measured (see `Report.stages`); targets are of the pruned floats.
    Raises ModelError, DataError, TargetError, Unreachable or LawError, and OptionError for an option that cannot be
    used, each with one sentence.
    """
    pruned = prune_model(model, target, data, options, progress)
    examined = pruned.prepared.examined
    check_interface(examined.original, pruned.model)
    attempts = attempted(examined.original, pruned.model, examined.data, progress) if int8 else ()
    with progress("measure", 1):
        measured = _measured(pruned, attempts, latency)
    made = attempts[-1].made if attempts else None
    quantised = None if made is None else made.model
    result = Result(pruned.model, pruned.plan, _report(pruned, measured), int8=quantised)
    if not details:
        return result
    with progress("details", 1):
        shipped = quantised or pruned.model
        return replace(result, details=details_of(pruned, shipped, measured.compared.scores))


@dataclass(frozen=True)
class _Measured:
    """What was measured of the pruned model beside its original, and of both on integers where that was wanted."""

    before: Measurement
    after: Measurement
    compared: Comparison
    closed_form: Measurement | None
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


def _measured(pruned: Pruned, attempts: Sequence[Attempt], latency: bool) -> _Measured:
    examined = pruned.prepared.examined
    original, path, held = examined.original, examined.path, examined.data
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save(original, files[0])
        save(pruned.model, files[1])
        on_integers = written(attempts, Path(folder))
        one = held.few(1)
        sizes = measure_size(original, path or files[0], one), measure_size(pruned.model, files[1], one)
        compared, notes = compared_with_original(examined, pruned.model)
        closed_form = _closed_form(pruned)
        timed = {"before": files[0], "after": files[1]} | on_integers
        times: tuple[Latency | None, ...] = (None,) * len(timed)
        if latency:
            times, untimed = latencies(tuple(timed.values()), tuple(timed), sample(held), examined.options)
            notes += untimed
        before, after = in_figures(sizes, compared, times)
        floats = ((before, ()), (after, compared.outputs))
        stages, astray = staged(floats, attempts, dict(zip(timed, times, strict=True)), on_integers, examined)
    said = (*notes, *astray, *slower(times[1]), *_lucky(pruned.drop, compared))
    return _Measured(before, after, compared, closed_form, stages, said)


def _report(pruned: Pruned, measured: _Measured) -> Report:
    examined = pruned.prepared.examined
    options, held = examined.options, examined.data
    return Report(
        model=model_name(examined),
        output=None,
        before=measured.before,
        after=measured.after,
        outputs=measured.compared.outputs,
        stages=measured.stages,
        targets=asked(pruned, measured.after.latency_ms),
        widths=tuple(Width(group, *pair) for group, pair in pruned.widths.items()),
        frozen=pruned.analysis.channels.frozen,
        measured_on=measured_on(held, measured.compared),
        used_for=used_for(held),
        notes=pruned.notes + measured.notes,
        data=held.source.description,
        samples=samples_by_use(held),
        uncounted=pruned.count.uncounted,
        criterion=options.criterion,
        search=options.search,
        compensation=options.compensation,
        metric=None if examined.metric is None else examined.metric.name,
        drop=pruned.drop,
        refinement=pruned.refinement,
        closed_form=measured.closed_form,
        law=pruned.law,
        repairs=pruned.repairs,
        seed=options.seed,
        seconds=pruned.seconds,
    )


def asked(pruned: Pruned, timed: Latency | None = None) -> tuple[Asked, ...]:
    """Return the targets and what came of them; of a latency on this machine, what was timed last and longest."""

    def one(reached: Reached) -> Asked:
        limit = reached.limit
        if limit.metric != "latency" or timed is None or pruned.prepared.examined.clock is None:
            return Asked(limit.metric, limit.limit, reached.figure, reached.within)
        found, least = (share * limit.original for share in (timed.ratio.value, timed.ratio.low))
        return Asked(limit.metric, limit.limit, found, least <= limit.limit)

    return tuple(map(one, pruned.reached))


def _closed_form(pruned: Pruned) -> Measurement | None:
    """Return what the model was worth before it was refined."""
    if pruned.closed_form is None:
        return None
    compared, _ = compared_with_original(pruned.prepared.examined, pruned.closed_form)
    return in_figures((Measurement(), Measurement()), compared, (None, None))[1]


def _lucky(drop: Drop | None, compared: Comparison) -> tuple[str, ...]:
    """Say it where the report's samples see more of a drop than those that it was judged on."""
    if drop is None or (lost := fall(compared)[1]) <= drop.max_drop + SLACK:
        return ()
    return (
        f"on the report's own {compared.samples} samples the drop is {lost:.4f}, more than {drop.max_drop:g}: several "
        "models were tried, and one may pass by luck; more --samples judge it finer",
    )


def slower(latency: Latency | None) -> tuple[str, ...]:
    """Say it where the result gained no time: widths that the runtime's kernels do not like may be the reason."""
    if latency is None or latency.ratio.value < 1:
        return ()
    return (
        f"NOT FASTER on this machine: {latency.ratio.value:.2f} times the original's latency; ONNX Runtime's kernels "
        "want round widths: try --round-to auto, or --target-latency",
    )
