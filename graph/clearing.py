"""What is done to a graph some of whose values have no channel left (see `graph.branches`): nodes go, constants stay.

A constant that is added to a value moves into a bias that makes that value, where there is one:

    Add(Conv(…, b), c)  →  Conv(…, b + c)         Add(Add(x, y), c)  →  Add(Add(x, c), y)

so that nothing of a removed branch remains but a changed number. The value is then known by the name of the sum.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graph.branches import Gone, State, contracted
from graph.constants import replace_by_constant
from graph.registry import operator
from graph.runtime import run_node
from graph.walk import constant_array, operands
from graph.widen import widened_feeds


def clear(model: ir.Model, states: Mapping[str, State]) -> None:
    """Take out, in place, the nodes whose values are gone; the weights have been cut before, the sizes not yet mended.

    Nodes that were of no use before stay, unless they read what is gone.
    """
    graph = model.graph
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    useless = {n for n in graph if _is_useless(n) and not any(v.name in states for v in operands(n))}
    made = []
    for node in list(graph):
        state = states.get(str(node.outputs[0].name)) if node.outputs else None
        if state is None and node.op_type == "Concat":
            _join(node, states)
        elif state is not None and not isinstance(state, Gone):
            made.append(replace_by_constant(graph, node, _constant(node, states, opset)))
    for node in reversed(list(graph)):
        if _is_useless(node) and node not in useless:
            graph.remove(node, safe=True)
    for value in made:
        for node in [user for user, _ in value.uses() if user.op_type == "Add"]:
            _absorb(node, value)


def _is_useless(node: ir.Node) -> bool:
    return not any(value.uses() or value.is_graph_output() for value in node.outputs)


def _join(node: ir.Node, states: Mapping[str, State]) -> None:
    """Take the empty operands from a Concat, and the Concat itself where it joins nothing any more."""
    left = [value for value in node.inputs if value is not None and states.get(str(value.name)) is not Gone.EMPTY]
    (out,) = node.outputs
    if len(left) == len(node.inputs):
        return
    for index, value in enumerate(left):
        node.replace_input_with(index, value)
    node.resize_inputs(len(left))
    if len(left) == 1 and not out.is_graph_output():
        out.replace_all_uses_with(left[0])


def _constant(node: ir.Node, states: Mapping[str, State], opset: int) -> np.ndarray:
    """Return what a node computes of values that are empty or constant, with one place along all axes but some."""
    mixed = contracted(node)
    if mixed is None or not _is_empty(node.inputs[mixed[0]], states):
        arrays = {str(value.name): constant_array(value) for value in node.inputs if value is not None}
        feeds = {name: array for name, array in arrays.items() if array is not None}
        wide = widened_feeds(feeds)  # ONNX Runtime takes no bfloat16 from numpy
        result, half = run_node(node, wide, opset)[0], [feeds[name] for name in feeds if wide[name] is not feeds[name]]
        return result.astype(half[0].dtype) if half and result.dtype == np.float32 else np.asarray(result)
    weight = constant_array(node.inputs[1 - mixed[0]])
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    assert weight is not None
    if node.op_type == "MatMul":
        shape = [1] * len(states[str(node.outputs[0].name)])  # type: ignore[arg-type]  # it is that of a constant
        shape[mixed[1]] = weight.shape[1 - mixed[0]]
        return np.zeros(shape, weight.dtype)
    if node.op_type == "Gemm":
        width = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
        scaled = np.zeros(1) if bias is None else node.attributes.get_float("beta", 1.0) * bias
        return np.ascontiguousarray(np.broadcast_to(scaled, (1, width)).astype(weight.dtype))
    width = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * node.attributes.get_int("group", 1)
    values = np.zeros(width, weight.dtype) if bias is None else bias
    return values.reshape(1, width, *(1 for _ in weight.shape[2:]))


def _is_empty(value: ir.Value | None, states: Mapping[str, State]) -> bool:
    return value is not None and states.get(str(value.name)) is Gone.EMPTY


def _absorb(node: ir.Node, constant: ir.Value) -> None:
    """Take out an Add of a constant that is 0 or goes into a bias before it; another Add stays as it is."""
    (out,), (value,) = node.outputs, [value for value in node.inputs if value is not constant]
    assert value is not None and constant.const_value is not None and node.graph is not None
    array = constant.const_value.numpy()
    if out.is_graph_output() or value.is_initializer() or (array.any() and not _take(value, array)):
        return
    name, alone = out.name, len(value.uses()) == 1 and value.producer() is not None and not value.is_graph_output()
    out.replace_all_uses_with(value)
    node.graph.remove(node, safe=True)
    if alone:
        out.name = None
        value.name = name


def _take(value: ir.Value, constant: np.ndarray) -> bool:
    """Add a constant to a value that nothing else reads, by a bias that goes into it; False where there is none."""
    node = value.producer()
    if node is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if operator(node) == ("", "Add"):
        return any(
            operand is not None and (_raise(operand, constant) or _take(operand, constant)) for operand in node.inputs
        )
    if contracted(node) is None or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    along = 1 if node.op_type != "Gemm" else -1
    if node.attributes.get_float("beta", 1.0) != 1.0 or constant.size != constant.shape[along]:
        return False
    bias = node.inputs[2]
    return bias.shape is not None and len(bias.shape) == 1 and _raise(bias, constant.reshape(-1))


def _raise(bias: ir.Value, constant: np.ndarray) -> bool:
    """Add a constant to an initializer of its shape that only one node reads."""
    tensor = bias.const_value
    if not bias.is_initializer() or bias.is_graph_output() or tensor is None or len(bias.uses()) != 1:
        return False
    array = tensor.numpy()
    if _plain(array.shape) != _plain(constant.shape):
        return False
    bias.const_value = ir.tensor(array + constant.reshape(array.shape), name=bias.name)
    return True


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the leading axes of size 1, which broadcasting adds by itself."""
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]
