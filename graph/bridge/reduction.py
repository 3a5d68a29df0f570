"""Reductions; the axes are an attribute in old opsets and an input in new ones."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from graph.bridge.node import Node
from graph.bridge.registry import Compute, converts


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(axes, keepdim=keep, dtype=x.dtype), count, rounding_mode="trunc")


# x, axes (never empty), keepdims -> the reduced tensor, of x's dtype
REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


@converts(*REDUCTIONS)
def reduce(node: Node) -> Compute:
    """Reduce over the axes given, or over all; no axes and `noop_with_empty_axes` leave the input as it is."""
    keep, function = bool(node.attributes.get("keepdims", 1)), REDUCTIONS[node.proto.op_type]
    noop = bool(node.attributes.get("noop_with_empty_axes", 0))
    constant = node.constant(1)
    fixed = node.attributes.get("axes") if constant is None else constant.tolist()

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if fixed is not None or axes is None else axes.tolist()
        if not chosen and noop:
            return x
        chosen = chosen or list(range(x.ndim))
        return function(x, chosen, keep) if chosen else function(x.reshape(1), [0], False)

    return compute
