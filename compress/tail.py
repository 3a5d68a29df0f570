"""What follows a consumer before its output is felt: an affine map, a residual Add, an activation with flat sides.

    consumer → [BatchNormalization] → [Add with a shortcut] → [Relu | Clip]

The fit aims at the end of this chain (METHOD §2): the target is *original sum − what the shortcut carries now*,
and where the activation is flat any value on the flat side will do.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrate.consumer import Consumer

_PASSES = {"Identity", "Dropout"}


@dataclass(frozen=True)
class Tail:
    """The chain behind a consumer, by ONNX names; `scale` and `shift` are per output channel, None = identity.

    `target` is the value at the end of the chain before the activation, which clamps to [low, high].
    """

    target: str
    shortcut: str | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    low: float = -np.inf
    high: float = np.inf


def find_tail(model: ir.Model, consumer: Consumer) -> Tail:
    """Return the chain behind a consumer of the model."""
    value = _value(model, consumer.y)
    shortcut, scale, shift = None, None, None
    while len(uses := list(value.uses())) == 1 and not value.is_graph_output():
        node, position = uses[0].node, uses[0].idx
        if node.op_type in _PASSES and position == 0:
            value = node.outputs[0]
        elif node.op_type == "BatchNormalization" and position == 0 and scale is None and shortcut is None:
            affine = _affine(node)
            if affine is None:
                break
            (scale, shift), value = affine, node.outputs[0]
        elif node.op_type == "Add" and shortcut is None:
            other = node.inputs[1 - position]
            if other is None or other.is_initializer() or other.name == value.name:
                break
            shortcut, value = other.name, node.outputs[0]
        else:
            break
    low, high = flat_sides(value)
    return Tail(str(value.name), shortcut, scale, shift, low, high)


def _value(model: ir.Model, name: str) -> ir.Value:
    for node in model.graph:
        for output in node.outputs:
            if output.name == name:
                return output
    raise KeyError(name)


def _affine(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    parameters = [value.const_value for value in node.inputs[1:5] if value is not None]
    if len(parameters) != 4 or any(p is None for p in parameters):
        return None
    gamma, beta, mean, variance = (p.numpy().astype(np.float64) for p in parameters if p is not None)
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return (scale, beta - mean * scale) if np.all(np.abs(scale) > 1e-8) else None


def flat_sides(value: ir.Value) -> tuple[float, float]:
    """Return the interval in which the activation that alone reads the value is not flat."""
    nodes = [use.node for use in value.uses()]
    if not nodes or value.is_graph_output():
        return -np.inf, np.inf
    sides = {_interval(node) for node in nodes}
    return sides.pop() if len(sides) == 1 else (-np.inf, np.inf)


def _interval(node: ir.Node) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "Clip":
        bounds = [node.attributes.get_float(name, default) for name, default in (("min", -np.inf), ("max", np.inf))]
        for i, value in enumerate(node.inputs[1:3]):
            if value is not None:
                if value.const_value is None:
                    return -np.inf, np.inf
                bounds[i] = float(value.const_value.numpy().reshape(-1)[0])
        return bounds[0], bounds[1]
    return -np.inf, np.inf
