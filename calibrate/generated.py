"""Generated samples as a source: pictures for inputs that take pictures, plain noise for the others."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from calibrate.arrays import sample_axis
from calibrate.errors import DataError
from calibrate.generate import picture
from calibrate.images import batches, image_input, show
from calibrate.preprocess import Preprocess
from calibrate.source import Request, Source, opens

if TYPE_CHECKING:
    from graph.trace import InputSpec

COUNT = 384
# Where the model leaves an axis free: as in graph.trace, whose import would cost half a second here.
FREE_SIDE = 224  # a height or a width, in pixels
FREE_LENGTH = 512  # any other

Read = Callable[[np.ndarray], np.ndarray]


@opens("generated", lambda spec: spec is None)
def open_generated(request: Request) -> Source:
    """Draw samples for every input of the model, the same for the same seed.

    An input of rank 4 gets natural-looking pictures through the preprocessing, 224 × 224 where neither the model
    nor the preprocessing fixes the size. Other floating inputs get standard normal noise, Booleans True, integers 0
    (1 where the name says mask, 16000 where it is a sampling rate). Raises DataError for other dtypes.
    """
    if request.labels_file is not None:
        raise DataError(f"{request.labels_file}: labels were given without the pictures: add --data FOLDER")
    count = COUNT if request.samples is None else request.samples
    reads: dict[str, Read] = {}
    notes: tuple[str, ...] = ()
    for place, spec in enumerate(request.inputs):
        if len(spec.shape) == 4:
            reads[spec.name], said = _pictures(spec, request.preprocess, count, request.seed + place)
            notes += said
        else:
            reads[spec.name] = _noise(spec, request.seed + place)
    return Source(
        count,
        lambda indices: {name: read(indices) for name, read in reads.items()},
        f"{count} generated samples",
        generated=True,
        notes=("no data were given: samples were generated; real ones (--data) do better", *notes),
    )


def _pictures(spec: "InputSpec", preprocess: Preprocess, count: int, seed: int) -> tuple[Read, tuple[str, ...]]:
    target = image_input(spec, preprocess)
    size = (target.height or FREE_SIDE, target.width or FREE_SIDE)
    return batches(count, partial(picture, *size, target.channels, seed), target, preprocess)


def _noise(spec: "InputSpec", seed: int) -> Read:
    axis, dtype = sample_axis(spec), np.dtype(spec.dtype)
    shape = tuple(FREE_LENGTH if n is None else n for at, n in enumerate(spec.shape) if at != axis)
    if dtype.kind not in "fiub":
        raise DataError(f"input {spec.name} {dtype} {show(spec.shape)}: nothing can be generated: give --data")

    def sample(index: int) -> np.ndarray:
        if dtype.kind == "f":
            return np.random.default_rng([seed, index]).standard_normal(shape).astype(dtype)
        return np.full(shape, _constant(spec.name, dtype), dtype)

    def read(indices: np.ndarray) -> np.ndarray:
        if axis is None:
            return sample(0)
        if not len(indices):
            return np.empty((*shape[:axis], 0, *shape[axis:]), dtype)
        return np.stack([sample(int(index)) for index in indices], axis)

    return read


def _constant(name: str, dtype: np.dtype) -> int:
    plain = name.lower()
    if plain in ("sr", "sample_rate", "sampling_rate"):
        return 16000
    return int(dtype.kind == "b" or "mask" in plain)
