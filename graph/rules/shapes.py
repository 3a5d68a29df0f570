"""Operators that read the shape of a tensor only: what they make has no channels."""

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import rule
from graph.walk import NOTHING, Walk


@rule("Shape", "Size", "Constant", "Range", "RandomNormal", "RandomUniform")
def measured(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Touch no channel; `graph.surgery` recomputes the integers that follow from shapes."""
    return walk.outputs(node, None, NOTHING)
