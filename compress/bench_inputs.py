"""What a model is timed with where nobody says: arrays by what the model declares."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from compress.errors import OptionError
from graph.errors import ModelError
from graph.guard import MOST_INPUT_BYTES

FREE_SIDE = 224
FREE_LENGTH = 512

_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


def input_array(
    spec: ort.NodeArg, batch: int | None, shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator
) -> np.ndarray:
    """Return numbers in 0…1 for an input of floats, 0…255 for bytes, else zeros (indices must stay in range).

    The shape is that of `input_shape`. Raises ModelError for what is no tensor of numbers, or too large.
    """
    if spec.type not in _DTYPES:
        raise ModelError(f"input {spec.name!r} is {spec.type}: only tensors of numbers can be made up")
    shape, dtype = input_shape(spec.name, spec.shape, batch, shapes), np.dtype(_DTYPES[spec.type])
    if math.prod(shape) * dtype.itemsize > MOST_INPUT_BYTES:
        raise ModelError(f"input {spec.name!r} of shape {_written(shape)} takes more than {MOST_INPUT_BYTES:,} bytes")
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, dtype)


def input_shape(
    name: str, declared: Sequence[int | str | None], batch: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the shape to run an input with: what was given for it, else what is declared with the free parts filled.

    A free first dimension is `batch` (1 by default), any other 224 in an input of four dimensions (a height or
    width), else 512 (a length). Raises OptionError for a shape or batch that contradicts the declared one.
    """
    fixed = [size if isinstance(size, int) and size > 0 else None for size in declared]
    if name in shapes:
        given = shapes[name]
        if len(given) != len(fixed) or any(f not in (None, g) for f, g in zip(fixed, given, strict=True)):
            raise OptionError(f"input {name!r} has the shape {_written(declared)}; it cannot be {_written(given)}")
        return given
    if fixed and batch is not None and fixed[0] not in (None, batch):
        raise OptionError(f"input {name!r} has the fixed shape {_written(declared)}; it cannot run batches of {batch}")
    side = FREE_SIDE if len(fixed) == 4 else FREE_LENGTH
    return tuple(size or (side if axis else batch or 1) for axis, size in enumerate(fixed))


def _written(shape: Sequence[int | str | None]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape) or "scalar"
