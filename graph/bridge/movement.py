"""Operators that move values about: shapes, slices, pads, joins."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from graph.bridge.node import Declined, Node
from graph.bridge.registry import Compute, converts
from graph.bridge.weighted import torch_pads

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
}


def _integers(node: Node, index: int, attribute: str) -> list[int] | None:
    """Return integers that are an attribute in old opsets and a constant input in new ones."""
    if attribute in node.attributes:
        return list(node.attributes[attribute])
    constant = node.constant(index)
    return None if constant is None else constant.reshape(-1).tolist()


@converts("Identity")
def identity(node: Node) -> Compute:
    """The value itself."""
    return lambda x: x


@converts("Dropout")
def dropout(node: Node) -> Compute:
    """Nothing, as in inference; the mask is what ONNX Runtime gives, ones from opset 12 on and zeros before."""
    if node.has(2):
        training = node.constant(2)
        if training is None or bool(training):
            raise Declined("Dropout in training mode")
    if node.version < 7 and not node.attributes.get("is_test", 0):
        raise Declined("Dropout in training mode (is_test=0)")
    if len(node.outputs) == 1:
        return lambda x, *_: x
    kind = torch.bool if node.version >= 10 else None
    mask = torch.ones_like if node.version >= 12 else torch.zeros_like
    return lambda x, *_: (x, mask(x, dtype=kind))


@converts("Cast")
def cast(node: Node) -> Compute:
    """The value in another type."""
    dtype = _DTYPES.get(node.attributes["to"])
    if dtype is None:
        raise Declined(f"Cast to {TensorProto.DataType.Name(node.attributes['to'])}")
    return lambda x: x.to(dtype)


@converts("Shape")
def shape(node: Node) -> Compute:
    """The sizes of the axes from `start` to `end`."""
    span = slice(node.attributes.get("start", 0), node.attributes.get("end"))
    return lambda x: torch.tensor(x.shape[span], dtype=torch.int64, device=x.device)


@converts("Size")
def size(node: Node) -> Compute:
    """The number of elements."""
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@converts("Reshape")
def reshape(node: Node) -> Compute:
    """Another shape; 0 keeps the axis (without `allowzero`), -1 takes what is left."""
    fixed, keep = _integers(node, 1, "shape"), not node.attributes.get("allowzero", 0)

    def compute(x: Tensor, target: Tensor | None = None) -> Tensor:
        sizes = fixed if fixed is not None else target.tolist()  # type: ignore[union-attr]  # given where not fixed
        if keep and 0 in sizes:
            sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
        return x.reshape(sizes)

    return compute


@converts("Flatten")
def flatten(node: Node) -> Compute:
    """A matrix: the axes before `axis`, and those from it on."""
    axis = node.attributes.get("axis", 1)

    def compute(x: Tensor) -> Tensor:
        rows = x.shape[:axis].numel()
        return x.reshape(rows, x.shape[axis:].numel())

    return compute


@converts("Expand")
def expand(node: Node) -> Compute:
    """Broadcast to a shape, in both directions."""
    fixed = _integers(node, 1, "shape")

    def compute(x: Tensor, target: Tensor) -> Tensor:
        sizes = fixed if fixed is not None else target.tolist()
        return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(sizes)))

    return compute


@converts("Squeeze")
def squeeze(node: Node) -> Compute:
    """Without the axes given, or without all of size 1."""
    fixed = _integers(node, 1, "axes")

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if fixed is not None or axes is None else axes.tolist()
        return x.squeeze() if not chosen else x.squeeze(tuple(chosen))

    return compute


@converts("Unsqueeze")
def unsqueeze(node: Node) -> Compute:
    """With axes of size 1 at the places given (counted in the output)."""
    fixed = _integers(node, 1, "axes")

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if fixed is not None else axes.reshape(-1).tolist()  # type: ignore[union-attr]  # given
        rank = x.ndim + len(chosen)
        for axis in sorted(axis % rank for axis in chosen):
            x = x.unsqueeze(axis)
        return x

    return compute


@converts("Slice")
def slice_(node: Node) -> Compute:
    """Spans of some axes; negative steps run backwards."""
    parts = [_integers(node, index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)]
    static = all(part is not None or not node.has(index) for index, part in enumerate(parts, 1))

    def compute(x: Tensor, *given: Tensor | None) -> Tensor:
        spans: list[Any] = (
            parts if static else [None if part is None else part.tolist() for part in (*given, None, None)[:4]]
        )
        starts, ends, axes, steps = spans
        for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
            axis = position if axes is None else axes[position] % x.ndim
            x = _span(x, axis, start, end, 1 if steps is None else steps[position])
        return x

    return compute


def _span(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    before = (slice(None),) * axis
    if step > 0:
        return x[(*before, slice(start, end, step))]
    # torch has no negative steps: the same positions by index
    positions = range(x.shape[axis])[slice(start, end, step)]
    return x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64, device=x.device))


@converts("Split")
def split(node: Node) -> Compute:
    """Pieces of the sizes given, or equal ones, of which the last may be smaller."""
    axis, parts = node.attributes.get("axis", 0), len(node.proto.output)
    fixed = _integers(node, 1, "split")

    def compute(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...] | Tensor:
        chosen = fixed if fixed is not None or sizes is None else sizes.tolist()
        pieces: tuple[Tensor, ...] = torch.split(x, chosen or -(-x.shape[axis] // parts), axis)
        return pieces if parts > 1 else pieces[0]

    return compute


@converts("Concat")
def concat(node: Node) -> Compute:
    """The inputs one after another along an axis."""
    axis = node.attributes.get("axis", 1)
    return lambda *tensors: torch.cat(tensors, axis)


@converts("Transpose")
def transpose(node: Node) -> Compute:
    """The axes in another order; reversed by default."""
    order = node.attributes.get("perm")
    return lambda x: x.permute(order or tuple(reversed(range(x.ndim))))


@converts("NonZero")
def non_zero(node: Node) -> Compute:
    """The indices of the elements that are not 0, one row per axis."""
    return lambda x: x.nonzero().T


@converts("GatherElements")
def gather_elements(node: Node) -> Compute:
    """The elements at indices along an axis; negative ones count from its end."""
    axis = node.attributes.get("axis", 0)
    return lambda x, indices: x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


@converts("TopK")
def top_k(node: Node) -> Compute:
    """The k largest or smallest values and where they are; of equal ones the first comes first, as in ONNX Runtime."""
    axis, largest = node.attributes.get("axis", -1), bool(node.attributes.get("largest", 1))
    fixed = _integers(node, 1, "k") if "k" not in node.attributes else [node.attributes["k"]]

    def compute(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = fixed[0] if fixed is not None else int(k)  # type: ignore[arg-type]  # given where not fixed
        values, places = x.sort(dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), places.narrow(axis, 0, count)

    return compute


@converts("ScatterND")
def scatter_nd(node: Node) -> Compute:
    """The data with some slices replaced, or with updates added to them."""
    reduction = node.attributes.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise Declined(f"ScatterND with reduction={reduction}")

    def compute(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        return data.index_put(indices.unbind(-1), updates, accumulate=reduction == "add")

    return compute


@converts("SpaceToDepth")
def space_to_depth(node: Node) -> Compute:
    """Blocks of positions become channels, the block's position outermost."""
    block = node.attributes["blocksize"]
    if node.attributes.get("mode", "DCR") != "DCR":
        raise Declined(f"SpaceToDepth in mode {node.attributes['mode']}")

    def compute(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * block * block, h // block, w // block)

    return compute


@converts("DepthToSpace")
def depth_to_space(node: Node) -> Compute:
    """Channels become blocks of positions; they lie with the block's position outermost (DCR) or innermost (CRD)."""
    block, crd = node.attributes["blocksize"], node.attributes.get("mode", "DCR") == "CRD"

    def compute(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        left = c // (block * block)
        x = x.reshape((n, left, block, block, h, w) if crd else (n, block, block, left, h, w))
        x = x.permute((0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2))
        return x.reshape(n, left, h * block, w * block)

    return compute


@converts("Pad")
def pad(node: Node) -> Compute:
    """Pad (or, with negative pads, crop) by a constant, the edge, a reflection or the other end."""
    mode = node.attributes.get("mode", "constant")
    fixed = _integers(node, 1, "pads") or node.attributes.get("paddings")
    value = node.attributes.get("value", 0.0)
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Declined(f"Pad in mode {mode}")

    def compute(
        x: Tensor, pads: Tensor | None = None, fill: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        amounts = fixed if fixed is not None else pads.tolist()  # type: ignore[union-attr]  # given where not fixed
        chosen = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
        half = len(amounts) // 2
        if mode != "constant":
            for axis, before, after in zip(chosen, amounts[:half], amounts[half:], strict=True):
                x = _pad_by_index(x, axis, before, after, mode)
            return x
        begin, end = [0] * x.ndim, [0] * x.ndim
        for axis, before, after in zip(chosen, amounts[:half], amounts[half:], strict=True):
            begin[axis], end[axis] = before, after
        return F.pad(x, torch_pads(begin, end), value=value if fill is None else fill.item())

    return compute


def _pad_by_index(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    if before == after == 0:
        return x
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    else:
        period = max(2 * (size - 1), 1)
        places = (places % period - (size - 1)).abs().neg() + (size - 1)
    return x.index_select(axis, places)
