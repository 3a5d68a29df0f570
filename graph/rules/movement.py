"""Operators that move, join, cut or repeat whole channels: the labels go where the channels go."""

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, mend, rule
from graph.rules.pointwise import meet
from graph.rules.selection import integers
from graph.surgery import Surgery
from graph.walk import NOTHING, Walk


@rule("Concat")
def concat(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Along the channels: join the labels. Across them: tie the operands, whose constants follow."""
    operands = [walk.labels(value) for value in node.inputs if value is not None]
    (out,) = node.outputs
    shape = walk.shape(out)
    place = node.attributes["axis"].as_int() % len(shape)
    joined = Labels(shape, place, np.concatenate([walk.along(labels, place) for labels in operands]))
    across = [labels for labels in operands if labels.axis not in (None, place)]
    best = max([joined, *across], key=lambda labels: walk.worth(labels.ids)) if across else joined
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


@rule("Expand")
def expand(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Keep the labels; the one channel that is spread over many is fixed. A constant row gets labels of its own."""
    data, (out,) = _data(node), node.outputs
    labels, shape = walk.labels(data), walk.shape(out)
    if labels.axis is None:
        return (_own_row(node, walk, data, shape),)
    axis = labels.axis + len(shape) - len(labels.shape)
    if shape[axis] != len(labels.ids):
        walk.fix(node, labels.ids, f"one channel is spread over {shape[axis]}")
        return (walk.made(out, None, NOTHING),)
    return (walk.made(out, axis, labels.ids),)


@rule("ConstantOfShape")
def constant_of_shape(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Give a row of floats labels of its own: any of its equal entries can go."""
    (out,) = node.outputs
    shape = walk.shape(out)
    row = _row(shape)
    if row is None or walk.trace.dtypes[str(out.name)].kind != "f":
        return (walk.made(out, None, NOTHING),)
    return (walk.made(out, row, walk.spare(shape[row])),)


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
    ids = [walk.spare(before), walk.along(labels, axis), walk.spare(after)]
    return (walk.made(out, axis, np.concatenate(ids)),)


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


@mend("ConstantOfShape", "Expand")
def mend_expand(node: ir.Node, surgery: Surgery) -> None:
    """State the number of channels left."""
    out, index = node.outputs[0], len(node.inputs) - 1
    mask, axis = surgery.kept(out), surgery.axis(out)
    if mask is None or axis is None:
        return
    stated = surgery.before(node, "shape", index)
    entry = axis - len(surgery.shape(out)) + len(stated)
    if entry >= 0 and stated[entry] != 1:
        surgery.want(node, "shape", index, {entry: int(mask.sum())})


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


def _own_row(node: ir.Node, walk: Walk, data: ir.Value, shape: tuple[int, ...]) -> Labels:
    """Label a constant that is spread over the batch, as a class token is: its one axis longer than 1."""
    array, (out,) = walk.constant(data), node.outputs
    row = None if array is None else _row(array.shape)
    if array is None or row is None or array.dtype.kind != "f":
        return walk.made(out, None, NOTHING)
    ids = walk.spare(array.shape[row])
    walk.label(node, 0, row, ids)
    return walk.made(out, row + len(shape) - array.ndim, ids)


def _row(shape: tuple[int, ...]) -> int | None:
    """Return the only axis that is longer than 1."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    return long[0] if len(long) == 1 else None


def _space(node: ir.Node, walk: Walk, labels: Labels) -> tuple[Labels, ...]:
    if labels.axis is not None and labels.axis > 1:
        raise Decline(f"the channels lie on axis {labels.axis}, which it moves in blocks")
    return walk.outputs(node, labels.axis, labels.ids)


def _pads(node: ir.Node, walk: Walk, rank: int) -> np.ndarray:
    """Return the pads as an array (2, rank): before and after, by axis."""
    amounts = integers(node, walk, "pads", 1) or integers(node, walk, "paddings", 1)
    if amounts is None:
        raise Decline("its pads are not known")
    entries = _pad_entries(walk.integers(node.inputs[3]) if len(node.inputs) > 3 else None, rank)
    table = np.zeros((2, rank), np.int64)
    table[:, entries] = np.array(amounts).reshape(2, -1)
    return table


def _pad_entries(axes: np.ndarray | None, rank: int) -> list[int]:
    return list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
