"""Operators that mix channels by a weight: Conv, ConvTranspose, Gemm, MatMul."""

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.partition import Ids, free
from graph.registry import Decline, mend, rule
from graph.rules.pointwise import meet
from graph.rules.product import matmul_of_activations
from graph.surgery import Surgery
from graph.walk import NOTHING, Role, Walk


@rule("Conv")
def conv(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Weight (out, in / group, …): plain, depthwise (unit = group) or grouped."""
    ids, weight = _features(node, walk), _weight(node, walk, 1)
    group = node.attributes.get_int("group", 1)
    if group == 1:
        made = _consume_and_produce(node, walk, ids, weight.shape[0], consumer=1, producer=0)
    elif weight.shape[1] == 1 or _units_leave_most(walk, ids, group, weight.shape[1], weight.shape[0] // group):
        made = _units(walk, ids, group, weight.shape[0] // group)
        walk.label(node, 1, 0, made)
    else:
        made = _positions(node, walk, ids, group, weight.shape[0] // group, consumer=1, producer=0)
    return _with_bias(node, walk, made)


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Weight (in, out / group, …): plain, depthwise (unit = group) or grouped."""
    ids, weight = _features(node, walk), _weight(node, walk, 1)
    group = node.attributes.get_int("group", 1)
    inputs, outputs = weight.shape[0] // group, weight.shape[1]
    if group == 1:
        made = _consume_and_produce(node, walk, ids, outputs, consumer=0, producer=1)
    elif inputs == 1 or _units_leave_most(walk, ids, group, inputs, outputs):
        made = _units(walk, ids, group, outputs)
        walk.label(node, 1, 0, walk.partition.find(ids))
    else:
        # along the input axis the weight holds all groups one after another, as the features do
        tied = _tied_positions(walk, ids, group)
        walk.label(node, 1, 0, tied, Role.CONSUMER)
        per_group = walk.fresh(outputs)
        walk.label(node, 1, 1, per_group, Role.PRODUCER)
        made = np.tile(per_group, group)
    return _with_bias(node, walk, made)


@rule("Gemm")
def gemm(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Y = A' B' + C with a constant B, whose rows (after its transposition) are the input channels."""
    data, (out,) = node.inputs[0], node.outputs
    assert data is not None
    weight = _weight(node, walk, 1)
    inner, outer = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    labels, contracted = walk.labels(data), 0 if node.attributes.get_int("transA", 0) else 1
    if labels.axis is not None and labels.axis != contracted:
        raise Decline(f"the channels of {data.name} lie on its rows (axis {labels.axis}), not on the contracted axis")
    walk.label(node, 1, inner, walk.along(labels, contracted), Role.CONSUMER)
    made = walk.fresh(weight.shape[outer])
    walk.label(node, 1, outer, made, Role.PRODUCER)
    own = walk.made(out, 1, made)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return (own,)
    return (meet(node, walk, [(2, bias)], own.shape, own=own),)


@rule("MatMul")
def matmul(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """A weight on either side mixes channels; of a product of two activations see `graph.rules.product`."""
    left, right = node.inputs
    assert left is not None and right is not None
    if walk.constant(right) is not None:
        return _times_weight(node, walk, left, 1)
    if walk.constant(left) is not None:
        return _times_weight(node, walk, right, 0)
    return matmul_of_activations(node, walk)


@mend("Conv")
def mend_conv(node: ir.Node, surgery: Surgery) -> None:
    """State how many groups are left: (channels read) / (weight's input axis)."""
    _mend_group(node, surgery, surgery.width(node.inputs[0], 1))


@mend("ConvTranspose")
def mend_conv_transpose(node: ir.Node, surgery: Surgery) -> None:
    """State how many groups are left: (channels made) / (weight's output axis)."""
    _mend_group(node, surgery, surgery.width(node.outputs[0], 1))


def _mend_group(node: ir.Node, surgery: Surgery, channels: int) -> None:
    if node.attributes.get_int("group", 1) > 1:
        surgery.set_int(node, "group", channels // surgery.width(node.inputs[1], 1))


def _features(node: ir.Node, walk: Walk) -> Ids:
    """Return the ids along the channel axis of the first input."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis not in (None, 1):
        raise Decline(f"the channels of {data.name} lie on axis {labels.axis}, not on axis 1")
    return walk.along(labels, 1)


def _weight(node: ir.Node, walk: Walk, index: int) -> np.ndarray:
    value = node.inputs[index]
    array = walk.constant(value)
    if array is None:
        raise Decline(f"its weight {value.name if value else index} is computed at run time")
    return array


def _consume_and_produce(node: ir.Node, walk: Walk, ids: Ids, outputs: int, *, consumer: int, producer: int) -> Ids:
    walk.label(node, 1, consumer, ids, Role.CONSUMER)
    made = walk.fresh(outputs)
    walk.label(node, 1, producer, made, Role.PRODUCER)
    return made


def _units_leave_most(walk: Walk, ids: Ids, group: int, inputs: int, outputs: int) -> bool:
    """Whether removing whole groups leaves more free sets than removing positions inside all groups."""
    trial = walk.partition.copy()
    table = ids.reshape(group, inputs)
    trial.union(table, table[:, :1])
    units = free(trial.find(table[:, 0]))
    trial = walk.partition.copy()
    trial.union(table, table[:1])
    return units >= free(trial.find(table[0])) + (outputs if outputs > 1 else 0)


def _units(walk: Walk, ids: Ids, group: int, outputs: int) -> Ids:
    """Tie the channels of each group and return the labels of its outputs, which go with them."""
    table = ids.reshape(group, -1)
    rows = walk.union(table, np.broadcast_to(table[:, :1], table.shape)).reshape(table.shape)
    return np.repeat(walk.partition.find(rows[:, 0]), outputs)


def _tied_positions(walk: Walk, ids: Ids, group: int) -> Ids:
    """Tie the channels at the same position of all groups."""
    table = ids.reshape(group, -1)
    return walk.union(table.ravel(), np.broadcast_to(table[:1], table.shape).ravel())


def _positions(node: ir.Node, walk: Walk, ids: Ids, group: int, outputs: int, *, consumer: int, producer: int) -> Ids:
    tied = _tied_positions(walk, ids, group)
    walk.label(node, 1, consumer, tied[: len(tied) // group], Role.CONSUMER)
    made = np.tile(walk.fresh(outputs), group)
    walk.label(node, 1, producer, made, Role.PRODUCER)
    return made


def _with_bias(node: ir.Node, walk: Walk, made: Ids) -> tuple[Labels, ...]:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _weight(node, walk, 2)
        walk.label(node, 2, 0, made)
    return (walk.made(node.outputs[0], 1, made),)


def _times_weight(node: ir.Node, walk: Walk, data: ir.Value, index: int) -> tuple[Labels, ...]:
    """`index` is the side on which the weight stands (1: data @ weight, 0: weight @ data)."""
    weight, (out,) = _weight(node, walk, index), node.outputs
    labels, rank = walk.labels(data), len(walk.shape(data))
    # axes counted from the end: contracted axis of data and weight, the weight's other axis, where it appears in out
    contracted, inner, outer, place = (rank - 1, -2, -1, -1) if index == 1 else (max(rank - 2, 0), -1, -2, -2)
    if weight.ndim == 1:
        inner = -1
    if rank == 1 and index == 0:
        place = -1
    if labels.axis not in (None, contracted):
        if walk.worth(labels.ids):
            return (_beside(node, walk, labels, weight, index),)
        walk.partition.freeze(labels.ids)  # rows of padding, say: the weight's own channels are worth more
        labels = walk.labels(data)
    walk.label(node, index, weight.ndim + inner, walk.along(labels, contracted), Role.CONSUMER)
    if weight.ndim == 1:
        return (walk.made(out, None, NOTHING),)
    made = walk.fresh(weight.shape[outer])
    walk.label(node, index, weight.ndim + outer, made, Role.PRODUCER)
    return (walk.made(out, len(walk.shape(out)) + place, made),)


def _beside(node: ir.Node, walk: Walk, labels: Labels, weight: np.ndarray, index: int) -> Labels:
    """Pass on the labels of an axis of the data that the weight does not touch; the weight keeps its channels."""
    (out,) = node.outputs
    assert labels.axis is not None
    if weight.ndim != 2:
        raise Decline(f"the channels lie on axis {labels.axis} of the data and its weight is not a matrix")
    return walk.made(out, labels.axis, labels.ids)
