"""Resize and Upsample, one axis after the other.

Position p of an axis of the output is taken at x(p) of the input, a formula that the coordinate mode gives.
Then  y[p] = sum_t w_t(p) x[i_t(p)]  with one tap (nearest), two (linear) or four (cubic).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graph.bridge.node import Declined, Node
from graph.bridge.registry import Compute, converts

# p (float32), scale, size in, size out -> x(p); ONNX Runtime computes in float32, and so do we
COORDINATES: dict[str, Callable[[np.ndarray, np.float32, int, int], np.ndarray]] = {
    "half_pixel": lambda p, s, n, m: (p + np.float32(0.5)) / s - np.float32(0.5),
    "pytorch_half_pixel": lambda p, s, n, m: (p + np.float32(0.5)) / s - np.float32(0.5) if m > 1 else p * 0,
    "asymmetric": lambda p, s, n, m: p / s,
    "align_corners": lambda p, s, n, m: p * np.float32(n - 1) / np.float32(max(m - 1, 1)),
    "half_pixel_symmetric": lambda p, s, n, m: (
        np.float32(n / 2) * (1 - np.float32(m) / (s * np.float32(n))) + (p + np.float32(0.5)) / s - np.float32(0.5)
    ),
}
NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}

Taps = tuple[tuple[np.ndarray, np.ndarray | None], ...]  # (indices, weights or None for 1) per tap


def taps(x: np.ndarray, size: int, mode: str, nearest: str, a: float) -> Taps:
    """Return the input positions and their weights for output coordinates x."""
    if mode == "nearest":
        return ((NEAREST[nearest](x).clip(0, size - 1).astype(np.int64), None),)
    low = np.floor(x)
    t = x - low
    if mode == "linear":
        x = x.clip(0, size - 1)
        low = np.floor(x)
        t = x - low
        weights = [1 - t, t]
        offsets = range(2)
    else:
        d = [t + 1, t, 1 - t, 2 - t]
        near = [(a + 2) * v**3 - (a + 3) * v**2 + 1 for v in d[1:3]]
        far = [a * v**3 - 5 * a * v**2 + 8 * a * v - 4 * a for v in (d[0], d[3])]
        weights = [far[0], *near, far[1]]
        offsets = range(-1, 3)
    return tuple(
        ((low + offset).clip(0, size - 1).astype(np.int64), weight.astype(np.float32))
        for offset, weight in zip(offsets, weights, strict=True)
    )


@lru_cache(maxsize=256)
def _plan(size: int, wanted: int, scale: float, coordinate: str, mode: str, nearest: str, a: float) -> Taps:
    x = COORDINATES[coordinate](np.arange(wanted, dtype=np.float32), np.float32(scale), size, wanted)
    return taps(x.astype(np.float32), size, mode, nearest, a)


@converts("Resize", "Upsample")
def resize(node: Node) -> Compute:
    """Resize by scales or to sizes in any mode but crops, antialiasing and kept aspect ratios."""
    attributes = node.attributes
    mode, nearest = attributes.get("mode", "nearest"), attributes.get("nearest_mode", "round_prefer_floor")
    coordinate = attributes.get("coordinate_transformation_mode", "half_pixel")
    if node.proto.op_type == "Upsample" or node.version < 11:
        coordinate, nearest = "asymmetric", "floor"
    a, axes = attributes.get("cubic_coeff_a", -0.75), attributes.get("axes")
    unusual = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch"}
    for name, usual in unusual.items():
        if attributes.get(name, usual) != usual:
            raise Declined(f"Resize with {name}={attributes[name]}")
    if mode not in ("nearest", "linear", "cubic") or coordinate not in COORDINATES:
        raise Declined(f"Resize in mode {mode} with coordinates {coordinate}")
    at = 1 if node.version < 11 or node.proto.op_type == "Upsample" else 2
    scale_constant, size_constant = node.constant(at), node.constant(at + 1)
    fixed_scales = attributes.get("scales") if scale_constant is None else scale_constant.tolist()
    fixed_sizes = None if size_constant is None else size_constant.tolist()

    def compute(x: Tensor, *given: Tensor | None) -> Tensor:
        rest = [None if part is None else part.tolist() for part in (*given[at - 1 :], None, None)[:2]]
        scales: Any
        sizes: Any
        scales, sizes = fixed_scales or rest[0], fixed_sizes or rest[1]
        for position, axis in enumerate(axes or range(x.ndim)):
            size = x.shape[axis]
            wanted = sizes[position] if sizes else int(np.floor(np.float32(size) * np.float32(scales[position])))
            scale = wanted / size if sizes else scales[position]
            if wanted != size or scale != 1:
                x = _apply(x, axis, _plan(size, wanted, scale, coordinate, mode, nearest, a))
        return x

    return compute


def _apply(x: Tensor, axis: int, plan: Taps) -> Tensor:
    axis = axis % x.ndim
    y = None
    for indices, weights in plan:
        part = x.index_select(axis, torch.tensor(indices, device=x.device))
        if weights is not None:
            column = torch.tensor(weights, dtype=x.dtype, device=x.device)
            part = part * column.reshape(-1, *[1] * (x.ndim - axis - 1))
        y = part if y is None else y + part
    assert y is not None  # every plan has a tap
    return y
