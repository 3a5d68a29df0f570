"""The samples of a run: opened, and dealt out to what must not see one another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from calibrate.errors import DataError
from calibrate.preprocess import Preprocess
from calibrate.sources import Source, open_source, split
from compress.settings import Options
from graph.analysis import Analysis
from graph.inputs import InputSpec, fixed_batch, input_specs, settle, takes_several

SHARES = (0.8, 0.1, 0.1)  # of the calibration samples: fit, search, report
DROP_SHARES = (0.6, 0.1, 0.1, 0.2)  # and drop
CHUNK_BYTES = 48 << 20  # of the largest value while a chunk of samples runs
USUAL_SAMPLES = 64  # below, a note says that there are few


class Parts(NamedTuple):
    """Disjoint sets of samples, by index: for the fit, the search, the report, and the drop of `max_drop`."""

    fit: np.ndarray
    search: np.ndarray
    report: np.ndarray
    drop: np.ndarray

    @property
    def reported(self) -> np.ndarray:
        """The samples that the report is on: those kept apart for it, or those of the fit where there are none."""
        return self.report if len(self.report) else self.fit

    @property
    def judged(self) -> np.ndarray:
        """The samples that a drop is judged on: those kept apart for it, or those of the fit where there are none."""
        return self.drop if len(self.drop) else self.fit


@dataclass(frozen=True)
class Samples:
    """What a model can be run on; `batch` is how many it takes at a time, None where that is free."""

    source: Source
    batch: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """The samples of a run, dealt out; `batch` is how many the model takes at a time, None where that is free."""

    source: Source
    parts: Parts
    batch: int | None

    def few(self, count: int = 2) -> dict[str, np.ndarray]:
        """Return `count` samples of the fit by input name, or as many as the model takes at a time."""
        return self.source.batch(self.parts.fit[: self.batch or count])


def open_samples(
    model: ir.Model,
    data: Any,
    preprocess: Preprocess | None = None,
    *,
    samples: int | None = None,
    labels_file: str | Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Samples:
    """Open the samples for a model and find how many it takes at a time. Raises DataError or ModelError."""
    specs = input_specs(model, shapes)
    source = open_source(
        data,
        settle(model, specs) if data is None else specs,
        preprocess,
        samples=samples,
        seed=seed,
        labels_file=labels_file,
    )
    batch = samples_at_a_time(model, specs, source)
    one = "the model leaves the number of samples free, but runs with one at a time only"
    return Samples(source, batch, (*source.notes, *((one,) if batch == 1 != fixed_batch(specs) else ())))


def open_as_told(model: ir.Model, data: Any, options: Options) -> Samples:
    """Open the samples as the options say. Raises DataError or ModelError."""
    return open_samples(
        model,
        data,
        options.preprocess,
        samples=options.samples,
        labels_file=options.labels_file,
        shapes=options.shapes,
        seed=options.seed,
    )


def samples_at_a_time(model: ir.Model, specs: Sequence[InputSpec], source: Source) -> int | None:
    """Return how many samples the model takes at a time, None where that is free and found to work."""
    stated = fixed_batch(specs)
    if stated is not None or len(source) < 2 or takes_several(model, source.batch(np.arange(2))):
        return stated
    return 1


def deal(samples: Samples, seed: int, *, drop: bool = False) -> tuple[Data, tuple[str, ...]]:
    """Deal the samples out, to the judging of a drop too where `drop`; returns notes where there are too few."""
    source, size = samples.source, samples.batch or 1
    if len(source) < size:
        raise DataError(f"{source.description}: the model takes {size} samples at a time, {len(source)} are there")
    shares = DROP_SHARES if drop else SHARES
    parts = [part[: len(part) // size * size] for part in split(len(source), shares, seed)]
    notes = samples.notes
    if not all(len(part) for part in parts):
        parts = [np.arange(len(source) // size * size), *(part[:0] for part in parts[1:])]
        judged = "the drop is judged, " if drop else ""
        notes += (
            f"with {len(source)} sample{'s' if len(source) > 1 else ''} nothing could be kept apart: the ridge was "
            f"chosen, {judged}and the result is reported, on the samples of the fit; give at least {8 * size}",
        )
    elif len(source) < USUAL_SAMPLES:
        notes += (f"{len(source)} samples are few: a few hundred make a better model",)
    if not drop:
        parts.append(parts[0][:0])
    return Data(source, Parts(*parts), samples.batch), notes


def chunk_size(analysis: Analysis, batch: int | None) -> int:
    """Return how many samples run at a time, so that the largest value stays small."""
    if batch is not None:
        return batch
    largest = max((4 * int(np.prod(shape)) for shape in analysis.trace.shapes.values()), default=1)
    return int(np.clip(CHUNK_BYTES // largest, 1, 64))
