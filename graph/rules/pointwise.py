"""Elementwise operators with broadcasting: channels that meet are tied, constants take the labels they meet."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import NOTHING, Walk

# fmt: off - rows read better than a column
UNARY = (
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
)
# fmt: on
# fmt: off - rows read better than a column
BROADCAST = (
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
)
# fmt: on


@rule(*UNARY)
def unary(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the first input's labels on; bounds, ratios and the like are scalars and touch no channel."""
    first = node.inputs[0]
    assert first is not None
    labels = walk.labels(first)
    return walk.outputs(node, labels.axis, labels.ids)


@rule("CastLike")
def cast_like(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the first input's labels on: of the second only the type is read."""
    return unary(node, walk)


@rule("Gelu", "FastGelu", "QuickGelu", "BiasGelu", domain="com.microsoft")
def microsoft(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Tie the activation and, where there is one, its bias."""
    return broadcast(node, walk)


@rule(*BROADCAST)
def broadcast(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Tie what meets at the same position; constants with a size along the channels follow."""
    if node.attributes.get_int("broadcast", 0):
        raise Decline("it aligns its operands by the `axis` of opset 6")
    (out,) = node.outputs
    return (
        meet(node, walk, [(i, value) for i, value in enumerate(node.inputs) if value is not None], walk.shape(out)),
    )


def meet(
    node: ir.Node, walk: Walk, inputs: list[tuple[int, ir.Value]], shape: tuple[int, ...], own: Labels | None = None
) -> Labels:
    """Return the labels of a broadcast of `inputs` (index, value) to `shape`, with labels `own` of the node's making.

    Where operands vary along different axes, those with most free channels win and the others are fixed.
    """
    rank = len(shape)
    labelled = [(_right_aligned(walk.labels(value), rank), value) for _, value in inputs]
    candidates = [labels for labels, _ in labelled if labels.axis is not None]
    if own is not None and own.axis is not None:
        candidates.append(own)
    merged = _one_per_axis(node, walk, candidates, shape)
    if not merged:
        return Labels(shape, None, NOTHING)
    best = walk.most(node, merged)
    axis = best.axis
    assert axis is not None
    size, ids = shape[axis], best.ids
    for (index, value), (labels, _) in zip(inputs, labelled, strict=True):
        its = walk.shape(value)
        own_axis = axis - rank + len(its)
        if own_axis < 0 or (its[own_axis] == 1 and size > 1):
            continue  # broadcast along the channels
        if walk.constant(value) is not None:
            walk.label(node, index, own_axis, ids)
        elif labels.axis != axis:
            walk.fix(node, ids, f"they meet {value.name}, whose channels are fixed")
    return Labels(shape, axis, walk.partition.find(ids))


def _one_per_axis(node: ir.Node, walk: Walk, candidates: list[Labels], shape: tuple[int, ...]) -> list[Labels]:
    """Tie the labels that vary along the same axis; fix those of one channel that is spread over many."""
    by_axis: dict[int, Labels] = {}
    for labels in candidates:
        assert labels.axis is not None
        if len(labels.ids) != shape[labels.axis]:
            walk.fix(node, labels.ids, f"one channel is spread over {shape[labels.axis]}")
        elif labels.axis in by_axis:
            walk.union(by_axis[labels.axis].ids, labels.ids)
        else:
            by_axis[labels.axis] = labels
    return [walk.refreshed(labels) for labels in by_axis.values()]


def _right_aligned(labels: Labels, rank: int) -> Labels:
    if labels.axis is None:
        return labels
    return Labels(labels.shape, labels.axis + rank - len(labels.shape), labels.ids)
