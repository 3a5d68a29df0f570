"""The closed-form repair of one consumer: ridge regression towards the weights that it already has.

    W(λ) = argmin Σ |y − Wᵀx|² + λ·s·|W − W₀|²        s = mean diag xx, the bias row not damped
         = (xx + λ·s·I)⁻¹ (xy + λ·s·W₀)

CaP (arXiv 2108.13728) solves this with λ = 0; the ridge keeps underdetermined fits near the original weights.
Shapes carry the G independent problems of a grouped convolution in front, as in `Moments`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


class SingularSystem(Exception):
    """The normal equations have no Cholesky factor, even with the ridge."""


@dataclass(frozen=True)
class Factor:
    """The Cholesky factor of xx + λ·s·I, for as many right-hand sides as wanted."""

    factor: Tensor
    damping: Tensor

    @classmethod
    def of(cls, xx: Tensor, ridge: float) -> Self:
        """Factorise xx (G, D, D), whose last column is the bias; raises SingularSystem."""
        scale = (
            xx.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True) if xx.shape[1] > 1 else xx.new_zeros(len(xx), 1)
        )
        damping = (ridge * scale).repeat(1, xx.shape[1])
        damping[:, -1] = (xx[:, -1, -1] == 0).to(xx.dtype)  # a consumer without a bias has a column of zeros there
        factor, info = torch.linalg.cholesky_ex(xx + torch.diag_embed(damping))
        if bool(info.any()) or not bool(torch.isfinite(factor).all()):
            raise SingularSystem(f"the normal equations ({xx.shape[1]} unknowns) are singular at ridge {ridge:g}")
        return cls(factor, damping)

    def solve(self, xy: Tensor, prior: Tensor) -> Tensor:
        """Return W(λ) for xy (G, D, K), shrunk towards the prior weights (G, D, K)."""
        return torch.cholesky_solve(xy + self.damping[:, :, None] * prior, self.factor)
