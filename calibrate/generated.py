"""Generated samples as a source: pictures for inputs that take pictures, plain noise for the others."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from calibrate.errors import DataError
from calibrate.generate import picture
from calibrate.images import batches, image_input
from calibrate.preprocess import Preprocess
from calibrate.source import Request, Source, opens
from graph.inputs import InputSpec, sample_axes, stand_in

COUNT = 384
MOST_CHANNELS = 16  # of a picture: several frames or bands may be stacked

Read = Callable[[np.ndarray], np.ndarray]


@opens("generated", lambda spec: spec is None)
def open_generated(request: Request) -> Source:
    """Draw samples for every input of the model, the same for the same seed.

    An input of rank 4 that can hold pictures gets natural-looking ones through the preprocessing. Other floating
    inputs get standard normal noise, integers and flags what `graph.inputs.stand_in` says. A size that neither
    the model nor the preprocessing fixes is the one that the model is known to run with.
    """
    if request.labels_file is not None:
        raise DataError(f"{request.labels_file}: labels were given without the pictures: add --data FOLDER")
    count = COUNT if request.samples is None else request.samples
    reads: dict[str, Read] = {}
    notes: tuple[str, ...] = ()
    for place, spec in enumerate(request.inputs):
        if _holds_pictures(spec):
            reads[spec.name], said = _pictures(spec, request.preprocess, count, request.seed + place)
            notes += said
        else:
            reads[spec.name] = _noise(spec, request.inputs, request.seed + place)
    return Source(
        count,
        lambda indices: {name: read(indices) for name, read in reads.items()},
        f"{count} generated samples",
        generated=True,
        notes=("no data were given: samples were generated; real ones (--data) do better", *notes),
    )


def _holds_pictures(spec: InputSpec) -> bool:
    """Whether an input may be a batch of pictures: rank 4, values that pixels have, and few channels on either axis."""
    pixels = spec.dtype == np.uint8 or not (np.issubdtype(spec.dtype, np.integer) or spec.dtype.kind == "b")
    return len(spec.shape) == 4 and pixels and min(spec.shape[1] or 3, spec.shape[3] or 3) <= MOST_CHANNELS


def _pictures(spec: InputSpec, preprocess: Preprocess, count: int, seed: int) -> tuple[Read, tuple[str, ...]]:
    target = image_input(spec, preprocess)
    high, wide = (1, 2) if target.layout == "NHWC" else (2, 3)
    size = (target.height or spec.size(high), target.width or spec.size(wide))
    return batches(count, partial(picture, *size, target.channels, seed), target, preprocess)


def _noise(spec: InputSpec, specs: Sequence[InputSpec], seed: int) -> Read:
    axis, dtype = sample_axes(specs)[spec.name], np.dtype(spec.dtype)
    shape = tuple(spec.size(at) for at in range(len(spec.shape)) if at != axis)
    counted = np.issubdtype(dtype, np.integer) or dtype.kind == "b"
    filling = stand_in(spec, specs) if counted else 0

    def sample(index: int) -> np.ndarray:
        if counted:
            return np.full(shape, filling, dtype)
        return np.random.default_rng([seed, index]).standard_normal(shape).astype(dtype)

    def read(indices: np.ndarray) -> np.ndarray:
        if axis is None:
            return sample(0)
        if not len(indices):
            return np.empty((*shape[:axis], 0, *shape[axis:]), dtype)
        return np.stack([sample(int(index)) for index in indices], axis)

    return read
