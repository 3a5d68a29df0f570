"""The Python interface: `compress.prune(model, target, data, …) → Result`, the same job as the command line's."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from compress.bench import Latency, bench, instabilities
from compress.errors import OptionError
from compress.measure import Comparison, compare, measure_size
from compress.measurement import Measurement
from compress.pipeline import Options, Pruned, metric_of, prune_model
from compress.progress import Progress, silent
from compress.report import Asked, Report, Width
from compress.targets import Target, parse_target
from graph.errors import ModelError
from graph.interface import check_interface
from graph.model import load, save
from graph.plan import Plan

__all__ = ["LATENCY_SECONDS", "Options", "Result", "prune"]

LATENCY_SECONDS = 4.0
_DEFAULTS = Options()

_Timed = tuple[tuple[Latency | None, Latency | None], tuple[str, ...]]  # before and after; notes
_NOT_TIMED: _Timed = ((None, None), ())


@dataclass(frozen=True)
class Result:
    """The pruned model, the plan that made it, and the report with every figure."""

    model: ir.Model
    plan: Plan
    report: Report

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the model; nothing half-written is left behind. Raises WriteError."""
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
    timing out. Raises ModelError, DataError, TargetError, Unreachable or LawError, and OptionError for a device that is
    not there, each with one sentence.
    """
    target = target if isinstance(target, Target) else parse_target("macs", target)
    _check_device(options.device)
    path = None if isinstance(model, ir.Model) else Path(model)
    original = model if isinstance(model, ir.Model) else load(model)
    pruned = prune_model(original, target, data, options, progress)
    check_interface(original, pruned.model)
    with progress("measure", 1), tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save(original, files[0])
        save(pruned.model, files[1])
        one = pruned.data.few(1)
        sizes = measure_size(original, path or files[0], one), measure_size(pruned.model, files[1], one)
        compared, notes = _compared(original, pruned)
        times, untimed = _latencies(files, _sample(pruned), threads, options.seed) if latency else _NOT_TIMED
    widths = tuple(Width(group, *pair) for group, pair in pruned.widths.items())
    reached = metric_of(pruned.count, target.metric)
    limit = target.budget(metric_of(pruned.analysis.original, target.metric))
    itself = None if compared.agreement is None else 1.0
    report = Report(
        model=str(path) if path else original.graph.name or "model",
        output=None,
        before=_measurement(sizes[0], times[0], itself, compared.top1_original),
        after=_measurement(sizes[1], times[1], compared.agreement, compared.top1_other),
        targets=(Asked(target.metric, limit, reached, reached <= limit),),
        widths=widths,
        frozen=pruned.analysis.channels.frozen,
        measured_on=_measured_on(pruned, compared),
        notes=pruned.notes + notes + untimed + _slower(times[1]),
        data=pruned.data.source.description,
        samples=_samples(pruned),
        uncounted=pruned.count.uncounted,
        law=pruned.law,
        repairs=pruned.repairs,
        seed=options.seed,
        seconds=pruned.seconds,
    )
    return Result(pruned.model, pruned.plan, report)


def _slower(latency: Latency | None) -> tuple[str, ...]:
    """Say it where the result gained no time: widths that the runtime's kernels do not like may be the reason."""
    if latency is None or latency.ratio.value < 1:
        return ()
    return (
        f"not faster on this machine: {latency.ratio.value:.2f} times the original's latency; ONNX Runtime's kernels "
        "want round widths: try --round-to 4, 8 or 16",
    )


def _check_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device {device}: torch {torch.__version__} finds no CUDA device here: take cpu")


def _samples(pruned: Pruned) -> Mapping[str, int]:
    return dict(zip(("fit", "search", "report"), map(len, pruned.data.parts), strict=True))


def _indices(pruned: Pruned) -> np.ndarray:
    """Return the samples that the report is on: those kept apart for it, or those of the fit where there are none."""
    fit, _, report = pruned.data.parts
    return report if len(report) else fit


def _compared(original: ir.Model, pruned: Pruned) -> tuple[Comparison, tuple[str, ...]]:
    """Compare both models; labels that are none of the classes cost top-1 and a note, not the result."""
    try:
        return compare(original, pruned.model, pruned.data.source, _indices(pruned), batch=pruned.data.batch), ()
    except OptionError as error:
        unlabelled = replace(pruned.data.source, labels=None)
        compared = compare(original, pruned.model, unlabelled, _indices(pruned), batch=pruned.data.batch)
        return compared, (f"top-1 was not measured: {error}",)


def _sample(pruned: Pruned) -> Mapping[str, np.ndarray]:
    """Return one real sample, or as many as the model insists on: it may not run on numbers that are made up."""
    return pruned.data.source.batch(_indices(pruned)[: pruned.data.batch or 1])


def _latencies(files: tuple[Path, Path], feeds: Mapping[str, np.ndarray], threads: int, seed: int) -> _Timed:
    """Return the times of both files; where they cannot be had, Nones and a note, for the model is made by then."""
    try:
        before, after = bench(files, threads=threads, duration_s=LATENCY_SECONDS, feeds=feeds, seed=seed)
        named = replace(before, model="before"), replace(after, model="after")
        return named, instabilities(named)
    except ModelError as error:
        return (None, None), (f"latency was not measured: {str(error).replace(f'{files[0].parent}{os.sep}', '')}",)


def _measured_on(pruned: Pruned, compared: Comparison) -> str:
    generated, count = pruned.data.source.generated, compared.samples
    kind = ("generated " if generated else "") + ("sample" if count == 1 else "samples")
    apart = "kept apart from fit and search" if len(pruned.data.parts[2]) else "of the fit: nothing could be kept apart"
    figures = "relative errors" if compared.agreement is None else "agreement"
    figures += "" if compared.top1_other is None else " and top-1"
    sentence = f"{figures} measured on {count} {kind} {apart}"
    if compared.top1_other is not None:
        sentence += "; where the data are training images, top-1 is higher than it would be on a test set"
    errors = {output.name: output.relative_error for output in compared.outputs if output.relative_error is not None}
    if compared.agreement is None and errors:
        worst = max(errors, key=errors.__getitem__)
        sentence += f"; the largest relative error of an output is {errors[worst]:.3f} ({worst})"
    return sentence


def _measurement(
    size: Measurement, latency: Latency | None, agreement: float | None, top1: float | None
) -> Measurement:
    return replace(size, latency_ms=latency, agreement=agreement, top1=top1)
