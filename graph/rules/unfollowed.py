"""Operators that are common, and through which channels are not followed: why not, in a sentence."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import Walk


@rule("GRU", "LSTM", "RNN")
def recurrent(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Decline: gates and state share their weights, and each state would have to go from all of them at once."""
    del walk
    size = node.attributes.get_int("hidden_size", 0)
    raise Decline(f"a recurrent layer keeps its inputs and its {size} states: its weights are not followed")


@rule("Attention")
@rule("Attention", "GroupQueryAttention", "MultiHeadAttention", "QAttention", domain="com.microsoft")
def attention(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Decline: which channels make up a head is hidden in its attributes."""
    del walk
    raise Decline(f"attention as the one operator {node.op_type} keeps its heads")


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", domain="com.microsoft")
def skip_normalization(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Decline: mean and variance are taken along the channels."""
    del walk
    raise Decline(f"it normalises along the channels of {node.inputs[0].name if node.inputs[0] else 'its input'}")


@rule("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
@rule("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearAdd", "QLinearMul", domain="com.microsoft")
def quantised(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Decline: weights in whole numbers are not cut."""
    del walk
    raise Decline("it computes with whole numbers: quantised layers keep their channels")
