"""Exact shapes, dtypes and small integers of every value, from one ONNX Runtime run with every value exposed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graph.inputs import example_inputs
from graph.runtime import run_limited, session
from graph.widen import widened, widened_feeds

SMALL = 1024  # elements: shape arithmetic is smaller, data are larger


@dataclass(frozen=True)
class Trace:
    """What one run showed: shapes and dtypes by value, and the integer and boolean arrays of at most 1,024 elements."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    integers: Mapping[str, np.ndarray]


def trace(model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> Trace:
    """Run the model once on `feeds` (by default `example_inputs`) and record every value of the main graph.

    Halves that the run makes are recorded as float32.

    Raises `ModelError` where ONNX Runtime cannot run it, or not within the limits of `graph.guard`.
    """
    feeds = example_inputs(model) if feeds is None else feeds
    names = [output.name for node in model.graph for output in node.outputs if output.name]
    twin = widened(model)  # numpy has no bfloat16, so ONNX Runtime cannot take it from there
    if twin is not model:
        session(model, optimise=False, limited=True)  # it must run as it is, all the same
    results = run_limited(session(twin, optimise=False, outputs=names, limited=True), widened_feeds(feeds))
    return _seen(model, feeds, dict(zip(names, results, strict=True)))


def _seen(model: ir.Model, feeds: Mapping[str, np.ndarray], results: Mapping[str, ort.OrtValue]) -> Trace:
    shapes = {name: array.shape for name, array in feeds.items()}
    dtypes = {name: array.dtype for name, array in feeds.items()}
    integers = {name: array for name, array in feeds.items() if array.dtype.kind in "iub" and array.size <= SMALL}
    for name, value in results.items():
        if not value.has_value() or not value.is_tensor():
            continue
        shapes[name] = tuple(value.shape())
        dtypes[name] = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
        # only what is small is copied: together the values may fill the memory
        if dtypes[name].kind in "iub" and math.prod(shapes[name]) <= SMALL:
            integers[name] = value.numpy()
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and name is not None:
            shapes[name] = tuple(tensor.shape.numpy())
            dtypes[name] = tensor.dtype.numpy()
    return Trace(shapes, dtypes, integers)
