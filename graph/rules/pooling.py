"""Pooling: channels stay where they are."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import Walk


@rule("AveragePool", "LpPool", "MaxPool")
def pool(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the labels of axis 0 or 1 on; the indices of MaxPool count channels, so their use is declined."""
    if len(node.outputs) > 1 and node.outputs[1].name:
        raise Decline(f"its second output {node.outputs[1].name} holds positions that count the channels")
    return _beside_space(node, walk)


@rule("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the labels of axis 0 or 1 on."""
    return _beside_space(node, walk)


@rule("GridSample")
def grid_sample(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the labels of the image on; the grid must not depend on channels."""
    grid = node.inputs[1]
    if grid is not None and walk.labels(grid).axis is not None:
        raise Decline(f"its grid {grid.name} depends on the channels")
    return _beside_space(node, walk)


@rule("MaxRoiPool", "RoiAlign")
def regions(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass the labels of axis 1 on, from the image to each of its regions."""
    data, *places = node.inputs
    assert data is not None
    labels = walk.labels(data)
    if labels.axis not in (None, 1):
        raise Decline(f"the channels of {data.name} lie on axis {labels.axis}, not on axis 1")
    for value in places:
        if value is not None and walk.labels(value).axis is not None:
            raise Decline(f"its regions {value.name} depend on the channels")
    return walk.outputs(node, labels.axis, labels.ids)


def _beside_space(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis is not None and labels.axis > 1:
        raise Decline(f"the channels of {data.name} lie on axis {labels.axis}, which it pools")
    return walk.outputs(node, labels.axis, labels.ids)
