"""What a model is and does, in figures: `Measurement`; and how far two models' outputs are apart, `Comparison`.

Both run in ONNX Runtime over a source, batch by batch, and only sums are kept: memory does not grow with the
number of images. For an output, with a of the original and b of the other model, over all samples:

    relative error = √(Σ (a − b)² ÷ Σ a²)          agreement = share of samples with argmax a = argmax b
    KL divergence  = mean over samples of Σ p·(log p − log q),  p = softmax a,  q = softmax b, in nats

The last two are of the output that holds class scores: one vector of 2 values or more per sample.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from calibrate.source import Source, chunked
from compress.classes import no_classes, right_answers, score_output, top_class
from compress.errors import OptionError
from compress.file_size import file_bytes
from compress.measurement import Measurement
from compress.metric import Collected, Metric
from graph.count import count
from graph.errors import ModelError
from graph.inputs import fixed_batch, input_specs
from graph.model import load
from graph.runtime import run, session
from graph.standard import standardise
from graph.trace import trace

if TYPE_CHECKING:
    from compress.bench import Latency

BATCH = 32
BATCH_BYTES = 2**25  # of the inputs that run at a time; activations take some ten times as much
NOT_FINITE = "NaN or infinite values"

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class OutputError:
    """The relative error of one output over all samples; None where it cannot be had, with the reason."""

    name: str
    relative_error: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """How far another model is from the original over `samples` samples.

    `scores` names the output that was taken for class scores; without one, agreement, divergence and top-1 are None.
    The two top-1 are known only with labels, the divergence only where all scores are finite; the metric is the
    user's own.
    """

    samples: int
    outputs: tuple[OutputError, ...]
    scores: str | None = None
    agreement: float | None = None
    kl_divergence: float | None = None
    top1_original: float | None = None
    top1_other: float | None = None
    metric_original: float | None = None
    metric_other: float | None = None


def measure_size(
    model: ir.Model, path: Path | None = None, feeds: Mapping[str, np.ndarray] | None = None
) -> Measurement:
    """Return parameters and MACs of a model, and the bytes of its file with the external data beside it.

    `feeds` is one sample (or as many as the model insists on), whose sizes decide the MACs; made up where absent.
    """
    standard, _ = standardise(model)
    counted = count(standard, trace(standard, feeds))
    return Measurement(counted.params, counted.macs, None if path is None else file_bytes(path))


def in_figures(
    sizes: tuple[Measurement, Measurement], compared: Comparison, times: "Sequence[Latency | None]"
) -> tuple[Measurement, Measurement]:
    """Return the measurements of the original and of the pruned model, with all that was measured of their outputs."""
    before, after = sizes
    error, _ = largest_error(compared)
    itself = None if compared.agreement is None else 1.0
    return (
        replace(
            before,
            latency_ms=times[0],
            agreement=itself,
            relative_error=None if error is None else 0.0,
            top1=compared.top1_original,
            metric=compared.metric_original,
        ),
        replace(
            after,
            latency_ms=times[1],
            agreement=compared.agreement,
            top1=compared.top1_other,
            metric=compared.metric_other,
            relative_error=error,
        ),
    )


def largest_error(compared: Comparison) -> tuple[float | None, str]:
    """Return the largest relative error of an output, and which output that is."""
    errors = [(each.relative_error, each.name) for each in compared.outputs if each.relative_error is not None]
    return max(errors, default=(None, ""), key=lambda entry: entry[0] or 0.0)


class Runner:
    """A model in ONNX Runtime that takes samples of a source in batches of the size that it wants."""

    def __init__(self, model: ir.Model | Path, *, batch: int = BATCH, threads: int = 0) -> None:
        """Open a session; a model with a fixed batch size overrules `batch`. Raises ModelError."""
        opened = load(model) if isinstance(model, Path) else model
        self._session = session(opened, threads=threads)
        self.fixed = fixed_batch(input_specs(opened))
        self.batch = self.fixed or batch
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, source: Source, indices: np.ndarray) -> Outputs:
        """Return the outputs of at most `batch` samples by name; a fixed batch is filled up with the last sample."""
        feeds = source.batch(np.pad(indices, (0, self.fixed - len(indices)), "edge") if self.fixed else indices)
        values = run(self._session, feeds)
        return {name: _without_filling(value, len(indices), self.fixed) for name, value in self._numbers(values)}

    def _numbers(self, values: Sequence[object]) -> Iterator[tuple[str, np.ndarray]]:
        for name, value in zip(self.outputs, values, strict=True):
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                yield name, value


def _without_filling(value: np.ndarray, samples: int, fixed: int | None) -> np.ndarray:
    return value[:samples] if fixed is not None and value.ndim and len(value) == fixed else value


def compare(
    original: ir.Model | Path,
    other: ir.Model | Path,
    source: Source,
    indices: np.ndarray | None = None,
    *,
    scores: str | None = None,
    metric: Metric | None = None,
    threads: int = 0,
    batch: int | None = None,
) -> Comparison:
    """Run both models over the samples (all of them by default) and compare their outputs, which must match by name.

    `scores` names the output with the class scores; by default it is the only one with a vector per sample,
    and there is none where several have. `batch` samples run at a time, by default as
    many as seem reasonable; `metric` sees the outputs of all samples at once.
    Raises ModelError for models with different outputs, OptionError for `scores` that no output has or that are
    none, and for labels that are not among the classes; but those are the business of a metric, where there is one.
    """
    size = batch or batch_size(source)
    first, second = Runner(original, batch=size, threads=threads), Runner(other, batch=size, threads=threads)
    if sorted(first.outputs) != sorted(second.outputs):
        raise ModelError(f"the outputs differ: {', '.join(first.outputs)} and {', '.join(second.outputs)}")
    if scores is not None and scores not in first.outputs:
        raise OptionError(f"no output {scores!r}: the model has {', '.join(first.outputs)}")
    chosen = np.arange(len(source)) if indices is None else indices
    if not len(chosen):
        raise OptionError("no samples to compare on")
    sums = _Sums({name: _Difference() for name in first.outputs})
    collected, classes = None if metric is None else Collected(metric, len(chosen)), source.labels
    for rows in chunked(chosen, math.lcm(first.batch, second.batch)):  # whole batches of both
        a, b = _run(first, source, rows), _run(second, source, rows)
        if sums.samples == 0:
            sums.scores = score_output(a, len(rows), scores)
            if classes is not None and metric is not None and sums.scores is not None:
                classes = None if no_classes(classes[chosen], a[sums.scores].shape[1]) else classes
        sums.add(a, b, rows, classes)
        if collected is not None:
            collected.add(b, a)
    compared = sums.comparison(classes is not None)
    if collected is None:
        return compared
    original_worth, other_worth = collected.worth(None if source.labels is None else source.labels[chosen])
    return replace(compared, metric_original=original_worth, metric_other=other_worth)


def batch_size(source: Source) -> int:
    """Return how many samples run at a time: `BATCH`, or fewer where one is so large that memory would be wasted."""
    sample = sum(array.nbytes for array in source.batch(np.arange(min(len(source), 1))).values())
    return int(np.clip(BATCH_BYTES // max(sample, 1), 1, BATCH))


def _run(runner: Runner, source: Source, rows: np.ndarray) -> Outputs:
    parts = [runner(source, part) for part in chunked(rows, runner.batch)]
    return (
        parts[0]
        if len(parts) == 1
        else {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    )


@dataclass
class _Difference:
    """Σ (a − b)², Σ a² of one output."""

    squared: float = 0.0
    energy: float = 0.0
    reason: str = ""

    def add(self, a: np.ndarray | None, b: np.ndarray | None) -> None:
        if a is None or b is None:
            self.reason = "not numbers"
        elif a.shape != b.shape:
            self.reason = f"shape {a.shape} and {b.shape}"
        else:
            wide = a.astype(np.float64)
            with np.errstate(invalid="ignore"):  # ∞ − ∞: what follows says so
                self.squared += float(((wide - b) ** 2).sum())
            self.energy += float((wide**2).sum())

    def error(self, name: str) -> OutputError:
        if self.reason:
            return OutputError(name, None, self.reason)
        if not np.isfinite(self.squared + self.energy):
            return OutputError(name, None, NOT_FINITE)
        if self.energy == 0:
            return OutputError(name, *((0.0, "") if self.squared == 0 else (None, "the original is zero everywhere")))
        return OutputError(name, float(np.sqrt(self.squared / self.energy)))


@dataclass
class _Sums:
    """What is kept of the samples seen so far."""

    differences: dict[str, _Difference]
    scores: str | None = None
    samples: int = 0
    agreeing: int = 0
    kl: float = 0.0
    right: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))

    def add(self, a: Outputs, b: Outputs, rows: np.ndarray, labels: np.ndarray | None) -> None:
        self.samples += len(rows)
        for name, difference in self.differences.items():
            difference.add(a.get(name), b.get(name))
        if self.scores is None:
            return
        x, y = a[self.scores], b[self.scores]
        if x.shape != y.shape:
            raise ModelError(f"the class scores {self.scores!r} have the shapes {x.shape} and {y.shape}")
        self.agreeing += int((top_class(x) == top_class(y)).sum())
        with np.errstate(invalid="ignore"):  # a row with NaN or ∞ leaves the sum NaN: then it is not reported
            self.kl += float(divergence(x, y).sum())
        if labels is not None:
            self.right += right_answers(x, labels[rows]), right_answers(y, labels[rows])

    def comparison(self, labelled: bool) -> Comparison:
        errors = tuple(difference.error(name) for name, difference in self.differences.items())
        if self.scores is None:
            return Comparison(self.samples, errors)
        return Comparison(
            self.samples,
            errors,
            self.scores,
            self.agreeing / self.samples,
            self.kl / self.samples if np.isfinite(self.kl) else None,
            float(self.right[0] / self.samples) if labelled else None,
            float(self.right[1] / self.samples) if labelled else None,
        )


def divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return KL(softmax a ‖ softmax b) per row of N×K, in nats; rows of probabilities are used as such."""
    p, q = log_probabilities(a), log_probabilities(b)
    per_row: np.ndarray = (np.exp(p) * (p - q)).sum(1)
    return per_row


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Return log softmax of the rows of N×K; of rows that are probabilities the log of these."""
    wide = scores.astype(np.float64)
    if (wide >= 0).all() and (abs(wide.sum(1) - 1) < 1e-3).all():
        return np.log(np.maximum(wide, 1e-12))
    shifted = wide - wide.max(1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


def agreement(
    original: ir.Model | Path, other: ir.Model | Path, source: Source, indices: np.ndarray | None = None
) -> float | None:
    """Return the share of samples that both models give the same top-1 class; None without class scores."""
    return compare(original, other, source, indices).agreement


def top1(
    model: ir.Model | Path,
    source: Source,
    indices: np.ndarray | None = None,
    *,
    scores: str | None = None,
    threads: int = 0,
) -> float | None:
    """Return the share of samples whose top-1 class is the label's; None without labels or without class scores.

    Raises OptionError as `compare` does.
    """
    if source.labels is None:
        return None
    runner = Runner(model, threads=threads)
    chosen, right = np.arange(len(source)) if indices is None else indices, 0
    for rows in chunked(chosen, runner.batch):
        outputs = runner(source, rows)
        name = score_output(outputs, len(rows), scores)
        if name is None:
            return None
        right += right_answers(outputs[name], source.labels[rows])
    return right / len(chosen)
