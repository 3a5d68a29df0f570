"""Normalisations with one set of parameters per channel, or over groups of channels."""

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.partition import Ids
from graph.registry import Decline, mend, rule
from graph.surgery import Surgery
from graph.walk import Walk


@rule("BatchNormalization")
def batch_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Scale, bias, mean and variance take the labels of axis 1."""
    if node.attributes.get_int("training_mode", 0) or any(value.name for value in node.outputs[1:]):
        raise Decline("it is in training mode")
    if node.attributes.get_int("spatial", 1) == 0:
        raise Decline("it has parameters per position (spatial = 0)")
    return _per_channel(node, walk)


@rule("InstanceNormalization")
def instance_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Scale and bias take the labels of axis 1."""
    return _per_channel(node, walk)


@rule("GroupNormalization")
def group_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Tie the channels of each group, which is normalised as a whole; scale and bias take the labels of axis 1."""
    axis, ids = _channels(node, walk)
    table = ids.reshape(node.attributes["num_groups"].as_int(), -1)
    tied = walk.union(table.ravel(), np.broadcast_to(table[:, :1], table.shape).ravel())
    return _with_parameters(node, walk, axis, tied)


@rule("LRN")
def local_response_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels of other axes on: each channel is divided by a sum over those beside it."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis == 1:
        raise Decline(f"it normalises each channel by the {node.attributes['size'].as_int()} channels around it")
    return walk.outputs(node, labels.axis, labels.ids)


@mend("GroupNormalization")
def mend_group_normalization(node: ir.Node, surgery: Surgery) -> None:
    """State how many groups are left."""
    data = node.inputs[0]
    groups = node.attributes["num_groups"].as_int()
    surgery.set_int(node, "num_groups", groups * surgery.width(data, 1) // surgery.old_shape(data)[1])


def _per_channel(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    return _with_parameters(node, walk, *_channels(node, walk))


def _channels(node: ir.Node, walk: Walk) -> tuple[int | None, Ids]:
    """Return the axis of the labels, which must be axis 1, and the ids along axis 1."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis not in (None, 1):
        raise Decline(f"the channels of {data.name} lie on axis {labels.axis}, not on axis 1")
    return labels.axis, walk.along(labels, 1)


def _with_parameters(node: ir.Node, walk: Walk, axis: int | None, ids: Ids) -> tuple[Labels, ...]:
    """Label all inputs but the first, and pass the labels on."""
    for index, value in enumerate(node.inputs[1:], 1):
        if walk.constant(value) is None:
            raise Decline(f"its parameter {value.name if value else index} is computed at run time")
        walk.label(node, index, 0, ids)
    return walk.outputs(node, axis, ids)
