"""Operators that take or write some elements of a tensor: the labels are taken in the same way."""

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, mend, rule
from graph.rules.layout import collapse
from graph.rules.pointwise import meet
from graph.surgery import Surgery
from graph.walk import NOTHING, Walk

WHOLE = np.iinfo(np.int64).max  # an end beyond any axis


@rule("Slice")
def slice_(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Slice the labels."""
    labels = walk.labels(_data(node))
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    return walk.outputs(node, labels.axis, labels.ids[_slice(node, walk, labels.axis)])


@rule("Gather")
def gather(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pick the labels, where the indices are constant."""
    data, indices = _data(node), node.inputs[1]
    labels = walk.labels(data)
    assert indices is not None
    if walk.labels(indices).axis is not None:
        raise Decline("its indices depend on the channels")
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    place, rank = node.attributes.get_int("axis", 0) % len(labels.shape), len(walk.shape(indices))
    if labels.axis != place:
        return walk.outputs(node, labels.axis + (rank - 1 if labels.axis > place else 0), labels.ids)
    picked = walk.constant(indices)
    if picked is None:
        raise Decline(f"it picks channels by indices {indices.name} that are computed at run time")
    if picked.ndim == 0:
        walk.fix(node, labels.ids[[int(picked)]], f"it picks channel {int(picked)} alone")
        return walk.outputs(node, None, NOTHING)
    axis, ids = collapse(node, walk, labels.ids[picked])
    return walk.outputs(node, None if axis is None else place + axis, ids)


@rule("GatherElements", "Scatter", "ScatterElements")
def elements(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Tie what lies beside one another across the axis along which it picks; labels along that axis are fixed."""
    (out,) = node.outputs
    shape = walk.shape(out)
    place = node.attributes.get_int("axis", 0) % len(shape)
    inputs = [(i, value) for i, value in enumerate(node.inputs) if value is not None]
    for _, value in inputs:
        labels = walk.labels(value)
        if labels.axis == place:
            walk.fix(node, labels.ids, f"it picks single elements along the channels (axis {place})")
        elif labels.axis is not None and any(walk.shape(v)[labels.axis] != len(labels.ids) for _, v in inputs):
            raise Decline(f"it leaves out a part of the channels (axis {labels.axis})")
    return (meet(node, walk, inputs, shape),)


@rule("GatherND", "ScatterND")
def whole_slices(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels of the axes behind those that the indices address; what is written is tied with what was there."""
    data, indices, (out,) = _data(node), node.inputs[1], node.outputs
    assert indices is not None
    if walk.labels(indices).axis is not None:
        raise Decline("its indices depend on the channels")
    depth = node.attributes.get_int("batch_dims", 0) + walk.shape(indices)[-1]
    behind = len(walk.shape(data)) - depth
    inputs = [(i, value) for i, value in enumerate(node.inputs) if value is not None and i != 1]
    for _, value in inputs:
        labels = walk.labels(value)
        if labels.axis is not None and labels.axis < len(labels.shape) - behind:
            raise Decline(f"the channels of {value.name} lie on axis {labels.axis}, which its indices address")
    return (meet(node, walk, inputs, walk.shape(out)),)


@mend("Slice")
def mend_slice(node: ir.Node, surgery: Surgery) -> None:
    """Count start and end in the channels that are left; those that are taken in steps are picked one by one."""
    data = _data(node)
    mask, axis = surgery.kept(data), surgery.axis(data)
    if mask is None or axis is None:
        return
    starts, ends = surgery.before(node, "starts", 1), surgery.before(node, "ends", 2)
    axes = surgery.before(node, "axes", 3) if surgery.has(node, "axes", 3) else np.arange(len(starts))
    steps = surgery.before(node, "steps", 4) if surgery.has(node, "steps", 4) else np.ones_like(starts)
    first, last, by = {}, {}, {}
    for entry in np.flatnonzero(axes % len(surgery.shape(data)) == axis).tolist():
        stated = slice(int(starts[entry]), int(ends[entry]), int(steps[entry]))
        taken = np.arange(len(mask))[stated]
        moved = (np.cumsum(mask) - 1)[taken[mask[taken]]]
        if np.array_equal(np.arange(mask.sum())[stated], moved):
            continue
        if steps[entry] == 1:
            first[entry], last[entry] = (int(moved[0]), int(moved[-1]) + 1) if len(moved) else (0, 0)
        else:
            surgery.pick(node, 0, axis, moved)
            first[entry], last[entry], by[entry] = 0, WHOLE, 1
    surgery.want(node, "starts", 1, first)
    surgery.want(node, "ends", 2, last)
    if by:
        surgery.want(node, "steps", 4, by)


@mend("Gather")
def mend_gather(node: ir.Node, surgery: Surgery) -> None:
    """Point the indices at where the channels that are left have moved to."""
    data, out = _data(node), node.outputs[0]
    mask, axis = surgery.kept(data), surgery.axis(data)
    if mask is None or axis != node.attributes.get_int("axis", 0) % len(surgery.shape(data)):
        return
    picked, left, place = surgery.before(node, "indices", 1), surgery.kept(out), surgery.axis(out)
    if left is not None and place is not None:
        picked = picked.compress(left, place - axis)
    surgery.give(node, 1, (np.cumsum(mask) - 1)[picked].astype(picked.dtype))


def integers(node: ir.Node, walk: Walk, name: str, index: int) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets and an input in newer ones."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    array = walk.integers(value)
    if value is not None and array is None:
        raise Decline(f"its {name} {value.name} are not known")
    return None if array is None else [int(item) for item in array.ravel()]


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _slice(node: ir.Node, walk: Walk, axis: int) -> slice:
    """Return what a Slice takes along an axis."""
    named = enumerate(("starts", "ends", "axes", "steps"), 1)
    starts, ends, axes, steps = (integers(node, walk, name, index) for index, name in named)
    if starts is None or ends is None:
        raise Decline("its bounds are not known")
    rank = len(walk.shape(_data(node)))
    for place, along in enumerate(axes or range(len(starts))):
        if along % rank == axis:
            return slice(starts[place], ends[place], steps[place] if steps else 1)
    return slice(None)
