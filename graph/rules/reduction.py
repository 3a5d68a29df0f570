"""Operators that work along some axes: channels on the other axes pass."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import NOTHING, Walk

# fmt: off - rows read better than a column
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
# fmt: on


@rule(*REDUCTIONS)
def reduce(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where their axis is not reduced."""
    labels = _first(node, walk)
    rank = len(labels.shape)
    axes = _axes(node, walk)
    if not axes:
        axes = [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return _reduced(node, walk, labels, {axis % rank for axis in axes} if rank else set())


@rule("ArgMax", "ArgMin")
def arg(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where the search is not along their axis."""
    labels = _first(node, walk)
    return _reduced(node, walk, labels, {node.attributes.get_int("axis", 0) % max(len(labels.shape), 1)})


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where they do not vary along what is normalised (before opset 13: every axis from `axis` on)."""
    labels = _first(node, walk)
    rank = max(len(labels.shape), 1)
    if walk.opset >= 13:
        return _along(node, walk, labels, {node.attributes.get_int("axis", -1) % rank})
    return _along(node, walk, labels, set(range(node.attributes.get_int("axis", 1) % rank, rank)))


@rule("CumSum")
def cumulative_sum(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where the sum is not along their axis."""
    labels, axis = _first(node, walk), walk.integers(node.inputs[1])
    if axis is None:
        raise Decline("its axis is not known")
    return _along(node, walk, labels, {int(axis.ravel()[0]) % max(len(labels.shape), 1)})


@rule("TopK")
def top_k(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on, to the values and the indices, where the choice is not along their axis."""
    labels = _first(node, walk)
    return _along(node, walk, labels, {node.attributes.get_int("axis", -1) % max(len(labels.shape), 1)})


@rule("Trilu")
def triangle(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on that do not lie along the two axes of the triangle."""
    labels = _first(node, walk)
    rank = len(labels.shape)
    return _along(node, walk, labels, {rank - 2, rank - 1})


@rule("LpNormalization")
def lp_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where the norm is not along their axis."""
    labels = _first(node, walk)
    return _along(node, walk, labels, {node.attributes.get_int("axis", -1) % max(len(labels.shape), 1)})


@rule("MeanVarianceNormalization")
def mean_variance(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where mean and variance are not taken along their axis."""
    labels = _first(node, walk)
    rank = max(len(labels.shape), 1)
    return _along(node, walk, labels, {axis % rank for axis in node.attributes.get_ints("axes", (0, 2, 3))})


@rule("LayerNormalization", "RMSNormalization")
@rule("SimplifiedLayerNormalization")
def layer_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels of the axes before those that are normalised; the scale lies on the latter only."""
    labels = _first(node, walk)
    rank = max(len(labels.shape), 1)
    normalised = set(range(node.attributes.get_int("axis", -1) % rank, rank))
    _decline_along(labels, normalised)
    for value in node.outputs[1:]:
        if value.name:
            raise Decline(f"its output {value.name} is used")
    return walk.outputs(node, labels.axis, labels.ids)


def _first(node: ir.Node, walk: Walk) -> Labels:
    data = node.inputs[0]
    assert data is not None
    return walk.labels(data)


def _axes(node: ir.Node, walk: Walk) -> list[int]:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None:
        return []
    axes = walk.integers(value)
    if axes is None:
        raise Decline(f"its axes {value.name} are not known")
    return [int(axis) for axis in axes.ravel()]


def _reduced(node: ir.Node, walk: Walk, labels: Labels, axes: set[int]) -> tuple[Labels, ...]:
    if labels.axis is None:
        return walk.outputs(node, None, NOTHING)
    _decline_along(labels, axes)
    gone = 0 if node.attributes.get_int("keepdims", 1) else sum(axis < labels.axis for axis in axes)
    return walk.outputs(node, labels.axis - gone, labels.ids)


def _along(node: ir.Node, walk: Walk, labels: Labels, axes: set[int]) -> tuple[Labels, ...]:
    _decline_along(labels, axes)
    return walk.outputs(node, labels.axis, labels.ids)


def _decline_along(labels: Labels, axes: set[int]) -> None:
    if labels.axis in axes:
        raise Decline(f"it works along the channels (axis {labels.axis})")
