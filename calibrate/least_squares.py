"""The closed-form repair of one consumer: ridge regression towards the weights that it already has.

    W(λ) = argmin Σ |y − Wᵀx|² + λ·s·|W − W₀|²        s = mean diag xx, the bias row not damped
         = (xx + λ·s·I)⁻¹ (xy + λ·s·W₀)

CaP (arXiv 2108.13728) solves this with λ = 0; the ridge keeps underdetermined fits near the original weights.
Where `xx` holds rows x (see `calibrate.gram`), fewer than unknowns, the bias is fitted by rows about their mean, and
the factor is that of the smaller matrix in Woodbury's identity:

    (xᵀx + μI)⁻¹ r = (r − xᵀ (xxᵀ + μI)⁻¹ x r) / μ        μ = λ·s

Shapes carry the G independent problems of a grouped convolution in front, as in `Moments`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from calibrate import gram


class SingularSystem(Exception):
    """The normal equations have no Cholesky factor, even with the ridge."""


class Factor:
    """A factorised system, for as many right-hand sides as wanted."""

    @staticmethod
    def of(xx: Tensor, ridge: float) -> "MatrixFactor | RowsFactor":
        """Factorise xx (G, D, D) or rows (G, n, D), whose last column is the bias; raises SingularSystem."""
        return RowsFactor.of(xx, ridge) if gram.holds_rows(xx) else MatrixFactor.of(xx, ridge)


@dataclass(frozen=True)
class MatrixFactor:
    """The Cholesky factor of xx + λ·s·I."""

    factor: Tensor
    damping: Tensor

    @classmethod
    def of(cls, xx: Tensor, ridge: float) -> Self:
        """Factorise xx (G, D, D)."""
        damping = damping_of(xx, ridge)
        system = xx.clone()
        system.diagonal(dim1=1, dim2=2).add_(damping)
        return cls(cholesky(system, xx.shape[1], ridge), damping)

    def solve(self, xy: Tensor, prior: Tensor) -> Tensor:
        """Return W(λ) for xy (G, D, K), shrunk towards the prior weights (G, D, K)."""
        return torch.cholesky_solve(xy + self.damping[:, :, None] * prior, self.factor)


@dataclass(frozen=True)
class RowsFactor:
    """The Cholesky factor of xxᵀ + λ·s·I; x (G, n, D − 1) about its mean (G, 1, D − 1), about 0 without a bias."""

    factor: Tensor
    damping: Tensor
    x: Tensor
    mean: Tensor
    has_bias: Tensor

    @classmethod
    def of(cls, rows: Tensor, ridge: float) -> Self:
        """Factorise rows (G, n, D)."""
        inputs, has_bias = rows[:, :, :-1].double(), rows[:, :, -1:].any(1, keepdim=True)
        damping = ridge * _mean((inputs**2).sum(1))[:, :, None]
        mean = inputs.mean(1, keepdim=True) * has_bias
        x = inputs - mean
        system = x @ x.mT
        system.diagonal(dim1=1, dim2=2).add_(damping[:, :, 0])
        return cls(cholesky(system, rows.shape[2], ridge), damping, x, mean, has_bias)

    def solve(self, xy: Tensor, prior: Tensor) -> Tensor:
        """Return W(λ) for xy (G, D, K), shrunk towards the prior weights (G, D, K)."""
        total = xy[:, -1:]
        # only the change is divided by μ, which is small: of the whole right-hand side little would be left
        left = xy[:, :-1] - self.mean.mT @ total - self.x.mT @ (self.x @ prior[:, :-1])
        change = (left - self.x.mT @ torch.cholesky_solve(self.x @ left, self.factor)) / self.damping
        w = prior[:, :-1] + change
        bias = torch.where(self.has_bias, total / self.x.shape[1] - self.mean @ w, prior[:, -1:])
        return torch.cat([w, bias], dim=1)


def damping_of(xx: Tensor, ridge: float) -> Tensor:
    """Return what the ridge adds to the diagonal of xx (G, D, D), whose last column is the bias, as (G, D)."""
    diagonal = gram.diagonal(xx)
    damping = (ridge * _mean(diagonal[:, :-1])).repeat(1, xx.shape[1])
    damping[:, -1] = (diagonal[:, -1] == 0).to(xx.dtype)  # a consumer without a bias has a column of zeros there
    return damping


def cholesky(system: Tensor, unknowns: int, ridge: float) -> Tensor:
    """Return the Cholesky factor of a system (G, N, N); raises SingularSystem, which tells the number of unknowns."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(system)
    # what is not finite anywhere reaches the diagonal of its row
    if bool(info.any()) or not bool(torch.isfinite(factor.diagonal(dim1=1, dim2=2)).all()):
        raise SingularSystem(f"the normal equations ({unknowns} unknowns) are singular at ridge {ridge:g}")
    return factor


def _mean(diagonal: Tensor) -> Tensor:
    return diagonal.mean(1, keepdim=True) if diagonal.shape[1] else diagonal.new_zeros(len(diagonal), 1)
