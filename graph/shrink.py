"""Surgery: take the removed channels out of every weight, and put right the nodes that state a size."""

import numpy as np
import onnx_ir as ir

import graph.rules  # noqa: F401 - fills the table of mends
from graph.branches import Graph, emptied, follow
from graph.channels import Axis, Channels
from graph.clearing import clear
from graph.errors import ModelError
from graph.idle import idle
from graph.model import clone
from graph.plan import Plan
from graph.surgery import Surgery
from graph.walk import constant_array


def shrink(model: ir.Model, channels: Channels, plan: Plan) -> ir.Model:
    """Return a new model without the channels that the plan removes.

    Inputs, outputs, names and everything else stay; keeping everything gives the same model again. Where a group goes
    altogether, so do the nodes that are left without any channel. `channels` is of the same model. Raises `ModelError`
    where the plan leaves a group without any channel that must keep one.
    """
    _refuse_empty(channels, plan)
    new, removed = clone(model), _removed(channels, plan)
    if not len(removed):
        return new
    empty = emptied(channels, removed)
    states = follow(Graph(new, channels), empty).states if empty else {}
    constants = _constants(new)
    for axis, ids in channels.labels.items():
        mask = ~np.isin(ids, removed)
        if not mask.all():
            _replace(constants[axis.weight], np.compress(mask, _array(constants[axis.weight]), axis.axis))
    unread = _unread(new)
    if empty:
        clear(new, states)
    surgery = Surgery(new, channels, removed)
    for node in list(new.graph):
        surgery.step(node)
        if (data := idle(node, surgery)) is not None:
            node.outputs[0].replace_all_uses_with(data)
            new.graph.remove(node, safe=True)
    for name in _unread(new) - unread:  # another took its place, or what read it is gone
        del new.graph.initializers[name]
    for node in new.graph:
        for value in node.outputs:
            _restate(value, surgery)
    return new


def mask(model: ir.Model, channels: Channels, plan: Plan) -> ir.Model:
    """Return a new model of the old size whose consumers ignore the removed channels: their weights are zero there."""
    new, removed = clone(model), _removed(channels, plan)
    constants = _constants(new)
    consumed = {site.axis for group in channels.groups for site in group.consumers}
    for axis in sorted(consumed):
        gone = np.isin(channels.labels[axis], removed)
        if gone.any():
            array = _array(constants[axis.weight]).copy()
            array[_along(axis, gone)] = 0
            _replace(constants[axis.weight], array)
    return new


def _removed(channels: Channels, plan: Plan) -> np.ndarray:
    return np.array(sorted(plan.removed(channels)), np.int64)


def _refuse_empty(channels: Channels, plan: Plan) -> None:
    groups = {group.name: group for group in channels.groups}
    for name, kept in plan.keep.items():
        if name not in groups:
            raise ModelError(f"the plan names a group {name!r} that the model does not have")
        width = len(groups[name].channels)
        if len(kept) != width:
            raise ModelError(f"the plan has {len(kept)} channels for group {name!r}, the model has {width}")
        if not kept.any() and (reason := channels.lasting.get(name, "it may not go")):
            raise ModelError(
                f"the plan keeps none of the {width} channels of group {name!r}; keep at least one: {reason}"
            )


def _constants(model: ir.Model) -> dict[str, ir.Value]:
    """Return the values of the main graph that are initializers or come from Constant nodes."""
    made = {str(value.name): value for node in model.graph if node.op_type == "Constant" for value in node.outputs}
    return made | {str(name): value for name, value in model.graph.initializers.items()}


def _unread(model: ir.Model) -> set[str]:
    return {
        name
        for name, value in model.graph.initializers.items()
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    }


def _array(value: ir.Value) -> np.ndarray:
    array = constant_array(value)
    assert array is not None, value.name
    return array


def _replace(value: ir.Value, array: np.ndarray) -> None:
    tensor = ir.tensor(np.ascontiguousarray(array), name=value.name)  # a declared type may be a lie
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
        value.type = value.type or ir.TensorType(tensor.dtype)  # a shape is not written without a type
    value.shape = ir.Shape(array.shape)


def _along(axis: Axis, chosen: np.ndarray) -> tuple[slice | np.ndarray, ...]:
    return (*(slice(None) for _ in range(axis.axis)), chosen)


def _restate(value: ir.Value, surgery: Surgery) -> None:
    """Correct the declared shape of an intermediate value."""
    axis = surgery.axis(value)
    if axis is None or value.shape is None or surgery.kept(value) is None:
        return
    if len(value.shape) != len(surgery.shape(value)):
        value.shape = None
        return
    sizes = list(value.shape)
    if isinstance(sizes[axis], int):
        sizes[axis] = surgery.width(value, axis)
    value.shape = ir.Shape(sizes)
