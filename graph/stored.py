"""Weights that the file holds in fewer bits than the graph computes with: behind a Cast, or a DequantizeLinear.

They are unpacked into plain floats, which can be cut and fitted, and packed again in the same form at the end:
w stored by a DequantizeLinear with integers up to L becomes

    s = max |w| / L along the axes that share a scale,    q = round(w / s) + z,    z = 0, or 128 for unsigned bytes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graph.constants import add_initializer, replace_by_constant
from graph.model import clone
from graph.names import Names
from graph.registry import operator

_WHOLES = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


@dataclass(frozen=True)
class Stored:
    """How the file holds one weight: a node (Cast or DequantizeLinear), its constant inputs, and what it makes."""

    weight: str
    node: ir.Node
    inputs: tuple[ir.TensorProtocol, ...]
    made: ir.TensorProtocol

    @property
    def dtype(self) -> ir.DataType:
        """The type of the numbers in the file."""
        return self.inputs[0].dtype


def unpack(model: ir.Model) -> tuple[Stored, ...]:
    """Replace, in place, each Cast or DequantizeLinear of a constant by the floats that it makes.

    Where the weight meets an activation that is quantised too, the operator as a whole is meant to run on integers:
    such weights stay as they are. A weight that takes more room in the file than unpacked is not recorded.
    """
    found = []
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    for node in list(model.graph):
        tensors = _constant_inputs(node)
        if tensors is None or _meets_quantised(node.outputs[0]) or node.outputs[0].is_graph_output():
            continue
        made, read = _evaluate(node, tensors, version), _present(node)
        value = replace_by_constant(model.graph, node, made)
        tensor = value.const_value
        assert tensor is not None
        for constant in read:
            if not constant.uses() and not constant.is_graph_output():
                model.graph.initializers.pop(str(constant.name), None)  # or a scale that is read twice
        if sum(each.nbytes for each in tensors) < tensor.nbytes:
            found.append(Stored(str(value.name), node, tensors, tensor))
    return tuple(found)


def pack(model: ir.Model, stored: Sequence[Stored]) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a copy in which the weights are stored again as they were, and a note where some could not be.

    A weight that did not change gets its old numbers back; halves are rounded, bytes get scales of their own. Weights
    in other forms (in blocks, 4 bits, 8-bit floats), and those that became part of another, stay floats.
    """
    new = clone(model)
    names = Names(new)
    left = [each for each in stored if not _pack(new, each, names)]
    if not left:
        return new, ()
    one = len(left) == 1
    kinds = ", ".join(sorted({each.dtype.name.lower() for each in left}))
    return new, (
        f"{len(left)} weight{'' if one else 's'} that the file stores as {kinds} {'is' if one else 'are'} written as "
        f"float32 (the first: {left[0].weight})",
    )


def _constant_inputs(node: ir.Node) -> tuple[ir.TensorProtocol, ...] | None:
    """Return the tensors that a node turns into floats, or None where it is another node, or reads other things."""
    if operator(node) not in {("", "Cast"), ("", "DequantizeLinear")}:
        return None
    tensors = [value.const_value if value.is_initializer() else None for value in _present(node)]
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) < len(tensors):
        return None
    if node.op_type == "Cast" and (
        not present[0].dtype.is_floating_point() or node.attributes.get_int("to") != ir.DataType.FLOAT
    ):
        return None
    return tuple(present)


def _meets_quantised(weight: ir.Value) -> bool:
    """Whether a user of the weight reads another value from a DequantizeLinear."""
    others = (value for use in weight.uses() for value in use.node.inputs if value is not None and value is not weight)
    producers = (value.producer() for value in others)
    return any(
        producer is not None and producer.op_type == "DequantizeLinear" and _constant_inputs(producer) is None
        for producer in producers
    )


def _evaluate(node: ir.Node, tensors: Sequence[ir.TensorProtocol], version: int) -> np.ndarray:
    if node.op_type == "Cast":
        return tensors[0].numpy().astype(np.float32)
    feeds = {str(value.name): tensor.numpy() for value, tensor in zip(_present(node), tensors, strict=True)}
    evaluator = ReferenceEvaluator(ir.to_proto(node), opsets={"": version})
    (made,) = evaluator.run(None, feeds)
    return np.asarray(made)


def _present(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _pack(model: ir.Model, stored: Stored, names: Names) -> bool:
    """Put one weight back behind its node; False where it is not there, or there is no form for it."""
    value = model.graph.initializers.get(stored.weight)
    if value is None or value.const_value is None:
        return False
    arrays = _as_before(stored, value.const_value.numpy())
    if arrays is None:
        return False
    wishes = [*(str(tensor.name) for tensor in stored.inputs), f"{stored.weight}_zero_point"]
    inputs = [
        add_initializer(model.graph, names.free(wish), array) for wish, array in zip(wishes, arrays, strict=False)
    ]
    node = ir.node(stored.node.op_type, inputs, stored.node.attributes, name=stored.node.name)
    (made,) = node.outputs
    made.name, made.type, made.shape = stored.weight, value.type, value.shape
    value.replace_all_uses_with(made)
    del model.graph.initializers[stored.weight]
    model.graph.insert_before(model.graph[0], node)
    return True


def _as_before(stored: Stored, weight: np.ndarray) -> Sequence[np.ndarray] | None:
    """Return what the node is to read so that it makes the weight again, or None where there is no form for it."""
    if np.array_equal(weight, stored.made.numpy()):
        return [tensor.numpy() for tensor in stored.inputs]
    if stored.node.op_type == "Cast":
        with np.errstate(over="ignore"):
            half = weight.astype(stored.dtype.numpy())
        return [half] if np.isfinite(half.astype(np.float32)).all() else None
    return _whole_numbers(stored, weight) if stored.dtype in _WHOLES else None


def _whole_numbers(stored: Stored, weight: np.ndarray) -> Sequence[np.ndarray] | None:
    scale, axis = stored.inputs[1].numpy(), stored.node.attributes.get_int("axis", 1)
    if scale.ndim > 1:
        return None
    others = tuple(i for i in range(weight.ndim) if scale.size == 1 or i != axis % weight.ndim)
    limits = np.iinfo(stored.dtype.numpy())
    zero = (limits.max + 1) // 2 if limits.min == 0 else 0
    largest = np.abs(weight).max(others, keepdims=True).astype(np.float64) / (limits.max - zero)
    steps = np.where(largest > 0, largest, 1.0).astype(scale.dtype)
    whole = np.rint(weight / steps.astype(np.float64)) + zero
    shape = scale.shape if scale.size == 1 else (-1,)
    return [
        whole.clip(limits.min, limits.max).astype(limits.dtype),
        steps.reshape(shape),
        np.full(steps.reshape(shape).shape, zero, limits.dtype),
    ]
