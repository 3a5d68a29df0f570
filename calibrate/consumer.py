"""A node that mixes channels by a weight, seen as a least-squares problem: its rows and its weight matrix.

Conv, ConvTranspose, Gemm and MatMul all compute y = Wᵀx + b on rows x (see `calibrate.rows`); a grouped Conv is
G such problems side by side, a depthwise one has a single input channel in each. The matrix form is (G, D, K):
D = input channels per group × taps, plus 1 for the bias; K = output channels per group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate.rows import Window, at, patches, sources, with_one

# halves too: features are computed in float32 (see `graph.widen`)
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Consumer:
    """One Conv, ConvTranspose, Gemm or MatMul with a constant weight, by ONNX names.

    `node` is the node's first output; `y` is the value that the fit matches: the node's output, or that of the
    Add behind a MatMul which carries its bias. `window` is None for Gemm and MatMul; `alpha` scales a Gemm's product.
    """

    node: str
    op_type: str
    x: str
    y: str
    weight: str
    bias: str | None
    window: Window | None
    groups: int = 1
    transposed: bool = False
    alpha: float = 1.0

    @property
    def taps(self) -> int:
        """Columns per input channel."""
        return math.prod(self.window.kernel) if self.window else 1

    @property
    def input_axis(self) -> int:
        """The axis of the weight along which the input channels lie."""
        if self.window:
            return 0 if self.window.transposed else 1
        return 1 if self.transposed else 0

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weights as a float64 matrix (G, D, K), the bias as its last row."""
        w = weight.detach().double()
        if self.window is None:
            w = self.alpha * (w.mT if self.transposed else w)[None]
        elif self.window.transposed:
            w = w.reshape(self.groups, -1, w.shape[1], self.taps).mT.flatten(1, 2)
        else:
            w = w.reshape(self.groups, w.shape[0] // self.groups, -1).mT
        last = (
            w.new_zeros(w.shape[0], 1, w.shape[2])
            if bias is None
            else bias.detach().double().reshape(w.shape[0], 1, -1)
        )
        return torch.cat([w, last], dim=1)

    def tensors(self, matrix: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (weight, bias) in the ONNX layout, shaped like the given weight: the inverse of `matrix`."""
        w, bias = matrix[:, :-1], matrix[:, -1].flatten()
        if self.window is None:
            w = (w[0].mT if self.transposed else w[0]) / self.alpha
        elif self.window.transposed:
            w = w.reshape(self.groups, -1, self.taps, w.shape[2]).mT
        else:
            w = w.mT
        return w.reshape(like.shape).to(like.dtype), bias.to(like.dtype)

    def columns(self, entries: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the columns of the given entries of the weight's input axis (the same in every group)."""
        axis = np.asarray(entries, dtype=np.int64)
        if self.window and self.window.transposed and self.groups > 1:
            raise ValueError(f"{self.node}: the input axis of a grouped ConvTranspose spans its groups")
        return (axis[:, None] * self.taps + np.arange(self.taps)).ravel()

    def inputs(self, x: Tensor, entries: Tensor) -> Tensor:
        """Return the channels of the input x that the given entries of the weight's input axis read."""
        axis = 1 if self.window else -1
        first = torch.arange(self.groups, device=x.device) * (x.shape[axis] // self.groups)
        return x.index_select(axis, (first[:, None] + entries).flatten())

    def positions(self, y: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Choose at most `wanted` output positions per sample of y, without repetition, in ascending order."""
        count = math.prod(y.shape[2:]) if self.window else math.prod(y.shape[1:-1])
        if count <= wanted:
            return torch.arange(count, device=y.device)
        return torch.randperm(count, generator=generator)[:wanted].sort().values.to(y.device)

    def rows(self, x: Tensor, y_size: Sequence[int], positions: Tensor) -> Tensor:
        """Return the rows (G, B·P, D) of the input x at output positions; y_size is the shape of the output."""
        if self.window is None:
            return with_one(self._vectors(x, positions))
        index = sources(self.window, tuple(x.shape[2:]), tuple(y_size[2:]), positions)
        return patches(x, index, self.groups)

    def targets(self, y: Tensor, positions: Tensor) -> Tensor:
        """Return the rows (G, B·P, K) of an output-shaped y at output positions."""
        return self._vectors(y, positions) if self.window is None else at(y, positions, self.groups)

    @staticmethod
    def _vectors(x: Tensor, positions: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, x.shape[-1])[:, positions].flatten(0, 1)[None]


def find_consumers(model: ir.Model, shapes: dict[str, tuple[int, ...]]) -> tuple[Consumer, ...]:
    """Return the consumers of the main graph in topological order; weights must be initializers."""
    found = (_read(node, shapes) for node in model.graph)
    return tuple(consumer for consumer in found if consumer is not None)


def _read(node: ir.Node, shapes: dict[str, tuple[int, ...]]) -> Consumer | None:
    operands = list(node.inputs) + [None] * 3
    x, weight, bias = operands[:3]
    if (
        node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
        or node.domain not in {"", "ai.onnx"}
        or x is None
        or weight is None
        or x.is_initializer()
        or not weight.is_initializer()
        or weight.dtype not in _FLOATS
        or (bias is not None and not bias.is_initializer())
        or any(value.name not in shapes for value in (x, weight, node.outputs[0]))
    ):
        return None
    output = str(node.outputs[0].name)
    consumer = partial(Consumer, node=output, op_type=node.op_type, x=str(x.name), weight=str(weight.name))
    shape = shapes[str(weight.name)]
    if node.op_type in {"Conv", "ConvTranspose"}:
        if len(shape) < 3:
            return None
        window = _window(node, shapes[str(x.name)][2:], shape[2:], shapes[str(node.outputs[0].name)][2:])
        groups = node.attributes.get_int("group", 1)
        return consumer(y=output, bias=bias.name if bias else None, window=window, groups=groups)
    if node.op_type == "Gemm":
        alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
        transposed = bool(node.attributes.get_int("transB", 0))
        width = shape[0] if transposed else shape[1]
        if node.attributes.get_int("transA", 0) or not alpha or beta != 1.0:
            return None
        if bias is not None and math.prod(shapes[str(bias.name)]) != width:
            return None
        return consumer(y=output, bias=bias.name if bias else None, window=None, transposed=transposed, alpha=alpha)
    if len(shape) != 2 or len(shapes[str(x.name)]) < 2:
        return None
    y, bias_name = _bias_behind(node, shapes)
    return consumer(y=y, bias=bias_name, window=None)


def _bias_behind(node: ir.Node, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str | None]:
    """Find the Add of a constant vector that is a MatMul's only reader."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not output.is_graph_output():
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        width = shapes[str(output.name)][-1]
        if (
            other is not None
            and other.is_initializer()
            and shapes.get(str(other.name), ())[-1:] == (width,)
            and math.prod(shapes[str(other.name)]) == width
        ):
            return str(add.outputs[0].name), str(other.name)
    return str(output.name), None


def _window(node: ir.Node, x: tuple[int, ...], kernel: tuple[int, ...], y: tuple[int, ...]) -> Window:
    rank = len(kernel)
    attributes = node.attributes
    strides = tuple(attributes.get_ints("strides", [1] * rank))
    dilations = tuple(attributes.get_ints("dilations", [1] * rank))
    pads = tuple(attributes.get_ints("pads", [0] * 2 * rank))[:rank]
    transposed = node.op_type == "ConvTranspose"
    auto = attributes.get_string("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0,) * rank
    elif auto != "NOTSET" or (transposed and "output_shape" in attributes):
        upper = auto == "SAME_UPPER"
        totals = []
        for axis in range(rank):
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            if transposed:
                extra = attributes.get_ints("output_padding", [0] * rank)[axis]
                total = (x[axis] - 1) * strides[axis] + extra + reach - y[axis]
            else:
                total = (y[axis] - 1) * strides[axis] + reach - x[axis]
            totals.append(max(total, 0))
        pads = tuple(total // 2 if upper else total - total // 2 for total in totals)
    return Window(tuple(kernel), strides, pads, dilations, transposed)
