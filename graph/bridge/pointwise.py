"""Pointwise operators that onnx2torch lacks or knows in part."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graph.bridge.node import Node
from graph.bridge.registry import Compute, converts

_SIMPLE = {
    "Acosh": torch.acosh,
    "Asinh": torch.asinh,
    "Atanh": torch.atanh,
    "Cosh": torch.cosh,
    "Sinh": torch.sinh,
    "IsNaN": torch.isnan,
    "Mish": F.mish,
}


@converts(*_SIMPLE)
def simple(node: Node) -> Compute:
    """The function of torch with the same meaning."""
    return _SIMPLE[node.proto.op_type]


@converts("IsInf")
def is_inf(node: Node) -> Compute:
    """Whether a value is infinite; one of the signs may not count."""
    signs = [node.attributes.get(name, 1) for name in ("detect_positive", "detect_negative")]
    if not any(signs):
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isinf if all(signs) else torch.isposinf if signs[0] else torch.isneginf


@converts("Clip")
def clip(node: Node) -> Compute:
    """Bounded below and above; the bounds are attributes before opset 11."""
    least, most = node.attributes.get("min"), node.attributes.get("max")

    if (constant := node.constant(1)) is not None:
        least = constant.item()
    if (constant := node.constant(2)) is not None:
        most = constant.item()

    def compute(x: Tensor, minimum: Tensor | None = None, maximum: Tensor | None = None) -> Tensor:
        low = least if least is not None else minimum
        high = most if most is not None else maximum
        if low is None and high is None:
            return x
        x = x if low is None else x.clamp(min=low)
        return x if high is None else x.clamp(max=high)

    return compute


@converts("Gelu")
def gelu(node: Node) -> Compute:
    """x times the normal distribution function of x, exact or by tanh."""
    approximate = node.attributes.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@converts("Swish")
def swish(node: Node) -> Compute:
    """x sigmoid(alpha x)."""
    alpha = node.attributes.get("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@converts("ThresholdedRelu")
def thresholded_relu(node: Node) -> Compute:
    """x where it exceeds alpha, else 0."""
    alpha = node.attributes.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@converts("Selu")
def selu(node: Node) -> Compute:
    """gamma (x where positive, alpha (exp(x) - 1) elsewhere)."""
    alpha, gamma = node.attributes.get("alpha", 1.6732632), node.attributes.get("gamma", 1.0507010)
    return lambda x: gamma * F.elu(x, alpha)
