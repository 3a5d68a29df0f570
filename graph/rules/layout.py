"""Operators that lay the same elements out in another shape: the labels are laid out in the same way.

Where the labels then vary along several axes, one of them keeps its labels and all that lies across it is tied. At the
Reshape of attention, for one, whole heads can go, or the same position of every head. Which is better shows only
further on: see `graph.choices`.
"""

import math

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.partition import Ids, Partition, free
from graph.registry import Decline, mend, rule
from graph.surgery import Surgery
from graph.walk import NOTHING, Walk

MOST_ELEMENTS = 2**24  # of a label array: beyond that, moving labels costs more memory than the tool may use


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Lay the labels out anew; where they then vary along several axes, keep one and tie what lies across it."""
    data, (out,) = node.inputs[0], node.outputs
    assert data is not None
    labels, shape = walk.labels(data), walk.shape(out)
    if labels.axis is None:
        return (walk.made(out, None, NOTHING),)
    array, repeats, tiles = _laid_out(labels, shape, str(out.name))
    axis, ids = collapse(node, walk, array)
    if axis is None:
        return (walk.made(out, None, NOTHING),)
    return (walk.made(out, axis, np.tile(np.repeat(ids, repeats[axis]), tiles[axis])),)


@rule("Transpose")
def transpose(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Carry the labels to where the permutation takes their axis."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    rank = len(labels.shape)
    perm = list(node.attributes.get_ints("perm", range(rank)[::-1]))
    return walk.outputs(node, perm.index(labels.axis), labels.ids)


@mend("Reshape")
def mend_reshape(node: ir.Node, surgery: Surgery) -> None:
    """State the number of channels left where the shape states it, or where a 0 copied it from another axis."""
    data, out = node.inputs[0], node.outputs[0]
    left, given = surgery.shape(out), surgery.shape(data)
    zero_copies = not node.attributes.get_int("allowzero", 0)
    wanted = {}
    for axis, size in enumerate(surgery.before(node, "shape", 1).tolist()):
        copies = size == 0 and zero_copies
        if size != -1 and left[axis] != (given[axis] if copies else size):
            wanted[axis] = left[axis]
    surgery.want(node, "shape", 1, wanted)


def collapse(node: ir.Node, walk: Walk, array: Ids) -> tuple[int | None, Ids]:
    """Return the one axis that keeps its labels, and the labels along it; what lies across it is tied.

    Of several axes along which the labels vary it is the one that leaves most free sets, or the one that
    `walk.prefer` names. Labels that vary along none are fixed, since no axis would lose the channel.
    """
    varying = [axis for axis in range(array.ndim) if (array != array.take([0], axis)).any()]
    if not varying:
        walk.fix(node, np.unique(array), "a single channel fills all of its output")
        return None, NOTHING
    tables = {axis: _rows(array, axis, varying) for axis in varying}
    best = max(varying, key=lambda axis: _free_rows(tables[axis], walk.partition))
    if len(varying) > 1:
        best = walk.choose(node, array, varying, best)
    table = tables[best]
    walk.partition.union(table, table[:, :1])
    return best, walk.partition.find(table[:, 0])


def _laid_out(labels: Labels, shape: tuple[int, ...], name: str) -> tuple[Ids, list[int], list[int]]:
    """Return the labels on a thinned `shape`, and how often each place of an axis repeats and each axis is tiled.

    Labels that vary along one axis come in stretches of equal ones, and the stretches in periods. What of the last
    axes lies within a stretch is left out, and what of the first axes counts periods.
    """
    axis, thin = labels.axis, list(shape)
    assert axis is not None
    periods, stretch = math.prod(labels.shape[:axis]), math.prod(labels.shape[axis + 1 :])
    repeats, tiles = [1] * len(shape), [1] * len(shape)
    for place in reversed(range(len(shape))):
        repeats[place] = math.gcd(thin[place], stretch)
        thin[place], stretch = thin[place] // repeats[place], stretch // repeats[place]
        if thin[place] > 1:
            break
    for place in range(len(shape)):
        tiles[place] = math.gcd(thin[place], periods)
        thin[place], periods = thin[place] // tiles[place], periods // tiles[place]
        if thin[place] > 1:
            break
    if math.prod(thin) > MOST_ELEMENTS:
        raise Decline(f"{name} of shape {shape} is too large to lay labels out on")
    return np.tile(np.repeat(labels.ids, stretch), periods).reshape(thin), repeats, tiles


def _rows(array: Ids, axis: int, varying: list[int]) -> Ids:
    """Return one row per position along `axis`, of the labels at the positions of the other varying axes."""
    thin = array[tuple(slice(None) if i in varying else slice(0, 1) for i in range(array.ndim))]
    return np.moveaxis(thin, axis, 0).reshape(array.shape[axis], -1)


def _free_rows(table: Ids, partition: Partition) -> int:
    trial = partition.copy()
    trial.union(table, table[:, :1])
    return free(trial.find(table[:, 0]))
