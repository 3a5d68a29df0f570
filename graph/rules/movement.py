"""Operators that only move elements: the labels are moved in the same way."""

import math
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.partition import Ids, Partition, free
from graph.registry import Decline, mend, rule
from graph.rules.pointwise import meet
from graph.surgery import Surgery
from graph.walk import NOTHING, Walk

MOST_ELEMENTS = 2**27  # of a label array: beyond that, moving labels costs more memory than the tool may use


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Lay the labels out anew; where they then vary along several axes, tie all but the one that leaves most."""
    labels, (out,) = walk.labels(_data(node)), node.outputs
    shape = walk.shape(out)
    if labels.axis is None:
        return (walk.made(out, None, NOTHING),)
    axis = _same_axis(labels, shape)
    if axis is not None:
        return (walk.made(out, axis, labels.ids),)
    if math.prod(shape) > MOST_ELEMENTS:
        raise Decline(f"{out.name} of shape {shape} is too large to lay labels out on")
    thin = [1] * len(labels.shape)
    thin[labels.axis] = -1
    axis, ids = collapse(np.broadcast_to(labels.ids.reshape(thin), labels.shape).reshape(shape), walk.partition)
    return (walk.made(out, axis, ids),)


@rule("Transpose")
def transpose(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Carry the labels to where the permutation takes their axis."""
    labels = walk.labels(_data(node))
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    rank = len(labels.shape)
    perm = list(node.attributes.get_ints("perm", range(rank)[::-1]))
    return walk.outputs(node, perm.index(labels.axis), labels.ids)


@rule("Concat")
def concat(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Along the channels: join the labels. Across them: tie the operands, whose constants follow."""
    operands = [walk.labels(value) for value in node.inputs if value is not None]
    (out,) = node.outputs
    shape = walk.shape(out)
    place = node.attributes["axis"].as_int() % len(shape)
    joined = Labels(shape, place, np.concatenate([walk.along(labels, place) for labels in operands]))
    across = [labels for labels in operands if labels.axis not in (None, place)]
    best = max([joined, *across], key=lambda labels: free(labels.ids))
    for labels in (joined, *across):
        if labels.axis != best.axis:
            walk.fix(node, labels.ids, f"channels meet on axes {labels.axis} and {best.axis} of {out.name}")
    if best is joined:
        return (walk.made(out, place, joined.ids),)
    return (meet(node, walk, [(i, value) for i, value in enumerate(node.inputs) if value is not None], shape),)


@rule("Split")
def split(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Cut the labels as the tensor is cut."""
    labels = walk.labels(_data(node))
    place = node.attributes.get_int("axis", 0) % max(len(labels.shape), 1)
    if labels.axis != place:
        return walk.outputs(node, labels.axis, labels.ids)
    bounds = np.cumsum([0, *(walk.shape(value)[place] for value in node.outputs)])
    return tuple(
        walk.made(value, place, labels.ids[start:end])
        for value, (start, end) in zip(node.outputs, pairwise(bounds), strict=True)
    )


@rule("Slice")
def slice_(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Slice the labels, by steps of one."""
    labels = walk.labels(_data(node))
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    start, end, step = _bounds(node, walk, labels.axis, labels.shape[labels.axis])
    if step != 1:
        raise Decline(f"it takes the channels in steps of {step}")
    return walk.outputs(node, labels.axis, labels.ids[start:end])


@rule("Gather")
def gather(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pick the labels, where the indices are a constant row."""
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
    if picked is None or picked.ndim > 1:
        raise Decline(f"it picks channels by indices {indices.name} that are not a constant row")
    if picked.ndim == 0:
        walk.fix(node, labels.ids[[int(picked)]], f"it picks channel {int(picked)} alone")
        return walk.outputs(node, None, NOTHING)
    return walk.outputs(node, place, labels.ids[picked])


@rule("Expand")
def expand(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Keep the labels; the one channel that is spread over many is fixed."""
    labels, (out,) = walk.labels(_data(node)), node.outputs
    if labels.axis is None:
        return (walk.made(out, None, NOTHING),)
    shape = walk.shape(out)
    axis = labels.axis + len(shape) - len(labels.shape)
    if shape[axis] != len(labels.ids):
        walk.fix(node, labels.ids, f"one channel is spread over {shape[axis]}")
        return (walk.made(out, None, NOTHING),)
    return (walk.made(out, axis, labels.ids),)


@rule("Tile")
def tile(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Repeat the labels."""
    labels, (out,) = walk.labels(_data(node)), node.outputs
    if labels.axis is None:
        return (walk.made(out, None, NOTHING),)
    return (walk.made(out, labels.axis, np.tile(labels.ids, walk.shape(out)[labels.axis] // len(labels.ids))),)


@rule("DepthToSpace")
def depth_to_space(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Tie the channels that end up beside one another in space: they make one channel of the output."""
    labels, block = walk.labels(_data(node)), node.attributes["blocksize"].as_int() ** 2
    if labels.axis != 1:
        return _space(node, walk, labels)
    crd = node.attributes.get_string("mode", "DCR") == "CRD"
    table = labels.ids.reshape(-1, block).T if crd else labels.ids.reshape(block, -1)
    return walk.outputs(node, 1, walk.union(table, np.broadcast_to(table[:1], table.shape))[0])


@rule("SpaceToDepth")
def space_to_depth(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Repeat the labels for every position of a block."""
    labels, block = walk.labels(_data(node)), node.attributes["blocksize"].as_int() ** 2
    if labels.axis != 1:
        return _space(node, walk, labels)
    return walk.outputs(node, 1, np.tile(labels.ids, block))


@rule("Pad")
def pad(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Channels that a constant pad adds are labels of their own: any of them can go like a real one."""
    labels, (out,) = walk.labels(_data(node)), node.outputs
    rank = len(labels.shape)
    amounts = _pads(node, walk, rank)
    # a pad along the channel axis matters even where nothing is labelled yet
    padded = [axis for axis in range(rank) if (amounts[:, axis] != 0).any()]
    axis = labels.axis if labels.axis is not None else 1 if 1 in padded and rank > 2 else None
    if axis is None or axis not in padded:
        return (walk.made(out, labels.axis, labels.ids),)
    before, after = amounts[:, axis].tolist()
    if min(before, after) < 0 or node.attributes.get_string("mode", "constant") != "constant":
        raise Decline(f"it pads the channel axis by {before} and {after} in another way than with a constant")
    ids = [walk.partition.fresh(before), walk.along(labels, axis), walk.partition.fresh(after)]
    return (walk.made(out, axis, np.concatenate(ids)),)


def collapse(array: Ids, partition: Partition) -> tuple[int | None, Ids]:
    """Return the one axis along which labels vary, and the labels along it.

    Where they vary along several, all but the one that leaves most free sets are tied; an array that varies along
    none is fixed, since no axis would lose the channel.
    """
    varying = [axis for axis in range(array.ndim) if (array != array.take([0], axis)).any()]
    if not varying:
        partition.freeze(np.unique(array))
        return None, NOTHING
    tables = {axis: _rows(array, axis, varying) for axis in varying}
    best = max(varying, key=lambda axis: _free_rows(tables[axis], partition))
    table = tables[best]
    partition.union(table, table[:, :1])
    return best, partition.find(table[:, 0])


@mend("Reshape")
def mend_reshape(node: ir.Node, surgery: Surgery) -> None:
    """State the number of channels left where the shape states it, or where a 0 copied it from another axis."""
    data, out = _data(node), node.outputs[0]
    left, given = surgery.shape(out), surgery.shape(data)
    zero_copies = not node.attributes.get_int("allowzero", 0)
    wanted = {}
    for axis, size in enumerate(surgery.before(node, "shape", 1).tolist()):
        copies = size == 0 and zero_copies
        if size != -1 and left[axis] != (given[axis] if copies else size):
            wanted[axis] = left[axis]
    surgery.want(node, "shape", 1, wanted)


@mend("Split")
def mend_split(node: ir.Node, surgery: Surgery) -> None:
    """State the size of every part, since equal parts may have become unequal."""
    place = node.attributes.get_int("axis", 0)
    sizes = [surgery.width(value, place) for value in node.outputs]
    if sizes == [surgery.old_shape(value)[place] for value in node.outputs]:
        return
    if surgery.opset < 13:
        surgery.set_ints(node, "split", sizes)
    else:
        node.attributes.pop("num_outputs", None)
        surgery.give(node, 1, np.array(sizes, np.int64))


@mend("Slice")
def mend_slice(node: ir.Node, surgery: Surgery) -> None:
    """Count start and end in the channels that are left."""
    data, out = _data(node), node.outputs[0]
    mask, axis = surgery.kept(data), surgery.axis(data)
    if mask is None or axis is None:
        return
    starts, ends = surgery.before(node, "starts", 1), surgery.before(node, "ends", 2)
    axes = surgery.before(node, "axes", 3) if surgery.has(node, "axes", 3) else np.arange(len(starts))
    entries = [entry for entry, along in enumerate(axes.tolist()) if along % len(surgery.shape(data)) == axis]
    for entry in entries:
        start, _, _ = slice(int(starts[entry]), int(ends[entry]), 1).indices(len(mask))
        first = int(mask[:start].sum())
        last = first + surgery.width(out, axis)
        if slice(int(starts[entry]), int(ends[entry]), 1).indices(int(mask.sum())) != (first, last, 1):
            surgery.want(node, "starts", 1, {entry: first})
            surgery.want(node, "ends", 2, {entry: last})


@mend("Gather")
def mend_gather(node: ir.Node, surgery: Surgery) -> None:
    """Point the indices at where the channels that are left have moved to."""
    data, out = _data(node), node.outputs[0]
    mask, axis = surgery.kept(data), surgery.axis(data)
    if mask is None or axis != node.attributes.get_int("axis", 0) % len(surgery.shape(data)):
        return
    picked, left = surgery.before(node, "indices", 1), surgery.kept(out)
    moved = np.cumsum(mask) - 1
    surgery.give(node, 1, moved[picked if left is None else picked[left]].astype(picked.dtype))


@mend("Expand")
def mend_expand(node: ir.Node, surgery: Surgery) -> None:
    """State the number of channels left."""
    out = node.outputs[0]
    mask, axis = surgery.kept(out), surgery.axis(out)
    if mask is None or axis is None:
        return
    stated = surgery.before(node, "shape", 1)
    entry = axis - len(surgery.shape(out)) + len(stated)
    if entry >= 0 and stated[entry] != 1:
        surgery.want(node, "shape", 1, {entry: int(mask.sum())})


@mend("Pad")
def mend_pad(node: ir.Node, surgery: Surgery) -> None:
    """Add as many channels before and after as are left of those that were added."""
    data, out = _data(node), node.outputs[0]
    mask, axis = surgery.kept(out), surgery.axis(out)
    if mask is None or axis is None:
        return
    name, rank = "paddings" if "paddings" in node.attributes else "pads", len(surgery.shape(out))
    entries = _pad_entries(surgery.before(node, "axes", 3) if surgery.has(node, "axes", 3) else None, rank)
    if axis not in entries:
        return
    entry = entries.index(axis)
    before, real = int(surgery.before(node, name, 1)[entry]), surgery.old_shape(data)[axis]
    added = {entry: int(mask[:before].sum()), entry + len(entries): int(mask[before + real :].sum())}
    surgery.want(node, name, 1, added)


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _same_axis(labels: Labels, shape: tuple[int, ...]) -> int | None:
    """Return the axis of `shape` that holds exactly what the labelled axis held, if there is one."""
    axis = labels.axis
    assert axis is not None
    before, size = math.prod(labels.shape[:axis]), labels.shape[axis]
    for place, found in enumerate(shape):
        if found == size and math.prod(shape[:place]) == before and math.prod(shape) == math.prod(labels.shape):
            return place
    return None


def _rows(array: Ids, axis: int, varying: list[int]) -> Ids:
    """Return one row per position along `axis`, of the labels at the positions of the other varying axes."""
    thin = array[tuple(slice(None) if i in varying else slice(0, 1) for i in range(array.ndim))]
    return np.moveaxis(thin, axis, 0).reshape(array.shape[axis], -1)


def _free_rows(table: Ids, partition: Partition) -> int:
    trial = partition.copy()
    trial.union(table, table[:, :1])
    return free(trial.find(table[:, 0]))


def _space(node: ir.Node, walk: Walk, labels: Labels) -> tuple[Labels, ...]:
    if labels.axis is not None and labels.axis > 1:
        raise Decline(f"the channels lie on axis {labels.axis}, which it moves in blocks")
    return walk.outputs(node, labels.axis, labels.ids)


def _bounds(node: ir.Node, walk: Walk, axis: int, size: int) -> tuple[int, int, int]:
    """Return start, end and step of a Slice along an axis."""
    parts = {}
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        parts[name] = _ints(node, walk, name, index)
    if parts["starts"] is None or parts["ends"] is None:
        raise Decline("its bounds are not known")
    rank = len(walk.shape(_data(node)))
    axes = parts["axes"] or list(range(len(parts["starts"])))
    for place, along in enumerate(axes):
        if along % rank == axis:
            step = parts["steps"][place] if parts["steps"] else 1
            start, end, _ = slice(parts["starts"][place], parts["ends"][place], step).indices(size)
            return start, max(start, end), step
    return 0, size, 1


def _ints(node: ir.Node, walk: Walk, name: str, index: int) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets and an input in newer ones."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    array = walk.integers(value)
    if value is not None and array is None:
        raise Decline(f"its {name} {value.name} are not known")
    return None if array is None else [int(item) for item in array.ravel()]


def _pads(node: ir.Node, walk: Walk, rank: int) -> np.ndarray:
    """Return the pads as an array (2, rank): before and after, by axis."""
    amounts = _ints(node, walk, "pads", 1) or _ints(node, walk, "paddings", 1)
    if amounts is None:
        raise Decline("its pads are not known")
    entries = _pad_entries(walk.integers(node.inputs[3]) if len(node.inputs) > 3 else None, rank)
    table = np.zeros((2, rank), np.int64)
    table[:, entries] = np.array(amounts).reshape(2, -1)
    return table


def _pad_entries(axes: np.ndarray | None, rank: int) -> list[int]:
    return list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
