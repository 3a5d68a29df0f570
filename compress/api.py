"""The Python interface: `compress.prune(model, target, data, …) → Result`, the same job as the command line's."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.bench import bench
from compress.measure import compare, measure_size
from compress.measurement import Measurement
from compress.pipeline import Options, Pruned, metric_of, prune_model
from compress.progress import Progress, silent
from compress.report import Asked, Report, Width
from compress.targets import Target, parse_target
from graph.model import load, save
from graph.plan import Plan

__all__ = ["LATENCY_SECONDS", "Options", "Result", "prune"]

LATENCY_SECONDS = 4.0
_DEFAULTS = Options()


@dataclass(frozen=True)
class Result:
    """The pruned model, the plan that made it, and the report with every figure."""

    model: ir.Model
    plan: Plan
    report: Report

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the model; nothing half-written is left behind. Raises ModelError."""
        save(self.model, path, overwrite)

    def written_to(self, path: Path) -> "Result":
        """Return the result with the file it was written to on record."""
        return replace(self, report=replace(self.report, output=str(path)))


def prune(
    model: str | Path | ir.Model,
    target: Target | float | str = 0.5,
    data: Any = None,
    options: Options = _DEFAULTS,
    *,
    latency: bool = True,
    threads: int = 1,
    progress: Progress = silent,
) -> Result:
    """Prune an ONNX model to a target and measure what came of it.

    `target` is a share of the MACs (0.5, "50%"), a count ("60M"), or a `Target`; `data` a folder of images, an
    .npz/.npy file, "module:function", arrays by input name, or None for generated images. `latency` False leaves the
    timing out. Raises ModelError, DataError, TargetError, Unreachable or LawError, each with one sentence.
    """
    target = target if isinstance(target, Target) else parse_target("macs", target)
    name = str(model) if isinstance(model, (str, Path)) else model.graph.name or "model"
    original = load(model) if isinstance(model, (str, Path)) else model
    pruned = prune_model(original, target, data, options, progress)
    with progress("measure", 1), tempfile.TemporaryDirectory(prefix="compress-") as folder:
        before, after, notes = _measure(original, pruned, Path(folder), latency, threads, options)
    widths = tuple(Width(group, *pair) for group, pair in pruned.widths.items())
    reached = metric_of(pruned.count, target.metric)
    limit = target.budget(metric_of(pruned.analysis.original, target.metric))
    report = Report(
        model=name,
        output=None,
        before=before,
        after=after,
        targets=(Asked(target.metric, limit, reached, reached <= limit),),
        widths=widths,
        frozen=pruned.analysis.channels.frozen,
        notes=pruned.notes + notes,
        data=pruned.source.description,
        samples=_samples(pruned),
        uncounted=pruned.count.uncounted,
        law=pruned.law,
        repairs=pruned.repairs,
        seed=options.seed,
        seconds=pruned.seconds,
    )
    return Result(pruned.model, pruned.plan, report)


def _samples(pruned: Pruned) -> Mapping[str, int]:
    return dict(zip(("fit", "search", "report"), map(len, pruned.parts), strict=True))


def _measure(
    original: ir.Model, pruned: Pruned, folder: Path, latency: bool, threads: int, options: Options
) -> tuple[Measurement, Measurement, tuple[str, ...]]:
    """Return both measurements; the images are those kept apart for the report."""
    paths = folder / "before.onnx", folder / "after.onnx"
    save(original, paths[0])
    save(pruned.model, paths[1])
    before, after = measure_size(original, paths[0]), measure_size(pruned.model, paths[1])
    indices = pruned.parts[2] if len(pruned.parts[2]) else pruned.parts[0]
    compared = compare(original, pruned.model, pruned.source, indices)
    times = bench(paths, threads=threads, duration_s=LATENCY_SECONDS, seed=options.seed) if latency else (None, None)
    kind = "generated samples" if pruned.source.generated else "samples"
    notes = [f"agreement and errors are on {compared.samples} {kind} that took no part in fit or search"]
    if not len(pruned.parts[2]):
        notes = [f"agreement and errors are on the {compared.samples} {kind} of the fit"]
    errors = [o for o in compared.outputs if o.relative_error is not None]
    if compared.agreement is None and errors:
        worst = max(errors, key=lambda o: o.relative_error or 0.0)
        notes.append(f"largest relative error of an output: {worst.relative_error:.3f} ({worst.name})")
    agreement = (None, None) if compared.agreement is None else (1.0, compared.agreement)
    return (
        _with(before, times[0], agreement[0], compared.top1_original),
        _with(after, times[1], agreement[1], compared.top1_other),
        tuple(notes),
    )


def _with(measurement: Measurement, latency: Any, agreement: float | None, top1: float | None) -> Measurement:
    return Measurement(measurement.params, measurement.macs, measurement.file_bytes, latency, agreement, top1)
