"""Exact shapes, dtypes and small integers of every value, from one ONNX Runtime run with every value exposed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from graph.errors import ModelError
from graph.model import INLINE_BYTES, weight_bytes
from graph.runtime import run, session

SMALL = 1024  # elements: shape arithmetic is smaller, data are larger
SPATIAL = 224  # stands for an unknown height or width
LENGTH = 512  # stands for an unknown length of a sequence
MOST_BYTES = 2**33  # one value, or all inputs together, may ask for this much


@dataclass(frozen=True)
class InputSpec:
    """One real input of a model: `None` in `shape` is a dynamic dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Trace:
    """What one run showed: shapes and dtypes by value, and the integer and boolean arrays of at most 1,024 elements."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    integers: Mapping[str, np.ndarray]


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """Return the inputs that a caller must feed: those that are not initializers as well."""
    return tuple(_spec(value) for value in model.graph.inputs if not value.is_initializer())


def example_inputs(
    model: ir.Model, *, shapes: Mapping[str, tuple[int, ...]] | None = None, batch: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random inputs: standard normal floats, zeros for integers (valid as indices and lengths), True for flags.

    A dynamic dimension is `batch` where it is the first or has the name of a first one, otherwise 224 in inputs of
    rank 4 (a height or width) and 512 in others (a length); `shapes` overrides by input name.
    Raises `ModelError` where an input is not a tensor of numbers, has an unknown rank, or is unreasonably large.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    specs = input_specs(model)
    names = {value.name: [str(size) for size in value.shape or ()] for value in model.graph.inputs}
    batched = {str(value.shape[0]) for value in model.graph.inputs if value.shape}
    for spec in specs:
        shape = (shapes or {}).get(spec.name) or _concrete(spec, names[spec.name], batched, batch)
        size = math.prod(shape) * spec.dtype.itemsize
        if size > MOST_BYTES:
            raise ModelError(f"input {spec.name} of shape {shape} takes {size:,} bytes, more than {MOST_BYTES:,}")
        if spec.dtype.kind == "f":
            feeds[spec.name] = rng.standard_normal(shape, np.float32).astype(spec.dtype)
        else:
            feeds[spec.name] = np.full(shape, spec.dtype.kind == "b", spec.dtype)
    return feeds


def trace(model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> Trace:
    """Run the model once on `feeds` (by default `example_inputs`) and record every value of the main graph.

    Raises `ModelError` where ONNX Runtime cannot run it or where a value would be unreasonably large.
    """
    feeds = example_inputs(model) if feeds is None else feeds
    _bound(model, feeds)
    names = [output.name for node in model.graph for output in node.outputs if output.name]
    results = run(session(model, optimise=False, outputs=names), feeds)
    values = {**feeds, **dict(zip(names, results, strict=True))}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    shapes = {name: value.shape for name, value in arrays.items()}
    dtypes = {name: value.dtype for name, value in arrays.items()}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and name is not None:
            shapes[name] = tuple(tensor.shape.numpy())
            dtypes[name] = tensor.dtype.numpy()
    integers = {name: value for name, value in arrays.items() if value.dtype.kind in "iub" and value.size <= SMALL}
    return Trace(shapes, dtypes, integers)


def _spec(value: ir.Value) -> InputSpec:
    if value.dtype is None or value.dtype == ir.DataType.STRING or not isinstance(value.type, ir.TensorType):
        raise ModelError(
            f"input {value.name} is not a tensor of numbers but {value.type}; such inputs are not supported"
        )
    if value.shape is None:
        raise ModelError(f"input {value.name} has no declared rank; declare its shape in the model")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return InputSpec(str(value.name), shape, np.dtype(value.dtype.numpy()))


def _concrete(spec: InputSpec, names: list[str], batched: set[str], batch: int) -> tuple[int, ...]:
    other = SPATIAL if len(spec.shape) == 4 else LENGTH
    sizes = zip(spec.shape, names, strict=True)
    return tuple(
        size if size is not None else batch if axis == 0 or name in batched else other
        for axis, (size, name) in enumerate(sizes)
    )


def _bound(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse a model of which a value is known, before it is run, to be larger than `MOST_BYTES`."""
    if weight_bytes(model) > INLINE_BYTES:
        return  # too large for shape inference in memory, and honest about its size
    proto = ir.to_proto(model)
    for declared in proto.graph.input:
        if declared.name in feeds:
            tensor = declared.type.tensor_type
            declared.CopyFrom(
                onnx.helper.make_tensor_value_info(declared.name, tensor.elem_type, feeds[declared.name].shape)
            )
    del proto.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return  # what cannot be inferred is left to ONNX Runtime to refuse
    for value in inferred.graph.value_info:
        size = 4 * math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if size > MOST_BYTES:
            raise ModelError(f"value {value.name} would take {size:,} bytes, more than {MOST_BYTES:,}")
