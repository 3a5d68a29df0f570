"""Operators with weights: convolutions, products and normalisations; the weights are arguments.

Tensors are N×C×spatial; the weight of a Conv is M×(C/group)×kernel, that of a ConvTranspose C×(M/group)×kernel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graph.bridge.node import Declined, Node
from graph.bridge.registry import Compute, converts

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(
    auto_pad: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the pads before and after each axis for which the output has ceil(size / stride) positions."""
    begin, end = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto_pad == "SAME_UPPER" else large)
        end.append(large if auto_pad == "SAME_UPPER" else small)
    return begin, end


def torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return pads in the order of torch: last axis first, before and after side by side."""
    return [pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]


@converts("Conv")
def conv(node: Node) -> Compute:
    """Conv in one to three dimensions; pads may be asymmetric or automatic."""
    attributes = node.attributes
    spatial = node.ranks[node.inputs[0]] - 2
    if spatial not in _CONV:
        raise Declined(f"torch has no convolution over {spatial} axes")
    strides = attributes.get("strides", [1] * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    group, auto_pad = attributes.get("group", 1), attributes.get("auto_pad", "NOTSET")
    pads = attributes.get("pads", [0] * 2 * spatial) if auto_pad == "NOTSET" else [0] * 2 * spatial
    function = _CONV[spatial]

    def compute(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        begin, end = pads[:spatial], pads[spatial:]
        if auto_pad.startswith("SAME"):
            begin, end = same_pads(auto_pad, x.shape[2:], w.shape[2:], strides, dilations)
        if begin != end:
            x, begin = F.pad(x, torch_pads(begin, end)), [0] * spatial
        return function(x, w, b, strides, begin, dilations, group)

    return compute


@converts("ConvTranspose")
def conv_transpose(node: Node) -> Compute:
    """ConvTranspose in one to three dimensions: the full product, cropped or padded, then the bias."""
    attributes = node.attributes
    spatial = node.ranks[node.inputs[0]] - 2
    if spatial not in _TRANSPOSED:
        raise Declined(f"torch has no transposed convolution over {spatial} axes")
    strides = attributes.get("strides", [1] * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    extra = attributes.get("output_padding", [0] * spatial)
    auto_pad, output_shape = attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    pads = attributes.get("pads", [0] * 2 * spatial) if auto_pad == "NOTSET" else [0] * 2 * spatial
    group, function = attributes.get("group", 1), _TRANSPOSED[spatial]

    def around(x: Tensor, w: Tensor) -> tuple[list[int], list[int], list[int]]:
        """Return what to cut before each axis, the sizes of the full product and those wanted."""
        sizes = zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)
        full = [stride * (size - 1) + (width - 1) * dilation + 1 for size, stride, width, dilation in sizes]
        most = [size + more for size, more in zip(full, extra, strict=True)]
        if auto_pad.startswith("SAME") or output_shape is not None:
            stretched = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
            wanted = output_shape[-spatial:] if output_shape else stretched
            total = [max(size - want, 0) for size, want in zip(most, wanted, strict=True)]
            return [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total], full, wanted
        begin, end = pads[:spatial], pads[spatial:]
        return begin, full, [size - b - e for size, b, e in zip(most, begin, end, strict=True)]

    def compute(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        begin, full, wanted = around(x, w)
        after = [want - size + cut for want, size, cut in zip(wanted, full, begin, strict=True)]
        if all(-cut == more for cut, more in zip(begin, after, strict=True)):
            return function(x, w, b, strides, begin, 0, group, dilations)
        y = function(x, w, None, strides, 0, 0, group, dilations)
        y = F.pad(y, torch_pads([-cut for cut in begin], after))
        return y if b is None else y + b.reshape(1, -1, *[1] * spatial)

    return compute


@converts("Gemm")
def gemm(node: Node) -> Compute:
    """Y = alpha A B + beta C, A and B transposed as the attributes say."""
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    flip_a, flip_b = node.attributes.get("transA", 0), node.attributes.get("transB", 0)

    def compute(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if flip_a else a, b.T if flip_b else b
        if c is not None and c.is_floating_point():
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        y = a @ b if alpha == 1.0 else alpha * (a @ b)
        return y if c is None else y + (c if beta == 1.0 else beta * c)

    return compute


@converts("MatMul")
def matmul(node: Node) -> Compute:
    """The matrix product of numpy, with batches."""
    return torch.matmul


@converts("BatchNormalization")
def batch_normalization(node: Node) -> Compute:
    """Normalise by the stored mean and variance, as in inference; they get no gradient, as ever in torch."""
    node.only_output()
    if node.attributes.get("training_mode", 0):
        raise Declined("BatchNormalization in training mode")
    if node.version < 7 and not node.attributes.get("is_test", 0):
        raise Declined("BatchNormalization in training mode (is_test=0)")
    if not node.attributes.get("spatial", 1):
        raise Declined("BatchNormalization with one statistic per position (spatial=0)")
    epsilon = node.attributes.get("epsilon", 1e-5)

    def compute(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean.detach(), variance.detach(), scale, bias, False, 0.0, epsilon)

    return compute


@converts("InstanceNormalization")
def instance_normalization(node: Node) -> Compute:
    """Normalise each channel of each image: group normalisation with one channel per group."""
    epsilon = node.attributes.get("epsilon", 1e-5)

    def compute(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return torch.group_norm(x, x.shape[1], scale, bias, epsilon)

    return compute


@converts("GroupNormalization")
def group_normalization(node: Node) -> Compute:
    """Normalise groups of channels; before opset 21 scale and bias are per group, later per channel."""
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    per_group = node.version < 21

    def compute(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if per_group:
            width = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(width), bias.repeat_interleave(width)
        return torch.group_norm(x, groups, scale, bias, epsilon)

    return compute


@converts("LayerNormalization")
def layer_normalization(node: Node) -> Compute:
    """Normalise over the axes from `axis` on."""
    node.only_output()
    axis, epsilon = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)

    def compute(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        bias = None if bias is None else bias.expand(shape)
        return F.layer_norm(x, shape, scale.expand(shape), bias, epsilon)

    return compute


@converts("PRelu")
def prelu(node: Node) -> Compute:
    """Negative values times a slope that broadcasts to the input."""

    def compute(x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x < 0, slope * x, x)

    return compute
