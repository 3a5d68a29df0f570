"""The comparison of steps with ONNX Runtime, one at a time and in line."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graph.bridge.agreement import difference, floor_of, full_precision, tolerance
from graph.bridge.node import Node
from graph.bridge.reference import Reference
from graph.bridge.values import to_tensor


@dataclass(frozen=True)
class Check:
    """Runs steps and compares them; `line` holds what torch computes from torch's own values, by name."""

    reference: Reference
    parameters: Mapping[str, Tensor]
    device: str
    line: dict[str, Any] = field(default_factory=dict)

    def alone(self, module: nn.Module, node: Node) -> tuple[float, bool]:
        """Run a step on ONNX Runtime's inputs.

        Returns the largest difference over the outputs and whether all are within the tolerance.
        """
        outputs = self._run(module, node, [self._reference(name) for name in node.inputs])
        worst, agrees = 0.0, True
        for name, got in outputs.items():
            want = self.reference.values[name]
            off = difference(got, want, floor_of(node.proto.op_type))
            worst, agrees = max(worst, off), agrees and off <= tolerance(want)
        return worst, agrees

    def in_line(self, module: nn.Module, node: Node) -> None:
        """Run a step on what torch has computed so far, whose memory layout is another than ONNX Runtime's."""
        inputs = [self.line[name] if name in self.line else self._reference(name) for name in node.inputs]
        self.line.update(self._run(module, node, inputs))

    def outputs(self, names: Iterable[str], op_types: Mapping[str, str]) -> float:
        """Return the largest difference end to end over the outputs that nodes make."""
        pairs = [(self.line[name], self.reference.values[name], floor_of(op_types[name])) for name in names]
        return max((difference(*pair) for pair in pairs), default=0.0)

    def _run(self, module: nn.Module, node: Node, inputs: list[Any]) -> dict[str, Any]:
        with torch.no_grad(), full_precision(), warnings.catch_warnings():
            warnings.simplefilter("error")  # a form that torch warns about would warn at each of the user's runs
            result = module.eval()(*inputs)
        results = (result,) if len(node.outputs) == 1 else tuple(result)
        return {name: value for name, value in zip(node.outputs, results, strict=True) if name}

    def _reference(self, name: str) -> Any:
        if name in self.parameters:
            return self.parameters[name]
        # opaque constants are inside their sessions and have no value here
        return to_tensor(self.reference.values.get(name), self.device) if name else None
