"""The result of the bridge: a torch module and its parts, by ONNX names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from graph.bridge.values import from_array
from graph.errors import ModelError


@dataclass(frozen=True)
class Step:
    """One ONNX node, ready to run.

    `module` takes one tensor (or None) per name in `inputs` and returns a tensor, or a tuple where there are
    several `outputs`; '' stands for an absent one, and for a constant that torch cannot hold, which is inside
    the module. After the node's own inputs come the outer values that its subgraphs use. `fallback` tells that
    it runs in ONNX Runtime, through which no gradient passes. `constants` are the inputs whose value went into
    the module, so that another value would not be seen.
    """

    node: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: nn.Module
    fallback: bool
    constants: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fallback:
    """A node that runs in ONNX Runtime, why, and how far its conversion was off (None: there was none)."""

    node: str
    op_type: str
    reason: str
    difference: float | None


class TorchModel:
    """An ONNX model as torch modules.

    `module` takes the inputs in ONNX order and returns a tuple of the outputs in ONNX order; it is in eval mode.
    `parameters` holds the initializers and the values of Constant nodes (these have no step) by ONNX name, in
    ONNX layout and dtype; one that several nodes share is one tensor. `largest_difference` is that of the worst
    converted step against ONNX Runtime, `output_difference` that of the outputs end to end, both relative to the
    largest magnitude of the value; NaN without verification.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        parameters: dict[str, Tensor],
        fallbacks: tuple[Fallback, ...],
        largest_difference: float,
        output_difference: float,
    ) -> None:
        """Assemble the graph module from the steps; `outputs` may name inputs and parameters too."""
        self.steps, self.inputs, self.outputs = steps, inputs, outputs
        self.fallbacks = fallbacks
        self.largest_difference = largest_difference
        self.output_difference = output_difference
        self._targets = {name: f"w{index}" for index, name in enumerate(parameters)}
        self.module = self._assemble(parameters)
        self.parameters = parameters

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on (the CPU for a model without any)."""
        return next((tensor.device for tensor in self.parameters.values()), torch.device("cpu"))

    def run(self, env: dict[str, Any], steps: Sequence[Step] | None = None) -> None:
        """Run the steps (all by default), reading values from `env` or the parameters and writing to `env`.

        A value in `env` under the name of a parameter goes before it.
        """
        parameters = self.parameters
        for step in self.steps if steps is None else steps:
            args = [env[name] if name in env else parameters[name] if name else None for name in step.inputs]
            result = step.module(*args)
            if len(step.outputs) == 1:
                env[step.outputs[0]] = result
            else:
                env.update((name, value) for name, value in zip(step.outputs, result, strict=False) if name)

    def set_parameter(self, name: str, value: np.ndarray) -> None:
        """Overwrite a parameter in place; shape and dtype stay.

        Raises ModelError for an unknown name, another shape or dtype, or a value that a step holds as a constant.
        """
        if name not in self.parameters:
            raise ModelError(f"the model has no initializer {name}")
        old = self.parameters[name]
        new = from_array(np.array(value))
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ModelError(
                f"initializer {name} is {old.dtype}{list(old.shape)}, not {new.dtype}{list(new.shape)}; "
                "convert the changed model anew"
            )
        holder = next((step for step in self.steps if name in step.constants), None)
        if holder is not None:
            raise ModelError(
                f"node {holder.node} ({holder.op_type}) holds the value of {name} as a constant; "
                "convert the changed model anew"
            )
        with torch.no_grad():
            old.copy_(new)

    def to(self, device: torch.device | str) -> "TorchModel":
        """Move modules and parameters to a device, in place, and return the model."""
        self.module.to(device)
        self.parameters = {name: getattr(self.module, target) for name, target in self._targets.items()}
        return self

    def _assemble(self, parameters: dict[str, Tensor]) -> fx.GraphModule:
        root = nn.Module()
        graph = fx.Graph()
        values: dict[str, fx.Node] = {name: graph.placeholder(f"x{at}") for at, name in enumerate(self.inputs)}
        for name, tensor in parameters.items():
            _register(root, self._targets[name], tensor)
        used = {name for step in self.steps for name in step.inputs} | set(self.outputs)
        for name, target in self._targets.items():
            if name in used and name not in values:
                values[name] = graph.get_attr(target)
        for at, step in enumerate(self.steps):
            root.add_module(f"s{at}", step.module)
            args = tuple(values[name] if name else None for name in step.inputs)
            result = graph.call_module(f"s{at}", args)
            if len(step.outputs) == 1:
                values[step.outputs[0]] = result
            else:
                for place, name in enumerate(step.outputs):
                    if name:
                        values[name] = graph.call_function(_item, (result, place))
        graph.output(tuple(values[name] for name in self.outputs))
        module = fx.GraphModule(root, graph)
        for name, target in self._targets.items():  # the constructor takes over only what the graph uses
            if not hasattr(module, target):
                _register(module, target, parameters[name])
        return module.eval()


def _item(values: tuple[Any, ...], place: int) -> Any:
    return values[place]


def _register(module: nn.Module, target: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(target, tensor)
    else:
        module.register_buffer(target, tensor)
