"""Normalisations with one set of parameters per channel."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
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


def _per_channel(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis not in (None, 1):
        raise Decline(f"the channels of {data.name} lie on axis {labels.axis}, not on axis 1")
    ids = walk.along(labels, 1)
    for index, value in enumerate(node.inputs[1:], 1):
        if walk.constant(value) is None:
            raise Decline(f"its parameter {value.name if value else index} is computed at run time")
        walk.label(node, index, 0, ids)
    return walk.outputs(node, labels.axis, labels.ids)
