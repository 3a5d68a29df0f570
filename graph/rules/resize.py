"""Resampling in space: channels pass, a stated size along them is mended."""

import numpy as np
import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, mend, rule
from graph.surgery import Surgery
from graph.walk import Walk


@rule("Resize", "Upsample")
def resize(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Pass labels on where the channel axis keeps its size: a scale of 1, or the same size stated."""
    data = node.inputs[0]
    assert data is not None
    labels = walk.labels(data)
    if labels.axis is None:
        return walk.outputs(node, None, labels.ids)
    scale = _scale(node, walk, labels.axis, len(labels.shape))
    if scale is None:
        _check_sizes(node, labels.axis)
    elif scale != 1:
        raise Decline(f"it scales the channel axis by {scale:g}")
    if walk.shape(node.outputs[0])[labels.axis] != len(labels.ids):
        raise Decline("it changes the size of the channel axis")
    return walk.outputs(node, labels.axis, labels.ids)


@mend("Resize")
def mend_resize(node: ir.Node, surgery: Surgery) -> None:
    """State the number of channels left where sizes are stated."""
    out = node.outputs[0]
    axis = surgery.axis(out)
    if axis is None or not surgery.has(node, "sizes", 3):
        return
    axes = [
        entry % len(surgery.shape(out)) for entry in node.attributes.get_ints("axes", range(len(surgery.shape(out))))
    ]
    entries = {axes.index(axis): surgery.width(out, axis)} if axis in axes else {}
    surgery.want(node, "sizes", 3, entries)


def _scale(node: ir.Node, walk: Walk, axis: int, rank: int) -> float | None:
    """Return the scale along an axis, or None where sizes are stated instead."""
    axes = [entry % rank for entry in node.attributes.get_ints("axes", range(rank))]
    if axis not in axes:
        return 1.0
    if "scales" in node.attributes:
        return float(node.attributes["scales"].as_floats()[axes.index(axis)])
    index = 1 if len(node.inputs) == 2 else 2
    scales = walk.constant(node.inputs[index]) if index < len(node.inputs) else None
    if scales is not None and scales.size:
        return float(np.ravel(scales)[axes.index(axis)])
    if len(node.inputs) < 4 or node.inputs[3] is None:
        raise Decline("its scales are computed at run time")
    return None


def _check_sizes(node: ir.Node, axis: int) -> None:
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Decline("it crops along the channel axis")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Decline("its sizes along space depend on the size of the channel axis")
