"""Rows of a consumer's least-squares problem, gathered at chosen output positions.

For Conv, one row holds the patch x[c, o·stride − pad + k·dilation] for all (c, k), c the slower index, which
is the layout of `weight.reshape(K, -1)`. For ConvTranspose the row of output position o holds x[c, i] where
o = i·stride − pad + k·dilation has an integer solution, 0 elsewhere. For Gemm and MatMul a row is the vector
itself. Works for any number of spatial axes; memory grows with the positions asked for, not with the map.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution: one entry per spatial axis; `pads` are those at the beginning."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    transposed: bool = False


def sources(window: Window, x_size: tuple[int, ...], y_size: tuple[int, ...], positions: Tensor) -> Tensor:
    """Return, for flat output positions (P), the flat input index of each kernel tap (P, taps).

    An index equal to prod(x_size) means padding: read 0 there.
    """
    flat = torch.zeros(len(positions), 1, dtype=torch.long, device=positions.device)
    valid = torch.ones_like(flat, dtype=torch.bool)
    rest = positions
    coordinates: list[Tensor] = []
    for size in reversed(y_size):
        coordinates.insert(0, rest % size)
        rest = rest // size
    for axis, size in enumerate(x_size):
        taps = torch.arange(window.kernel[axis], device=positions.device) * window.dilations[axis]
        o = coordinates[axis][:, None]
        if window.transposed:
            shifted = o + window.pads[axis] - taps
            i, inside = shifted // window.strides[axis], shifted % window.strides[axis] == 0
        else:
            i = o * window.strides[axis] - window.pads[axis] + taps
            inside = torch.ones_like(i, dtype=torch.bool)
        inside &= (i >= 0) & (i < size)
        flat = (flat[:, :, None] * size + i.clamp(0, size - 1)[:, None, :]).flatten(1)
        valid = (valid[:, :, None] & inside[:, None, :]).flatten(1)
    return torch.where(valid, flat, math.prod(x_size))


def patches(x: Tensor, index: Tensor, groups: int = 1) -> Tensor:
    """Return the rows (G, B·P, C/G·taps + 1) of x (B, C, *spatial) for `sources` (P, taps), with the constant 1."""
    flat = torch.nn.functional.pad(x.flatten(2), (0, 1))  # the slot read as padding
    rows = flat[:, :, index].movedim(2, 1)  # (B, P, C, taps)
    columns = x.shape[1] // groups * index.shape[1]
    return with_one(rows.reshape(rows.shape[0] * rows.shape[1], groups, columns).transpose(0, 1))


def with_one(rows: Tensor) -> Tensor:
    """Append the constant 1 of the bias to each row (G, n, D)."""
    return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)


def at(y: Tensor, positions: Tensor, groups: int = 1) -> Tensor:
    """Return the rows (G, B·P, K/G) of y (B, K, *spatial) at flat positions (P)."""
    rows = y.flatten(2)[:, :, positions].movedim(2, 1)
    return rows.reshape(rows.shape[0] * rows.shape[1], groups, -1).transpose(0, 1)
