"""Our own converters: a table from operator to the function that makes its torch computation.

A converter takes a `Node` and returns a function of one tensor (or None) per input. It raises `Declined`
where it does not know the case; onnx2torch is asked next, and ONNX Runtime last. Weights are always
arguments, in ONNX's layout, so that they can be exchanged and have gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graph.bridge.node import Declined, Node

Compute = Callable[..., Any]
Converter = Callable[[Node], Compute]

CONVERTERS: dict[tuple[str, str], Converter] = {}


def converts(*op_types: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Register a converter for operators of a domain; a second one for the same operator raises ValueError."""

    def register(converter: Converter) -> Converter:
        for op_type in op_types:
            if (domain, op_type) in CONVERTERS:
                raise ValueError(f"{op_type} of domain '{domain}' has two converters")
            CONVERTERS[domain, op_type] = converter
        return converter

    return register


class Apply(nn.Module):
    """A function as a module: stateless, one argument per input of the ONNX node."""

    def __init__(self, op_type: str, compute: Compute) -> None:
        """Keep the function; `op_type` is shown in the module's description."""
        super().__init__()
        self.op_type = op_type
        self.compute = compute

    def forward(self, *args: torch.Tensor | None) -> Any:
        """Compute the node."""
        return self.compute(*args)

    def extra_repr(self) -> str:
        """Name the operator."""
        return self.op_type


def convert_own(node: Node) -> nn.Module:
    """Convert with our own table; raises Declined where it does not know the operator or the case."""
    domain = "" if node.proto.domain == "ai.onnx" else node.proto.domain
    converter = CONVERTERS.get((domain, node.proto.op_type))
    if converter is None:
        raise Declined(f"the bridge has no {node.proto.op_type} of its own")
    return Apply(node.proto.op_type, converter(node))
