"""MACs and parameters from traced shapes, and what was not counted.

    MACs of a node = positions × size of its weight

A position is one place at which the whole weight is applied: batch × output places for Conv, batch × input places
for ConvTranspose, rows for Gemm and MatMul. A product of two activations has no weight: its MACs come from shapes.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graph.registry import operator
from graph.trace import Trace
from graph.walk import constant_array, identity, subgraphs

# operators that multiply and accumulate, or may do so inside, and that no formula here covers
# fmt: off - rows read better than a column
UNCOUNTED = frozenset(
    {
        "Attention",
        "ConvInteger",
        "DeformConv",
        "DFT",
        "Einsum",
        "GRU",
        "LinearAttention",
        "LSTM",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
        "RotaryEmbedding",
        "STFT",
    }
)
# fmt: on
_AS_SCALE = (("QuantizeLinear", 1), ("DequantizeLinear", 1))
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class NodeCount:
    """One counted node; `macs == positions × size` of the tensor `weight`, where there is one."""

    node: str
    op_type: str
    macs: int
    weight: str | None
    positions: int


@dataclass(frozen=True)
class Count:
    """Totals of a model; `uncounted` says which operators may compute but have no formula, and how many there are."""

    macs: int
    params: int
    nodes: tuple[NodeCount, ...]
    uncounted: Mapping[str, int]


def count(model: ir.Model, trace: Trace) -> Count:
    """Count the MACs of one run of the traced shapes, and all float constants as parameters.

    Elementwise arithmetic, normalisation, pooling and data movement are not MACs. Subgraphs are not entered: the
    nodes that carry them are listed as uncounted, as are operators of unknown domains and model-local functions.
    """
    nodes, uncounted = [], Counter[str]()
    for node in model.graph:
        counted = _count_node(node, trace)
        if counted is not None:
            nodes.append(counted)
        elif _may_compute(node):
            uncounted[node.op_type] += 1
    return Count(sum(node.macs for node in nodes), _params(model), tuple(nodes), dict(uncounted))


def _count_node(node: ir.Node, trace: Trace) -> NodeCount | None:
    match operator(node):
        case ("", "Conv"):
            shape = _shape(node.outputs[0], trace)
            return _weighted(node, 1, shape[0] * math.prod(shape[2:]), trace)
        case ("", "ConvTranspose"):
            shape = _shape(node.inputs[0], trace)
            return _weighted(node, 1, shape[0] * math.prod(shape[2:]), trace)
        case ("", "Gemm"):
            rows = _shape(node.outputs[0], trace)[0]
            return _weighted(node, 1, rows, trace)
        case ("", "MatMul"):
            macs = math.prod(_shape(node.outputs[0], trace)) * _shape(node.inputs[0], trace)[-1]
            return _product(node, macs, trace)
        case ("", "Einsum"):
            letters = _letters(node, trace)
            return None if letters is None else _product(node, math.prod(letters.values()), trace)
    return None


def _letters(node: ir.Node, trace: Trace) -> dict[str, int] | None:
    """Return the size behind each letter of a product of two operands, or None for another equation."""
    terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2 or any("." in term for term in terms):
        return None
    sizes: dict[str, int] = {}
    for value, term in zip(node.inputs, terms, strict=True):
        for letter, size in zip(term, _shape(value, trace), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return sizes


def _product(node: ir.Node, macs: int, trace: Trace) -> NodeCount:
    left, right = node.inputs[0], node.inputs[1]
    weight = next((value for value in (right, left) if constant_array(value) is not None), None)
    if weight is None:
        return NodeCount(identity(node), node.op_type, macs, None, 1)
    size = math.prod(_shape(weight, trace))
    return NodeCount(identity(node), node.op_type, macs, weight.name, macs // size)


def _weighted(node: ir.Node, index: int, positions: int, trace: Trace) -> NodeCount:
    weight = node.inputs[index]
    size = math.prod(_shape(weight, trace))
    name = weight.name if weight is not None and constant_array(weight) is not None else None
    return NodeCount(identity(node), node.op_type, positions * size, name, positions)


def _shape(value: ir.Value | None, trace: Trace) -> tuple[int, ...]:
    array = constant_array(value)
    if array is not None:
        return array.shape
    return trace.shapes[str(value.name if value else "")]


def _may_compute(node: ir.Node) -> bool:
    return bool(subgraphs(node)) or operator(node)[0] != "" or node.op_type in UNCOUNTED


def _params(model: ir.Model) -> int:
    """Return how many floats the model holds in initializers and Constant nodes, subgraphs and functions included.

    Floats that are held as integers count as such, and the scales that go with integers do not.
    """
    total = 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and _is_parameter(value, value.const_value.dtype):
                total += value.const_value.size
        for node in graph:
            attribute = node.attributes.get("value") if node.op_type == "Constant" else None
            if attribute is not None and attribute.as_tensor().dtype in _FLOATS:
                total += attribute.as_tensor().size
    return total


def _is_parameter(value: ir.Value, dtype: ir.DataType) -> bool:
    uses = [(operator(use.node)[1], use.idx) for use in value.uses()]
    if dtype in _FLOATS:
        return not uses or any(use not in _AS_SCALE for use in uses)
    return ("DequantizeLinear", 0) in uses
