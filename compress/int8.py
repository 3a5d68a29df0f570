"""Models on integers beside the floats they are of: made, compared and timed like any other.

For `compress quantize` that is one model; for `compress prune --int8` two, the original and the pruned one.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrate.errors import DataError
from calibrate.range import range_warning
from calibrate.sources import split
from compress.bench import Latency
from compress.data import Data, Parts, Samples, open_as_told
from compress.figures import compared, compared_with_original, latencies, measured_on, sample
from compress.file_size import file_bytes
from compress.measure import NOT_FINITE, Comparison, OutputError, compare, in_figures, measure_size
from compress.measurement import Measurement
from compress.metric import load_metric
from compress.prepare import Examined
from compress.progress import Progress, Timed, silent
from compress.quantise import Int8, quantise
from compress.settings import Options
from graph.errors import LawError, ModelError
from graph.model import load, save

ORIGINAL, PRUNED = "original", "pruned"
INT8 = {ORIGINAL: "INT8", PRUNED: "pruned INT8"}  # what becomes of each
CALIBRATED = 0.8  # of the samples; the others are for the report
FAR = 0.5  # of a relative error: nothing much of the output is left
RARELY_AGREED = 0.5

_DEFAULTS = Options()


@dataclass(frozen=True)
class Stage:
    """One of the models of a run; `figures` are None where it could not be made, `said` is how it was, or why not."""

    name: str
    figures: Measurement | None
    outputs: tuple[OutputError, ...] = ()
    said: str = ""


@dataclass(frozen=True)
class Attempt:
    """What came of quantising one model: `made` is None where it failed, with the reason."""

    name: str
    floats: ir.Model
    made: Int8 | None
    reason: str = ""


@dataclass(frozen=True)
class QuantiseReport:
    """Everything that is said about quantising one model; the fields are those of `compress.report.Report`."""

    model: str
    output: str | None
    before: Measurement
    after: Measurement
    outputs: tuple[OutputError, ...]
    layers: int
    layers_on_integers: int
    reduced_range: bool
    said: str
    measured_on: str = ""
    used_for: str = ""
    data: str = ""
    notes: tuple[str, ...] = ()
    metric: str | None = None
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantised:
    """The model on integers, and the report with every figure."""

    model: ir.Model
    report: QuantiseReport

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the model; nothing half-written is left behind. Raises WriteError."""
        save(self.model, path, overwrite)

    def written_to(self, path: Path) -> "Quantised":
        """Return the result with the file it was written to on record."""
        return replace(self, report=replace(self.report, output=str(path)))


def quantize(
    model: str | Path | ir.Model,
    data: Any = None,
    options: Options = _DEFAULTS,
    *,
    latency: bool = True,
    progress: Progress = silent,
) -> Quantised:
    """Return an ONNX model on 8-bit integers, and measure what came of it.

    `data` is what `prune` takes; of the options those on data, metric, threads, provider and seed count. Raises
    ModelError for a model that cannot be quantised, DataError, or OptionError.
    """
    timed = Timed(progress)
    metric = load_metric(options.metric)
    with timed("open data", 1):
        original = model if isinstance(model, ir.Model) else load(model)
        samples = open_as_told(original, data, options)
        held, notes = _dealt(samples, options.seed)
        # first of all, since nobody has run the model here yet, and this does it within limits
        size = measure_size(original, None, held.few(1))
        if (warning := range_warning(original, held.source, held.batch)) is not None:
            notes += (warning,)
    with timed("quantise", 1):
        made = quantise(original, held.source, held.parts.fit, held.batch)
    with timed("measure", 1), tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save(original, files[0])
        save(made.model, files[1])
        given = files[0] if isinstance(model, ir.Model) else Path(model)
        sizes = (replace(size, file_bytes=file_bytes(given)), replace(size, file_bytes=file_bytes(files[1])))
        found, unlabelled = compared(original, made.model, held, metric)
        times, untimed = latencies(files, ("before", "after"), sample(held), options) if latency else ((None, None), ())
    before, after = in_figures(sizes, found, times)
    name = INT8[ORIGINAL]
    return Quantised(
        made.model,
        QuantiseReport(
            model=original.graph.name or "model" if isinstance(model, ir.Model) else str(model),
            output=None,
            before=before,
            after=after,
            outputs=found.outputs,
            layers=made.layers,
            layers_on_integers=made.on_integers,
            reduced_range=made.reduced,
            said=made.sentence(),
            measured_on=measured_on(held, found),
            used_for=_used_for(held),
            data=held.source.description,
            notes=(*notes, *unlabelled, *untimed, *astray(name, found), *_slower(name, before, after)),
            metric=None if metric is None else metric.name,
            seed=options.seed,
            seconds=timed.seconds,
        ),
    )


def attempted(original: ir.Model, pruned: ir.Model, data: Data, progress: Progress) -> tuple[Attempt, ...]:
    """Quantise both models of a run on the samples of the fit; where that fails the attempt says why."""
    attempts = []
    for name, floats in ((ORIGINAL, original), (PRUNED, pruned)):
        with progress(f"quantise the {name}", 1):
            try:
                made = quantise(floats, data.source, data.parts.fit, data.batch)
                attempts.append(Attempt(INT8[name], floats, made))
            except (ModelError, LawError) as error:
                attempts.append(Attempt(INT8[name], floats, None, str(error)))
    return tuple(attempts)


def written(attempts: Sequence[Attempt], folder: Path) -> dict[str, Path]:
    """Write the models that were made to a folder; returns the files by name."""
    files = {}
    for attempt in attempts:
        if attempt.made is not None:
            files[attempt.name] = folder / f"{attempt.name}.onnx"
            save(attempt.made.model, files[attempt.name])
    return files


def staged(
    floats: Sequence[tuple[Measurement, tuple[OutputError, ...]]],
    attempts: Sequence[Attempt],
    times: Mapping[str, Latency | None],
    files: Mapping[str, Path],
    examined: Examined,
) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    """Return all models of a run, floats first, and notes on those on integers; nothing where there are none.

    `floats` are the figures of the original and of the pruned model, `attempts` those made of either, whose `times`
    and `files` go by name.
    """
    if not attempts:
        return (), ()
    stages = [Stage(name, *figures) for name, figures in zip((ORIGINAL, PRUNED), floats, strict=True)]
    notes: list[str] = []
    for attempt, (before, _) in zip(attempts, floats, strict=True):
        if attempt.made is None:
            stages.append(Stage(attempt.name, None, (), attempt.reason))
            notes.append(f"{attempt.name} could not be made: {attempt.reason}")
            continue
        size = replace(before, file_bytes=file_bytes(files[attempt.name]))
        found, _ = compared_with_original(examined, attempt.made.model)
        _, after = in_figures((size, size), found, (None, times[attempt.name]))
        stages.append(Stage(attempt.name, after, found.outputs, attempt.made.sentence()))
        # how much integers lost is seen beside its own floats
        own = found if attempt.floats is examined.original else _own(attempt.floats, attempt.made.model, examined.data)
        notes += [*astray(attempt.name, own), *_slower(attempt.name, before, after)]
    return tuple(stages), (*notes, *_cut_in_vain(stages[2].figures, stages[3].figures))


def astray(name: str, found: Comparison) -> tuple[str, ...]:
    """Say it where a model on integers is far from its floats: it is no use then, whatever its size and time."""
    far = [
        f"{each.name}: " + (each.reason or f"relative error {each.relative_error:.2f}")
        for each in found.outputs
        if each.reason == NOT_FINITE or (each.relative_error or 0) > FAR
    ]
    if found.agreement is not None and found.agreement < RARELY_AGREED:
        far.append(f"they agree on {found.agreement:.3f} of the samples only")
    if not far:
        return ()
    return (
        f"{name} is FAR FROM its floats: {', '.join(far)}: this model does not bear 8 bits in this way, or --data and "
        "--preprocess are not what it sees in use",
    )


def _own(floats: ir.Model, made: ir.Model, data: Data) -> Comparison:
    source = replace(data.source, labels=None)
    return compare(floats, made, source, data.parts.reported, batch=data.batch)


def _cut_in_vain(original: Measurement | None, pruned: Measurement | None) -> tuple[str, ...]:
    """Say it where pruning gained no time on integers, whose kernels want round widths more than those on floats."""
    times = [None if each is None or each.latency_ms is None else each.latency_ms.ratio for each in (original, pruned)]
    if times[0] is None or times[1] is None or times[1].value < times[0].value:
        return ()
    ratio = times[1].value / times[0].value
    return (f"pruned INT8 is NOT FASTER than INT8 here: {ratio:.2f} times its latency; try --round-to 16",)


def _slower(name: str, before: Measurement, after: Measurement) -> tuple[str, ...]:
    """Say it where integers gained no time."""
    if before.latency_ms is None or after.latency_ms is None:
        return ()
    ratio = after.latency_ms.ratio.value / before.latency_ms.ratio.value
    if ratio < 1:
        return ()
    return (f"{name} is NOT FASTER on this machine: {ratio:.2f} times the latency of its floats",)


def _dealt(samples: Samples, seed: int) -> tuple[Data, tuple[str, ...]]:
    """Deal the samples out to calibration and report; where there are too few all serve for both."""
    source, size = samples.source, samples.batch or 1
    if len(source) < size:
        raise DataError(f"{source.description}: the model takes {size} samples at a time, {len(source)} are there")
    fit, report = (part[: len(part) // size * size] for part in split(len(source), (CALIBRATED, 1 - CALIBRATED), seed))
    notes = samples.notes
    if not len(fit) or not len(report):
        fit, report = np.arange(len(source) // size * size), fit[:0]
        notes += (f"with {len(source)} samples nothing could be kept apart: the report is on those of the ranges",)
    return Data(source, Parts(fit, fit[:0], report, fit[:0]), samples.batch), notes


def _used_for(data: Data) -> str:
    fit, report = len(data.parts.fit), len(data.parts.report)
    if not report:
        return f"all {fit} samples served for everything"
    return f"of {fit + report} samples {fit} served for the ranges, {report} for this report"
