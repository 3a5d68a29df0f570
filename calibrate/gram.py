"""Σ x xᵀ over rows x: the matrix (G, D, D), or the rows themselves (G, n, D) while they are fewer than D / 2.

A layer behind a Flatten has thousands of columns and one row per image: its matrix would take gigabytes, and its
factor minutes, to say what the rows say. Which of the two a tensor holds is told by its shape.
"""

import torch
from torch import Tensor

_CHUNK_BYTES = 64 << 20  # of the float64 copy of the rows made at a time


def holds_rows(xx: Tensor) -> bool:
    """Say whether these are the rows, not the matrix."""
    return xx.shape[1] < xx.shape[2]


def absorb(xx: Tensor, x: Tensor) -> Tensor:
    """Return the sums with more rows x (G, n, D); a matrix (float64) is reused, not copied."""
    groups, n, d = x.shape
    if holds_rows(xx):
        if 2 * (xx.shape[1] + n) < d:
            return torch.cat([xx, x], dim=1)
        xx = matrix(xx)
    step = max(1, _CHUNK_BYTES // (8 * groups * d))
    for start in range(0, n, step):
        part = x[:, start : start + step].double()
        xx.baddbmm_(part.mT, part)
    return xx


def matrix(xx: Tensor) -> Tensor:
    """Return the matrix (G, D, D) in float64."""
    if not holds_rows(xx):
        return xx
    return absorb(torch.zeros(len(xx), xx.shape[2], xx.shape[2], dtype=torch.float64, device=xx.device), xx)


def merge(xx: Tensor, other: Tensor) -> Tensor:
    """Return the sums over two disjoint sets of rows; a matrix of the first is reused, not copied."""
    return absorb(xx, other) if holds_rows(other) else matrix(xx).add_(other)


def times(xx: Tensor, w: Tensor) -> Tensor:
    """Return the product of the matrix with w (G, D, K)."""
    return xx.double().mT @ (xx.double() @ w) if holds_rows(xx) else xx @ w


def cross(xx: Tensor, kept: Tensor, w: Tensor) -> Tensor:
    """Return xx[K,R] · w[R]: the rows of the mask `kept` (D) times what the others carry with weights w (G, D, K)."""
    if holds_rows(xx):
        return xx[:, :, kept].double().mT @ (xx[:, :, ~kept].double() @ w[:, ~kept])
    return xx[:, kept][:, :, ~kept] @ w[:, ~kept]


def restrict(xx: Tensor, kept: Tensor) -> Tensor:
    """Return the sums over the columns in the mask `kept` (D) alone."""
    return absorb(xx[:, :0, kept], xx[:, :, kept]) if holds_rows(xx) else xx[:, kept][:, :, kept]


def diagonal(xx: Tensor) -> Tensor:
    """Return the diagonal of the matrix (G, D)."""
    return (xx.double() ** 2).sum(1) if holds_rows(xx) else xx.diagonal(dim1=1, dim2=2)
