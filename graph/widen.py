"""The twin of a model in half precision that computes in float32: for features, and for exact comparisons."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graph.model import clone

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")  # of Cast, RandomNormal, DequantizeLinear and others


def widened(model: ir.Model) -> ir.Model:
    """Return the model with float32 in the place of float16 and bfloat16 everywhere, its inputs and outputs included.

    Names stay. A model without halves is returned as it is.
    """
    if not any(value.dtype in HALVES for graph in model.graphs() for value in _values(graph)):
        return model
    new = clone(model)
    for graph in new.graphs():
        for node in graph:
            for attribute in list(node.attributes.values()):
                _widen_attribute(node, attribute)
        for value in _values(graph):
            if value.dtype in HALVES:
                value.type = ir.TensorType(ir.DataType.FLOAT)  # the clone shares the old type with the model
            if value.const_value is not None and value.const_value.dtype in HALVES:
                value.const_value = _widened_tensor(value.const_value)
    return new


def widened_feeds(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return inputs for the twin."""
    halves = {dtype.numpy() for dtype in HALVES}
    return {n: a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype in halves else a for n, a in feeds.items()}


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _widen_attribute(node: ir.Node, attribute: ir.Attr) -> None:
    name = attribute.name
    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.INT and name in _TYPE_ATTRIBUTES and attribute.as_int() in HALVES:
        node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
    elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
        node.attributes[name] = ir.AttrTensor(name, _widened_tensor(attribute.as_tensor()))


def _widened_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
