"""Give every convolution and Gemm a bias of its own, so that compensation has a place for the mean that is lost."""

import math

import numpy as np
import onnx_ir as ir

from graph.constants import add_initializer
from graph.model import clone
from graph.names import Names

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}


def with_biases(model: ir.Model) -> ir.Model:
    """Return a copy in which each Conv, ConvTranspose and Gemm with a constant weight has its own bias.

    A bias that is missing becomes zeros of the weight's dtype; one that several nodes read is copied for each.
    What the model computes does not change.
    """
    model = clone(model)
    names = Names(model)
    for node in model.graph:
        if node.op_type not in _WEIGHTED or node.domain not in {"", "ai.onnx"} or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None:
            array = np.zeros(_outputs(node, tuple(weight.const_value.shape.numpy())), weight.const_value.dtype.numpy())
        elif bias.is_initializer() and bias.const_value is not None and len(list(bias.uses())) > 1:
            array = bias.const_value.numpy()
        else:
            continue
        _attach(model, node, names.free(f"{node.outputs[0].name}_bias"), array)
    return model


def _outputs(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * node.attributes.get_int("group", 1)
    return shape[0] if node.attributes.get_int("transB", 0) else math.prod(shape[1:])


def _attach(model: ir.Model, node: ir.Node, name: str, array: np.ndarray) -> None:
    value = add_initializer(model.graph, name, array)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
