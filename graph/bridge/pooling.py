"""Pooling over windows and over whole images, with asymmetric and automatic pads."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graph.bridge.node import Declined, Node
from graph.bridge.registry import Compute, converts
from graph.bridge.weighted import same_pads, torch_pads

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

Pads = Callable[[Tensor], tuple[list[int], list[int]]]


def _window(node: Node) -> tuple[int, list[int], list[int], list[int], bool, Pads]:
    attributes, spatial = node.attributes, node.ranks[node.inputs[0]] - 2
    if spatial not in _MAX:
        raise Declined(f"torch has no pooling over {spatial} axes")
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    auto_pad = attributes.get("auto_pad", "NOTSET")
    given = attributes.get("pads", [0] * 2 * spatial) if auto_pad == "NOTSET" else [0] * 2 * spatial

    def pads(x: Tensor) -> tuple[list[int], list[int]]:
        if auto_pad.startswith("SAME"):
            return same_pads(auto_pad, x.shape[2:], kernel, strides, dilations)
        return given[:spatial], given[spatial:]

    return spatial, kernel, strides, dilations, bool(attributes.get("ceil_mode", 0)), pads


def _started(y: Tensor, x: Tensor, begin: list[int], strides: list[int]) -> Tensor:
    """Return y without windows that begin in the pads behind x: where the size is rounded up they are left out."""
    for axis, (size, before, stride) in enumerate(zip(x.shape[2:], begin, strides, strict=True), 2):
        y = y.narrow(axis, 0, min(y.shape[axis], -(-(size + before) // stride)))
    return y


@converts("MaxPool")
def max_pool(node: Node) -> Compute:
    """The largest value of each window; pads never win."""
    node.only_output()
    spatial, kernel, strides, dilations, ceil, pads = _window(node)
    function = _MAX[spatial]

    def compute(x: Tensor) -> Tensor:
        begin, end = pads(x)
        if begin != end or any(2 * pad > width for pad, width in zip(begin, kernel, strict=True)):
            least = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
            padded = F.pad(x, torch_pads(begin, end), value=least)
            return _started(function(padded, kernel, strides, 0, dilations, ceil), x, begin, strides)
        return function(x, kernel, strides, begin, dilations, ceil)

    return compute


@converts("AveragePool")
def average_pool(node: Node) -> Compute:
    """The mean of each window; pads count only with `count_include_pad`."""
    spatial, kernel, strides, dilations, ceil, pads = _window(node)
    if any(dilation != 1 for dilation in dilations):
        raise Declined(f"AveragePool with dilations {dilations}")
    include, function = bool(node.attributes.get("count_include_pad", 0)), _AVERAGE[spatial]

    def compute(x: Tensor) -> Tensor:
        begin, end = pads(x)
        if begin == end and all(2 * pad <= width for pad, width in zip(begin, kernel, strict=True)):
            return function(x, kernel, strides, begin, ceil, include)
        around = torch_pads(begin, end)
        total = _started(function(F.pad(x, around), kernel, strides, 0, ceil), x, begin, strides)
        if include:
            return total
        inside = F.pad(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), around)
        return total / _started(function(inside, kernel, strides, 0, ceil), x, begin, strides)

    return compute


@converts("GlobalAveragePool")
def global_average_pool(node: Node) -> Compute:
    """The mean over all positions."""
    axes = list(range(2, node.ranks[node.inputs[0]]))
    return lambda x: x.mean(axes, keepdim=True)


@converts("GlobalMaxPool")
def global_max_pool(node: Node) -> Compute:
    """The largest value over all positions."""
    axes = list(range(2, node.ranks[node.inputs[0]]))
    return lambda x: x.amax(axes, keepdim=True)
