"""Nodes that did something before channels were removed and do nothing any more."""

import numpy as np
import onnx_ir as ir

from graph.registry import operator
from graph.surgery import Surgery
from graph.walk import constant_array


def idle(node: ir.Node, surgery: Surgery) -> ir.Value | None:
    """Return the input of a Slice or a Pad, mended already, that changed the number of channels and leaves it now.

    All that it did was to cut channels that are gone before it, or to add some of which none is left. Of what it does
    along other axes the traced sizes say too little, so that must be stated by constants. None for another node.
    """
    if operator(node) not in {("", "Slice"), ("", "Pad")}:
        return None
    data, out = node.inputs[0], node.outputs[0]
    axis = surgery.axis(out)
    if data is None or axis is None or out.is_graph_output():
        return None
    if surgery.old_shape(data) == surgery.old_shape(out) or surgery.shape(data) != surgery.shape(out):
        return None
    if node.op_type == "Pad":
        amounts = _stated(node, "pads", 1)
        return data if amounts is not None and not amounts.any() else None
    axes, steps = _stated(node, "axes", 3), _stated(node, "steps", 4)
    along = axes is not None and {int(each) % len(surgery.shape(out)) for each in axes.ravel()} == {axis}
    forwards = len(node.inputs) < 5 or (steps is not None and bool((steps == 1).all()))
    return data if along and forwards else None


def _stated(node: ir.Node, name: str, index: int) -> np.ndarray | None:
    if name in node.attributes:
        return np.array(node.attributes[name].as_ints())
    return constant_array(node.inputs[index]) if index < len(node.inputs) else None
