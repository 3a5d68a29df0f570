"""One ONNX node as the converters see it: attributes as Python values, constants on request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto


class Declined(Exception):
    """A converter leaves a node to the next one; the message says why."""


@dataclass(frozen=True)
class Node:
    """A node of the graph with what is known about its surroundings.

    `constants` holds the initializers and Constant outputs by name, `ranks` the ranks seen in the
    reference run. `read` collects the names of the constants whose value went into the conversion, so
    that they can no longer be exchanged.
    """

    proto: NodeProto
    opset: int
    constants: Mapping[str, np.ndarray]
    ranks: Mapping[str, int]
    captured: tuple[str, ...] = ()
    read: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The name of the first output that is there: the key of the node."""
        return next((name for name in self.proto.output if name), self.proto.name)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs ('' = absent), then of the outer values that the node's subgraphs use."""
        return (*self.proto.input, *self.captured)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs ('' = absent), without absent ones at the end."""
        names = list(self.proto.output)
        while names and not names[-1]:
            names.pop()
        return tuple(names)

    @cached_property
    def version(self) -> int:
        """The opset in which this revision of the operator appeared; the model's opset if it is not known."""
        try:
            return onnx.defs.get_schema(self.proto.op_type, self.opset, self.proto.domain).since_version
        except onnx.defs.SchemaError:
            return self.opset

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes by name; strings are decoded."""
        return {attribute.name: _python(attribute) for attribute in self.proto.attribute}

    def has(self, index: int) -> bool:
        """Tell whether the optional input is there."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def constant(self, index: int) -> np.ndarray | None:
        """Return the value of an input where it is a constant, and note that it was read."""
        if not self.has(index) or self.proto.input[index] not in self.constants:
            return None
        self.read.add(self.proto.input[index])
        return self.constants[self.proto.input[index]]

    def only_output(self) -> None:
        """Decline when more than the first output is used."""
        if len(self.outputs) > 1:
            raise Declined(f"output {self.outputs[1]} of {self.proto.op_type} is not computed in torch")


def _python(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def captured_names(proto: NodeProto) -> tuple[str, ...]:
    """Return the names that the subgraphs of a node take from outside, in order of first use."""
    names: dict[str, None] = {}
    for attribute in proto.attribute:
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            names.update(dict.fromkeys(_free_names(graph)))
    return tuple(name for name in names if name not in proto.input)


def _free_names(graph: GraphProto) -> list[str]:
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    defined |= {name for node in graph.node for name in node.output}
    used = [name for node in graph.node for name in (*node.input, *captured_names(node))]
    used += [value.name for value in graph.output]
    return [name for name in used if name and name not in defined]
