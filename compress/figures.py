"""What a pruned model is worth: its outputs, its size and its time beside the original's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.bench import Latency, bench, instabilities
from compress.data import Data
from compress.errors import OptionError
from compress.measure import Comparison, compare, largest_error
from compress.metric import Metric
from compress.prepare import Examined
from compress.settings import Options
from graph.errors import ModelError

LATENCY_SECONDS = 2.0  # for each model


def model_name(examined: Examined) -> str:
    """Return what the report calls the model."""
    return str(examined.path) if examined.path is not None else examined.original.graph.name or "model"


def compared_with_original(examined: Examined, model: ir.Model) -> tuple[Comparison, tuple[str, ...]]:
    """Compare on the report's samples; labels that are none of the classes cost top-1 and a note, not the result."""
    return compared(examined.original, model, examined.data, examined.metric)


def compared(
    original: ir.Model, model: ir.Model, data: Data, metric: Metric | None
) -> tuple[Comparison, tuple[str, ...]]:
    """Compare two models on the report's samples, as `compared_with_original`."""
    source, rows = data.source, data.parts.reported
    try:
        return compare(original, model, source, rows, metric=metric, batch=data.batch), ()
    except OptionError as error:
        if source.labels is None or metric is not None:  # whose function takes any labels: the fault is there
            raise
        unlabelled = replace(source, labels=None)
        found = compare(original, model, unlabelled, rows, metric=metric, batch=data.batch)
        return found, (f"top-1 was not measured: {error}",)


def sample(data: Data) -> Mapping[str, np.ndarray]:
    """Return one real sample, or as many as the model insists on: it may not run on numbers that are made up."""
    return data.source.batch(data.parts.reported[: data.batch or 1])


def latencies(
    files: Sequence[Path], names: Sequence[str], feeds: Mapping[str, np.ndarray], options: Options
) -> tuple[tuple[Latency | None, ...], tuple[str, ...]]:
    """Time the files in turn; where that cannot be, return Nones and a note, for the models are made by then."""
    try:
        found = bench(
            files,
            threads=options.threads,
            provider=options.provider,
            duration_s=LATENCY_SECONDS * len(files),
            feeds=feeds,
            seed=options.seed,
        )
    except ModelError as error:
        reason = str(error).replace(f"{files[0].parent}{os.sep}", "")
        return (None,) * len(files), (f"latency was not measured: {reason}",)
    named = tuple(replace(latency, model=name) for latency, name in zip(found, names, strict=True))
    return named, instabilities(named)


def measured_on(data: Data, compared: Comparison, *, worst: bool = True) -> str:
    """Say on what agreement, errors and top-1 were measured, and with `worst` which output's error is largest."""
    generated, count = data.source.generated, compared.samples
    kind = ("generated " if generated else "") + ("sample" if count == 1 else "samples")
    apart = len(data.parts.report) > 0
    where = "kept apart from fit and search" if apart else "of the fit: nothing could be kept apart"
    figures = ["relative errors" if compared.agreement is None else "agreement"]
    figures += [] if compared.top1_other is None else ["top-1"]
    figures += [] if compared.metric_other is None else ["the metric"]
    sentence = f"{' and '.join(figures)} measured on {count} {kind} {where}"
    if compared.top1_other is not None:
        sentence += "; where the data are training images, top-1 is higher than it would be on a test set"
    error, name = largest_error(compared)
    if worst and compared.agreement is None and error is not None:
        sentence += f"; the largest relative error of an output is {error:.3f} ({name})"
    return sentence


def used_for(data: Data) -> str:
    """Say which samples served for what."""
    parts = data.parts
    if not len(parts.report):
        return f"all {len(parts.fit)} samples served for everything"
    judged = f"{len(parts.drop)} to judge the drop, " if len(parts.drop) else ""
    return (
        f"of {sum(map(len, parts))} samples {len(parts.fit)} served for the fit, {len(parts.search)} for the search, "
        f"{judged}{len(parts.report)} for this report; none for two of them"
    )


def samples_by_use(data: Data) -> dict[str, int]:
    """Return how many samples served for what; those of a drop only where there is one."""
    counts = {name: len(part) for name, part in data.parts._asdict().items()}
    return {name: n for name, n in counts.items() if n or name != "drop"}
