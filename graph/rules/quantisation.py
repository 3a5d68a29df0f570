"""Activations that are rounded: channels pass, and scales per channel follow."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import Walk


@rule("QuantizeLinear", "DequantizeLinear")
def rounded(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on; a scale and a zero point along the channels take them."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if node.attributes.get_int("block_size", 0):
        raise Decline(f"it has a scale per {node.attributes.get_int('block_size')} entries")
    for index, value in enumerate(node.inputs[1:], 1):
        if value is None or labels.axis is None or walk.shape(value) in ((), (1,)):
            continue
        if walk.constant(value) is None:
            raise Decline(f"its scales {value.name} are computed at run time")
        if node.attributes.get_int("axis", 1) % len(labels.shape) == labels.axis:
            walk.label(node, index, 0, labels.ids)
    return walk.outputs(node, labels.axis, labels.ids)
