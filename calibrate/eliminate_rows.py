"""The elimination of `calibrate.eliminate` for fewer rows X (n, D) than unknowns, on n × n matrices.

The bias, which is not damped, is fitted exactly by rows about their mean. With μ = λ·s, the columns A that are
left and M = (μI + X_A·X_Aᵀ)⁻¹, Woodbury's identity turns P = (X_AᵀX_A + μI)⁻¹ into

    P[B,B]⁻¹ = μ·(I − X_Bᵀ·M·X_B)⁻¹        W[A∖B] ← W[A∖B] + X[A∖B]ᵀ·M′·X_B·W[B]

with M′ that of the columns left then. All that a refit ever adds to W is Xᵀ·C, so only C (n, K) is kept.
"""

import numpy as np
import torch
from torch import Tensor

from calibrate.least_squares import cholesky

_BATCH = 2**24  # numbers held at a time while the channels' costs are computed


class RowsState:
    """The shrinking system of one reader."""

    def __init__(self, x: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float, unit: float) -> None:
        """Start with all columns; x (n, D) about their mean, w (D, K), both float64 and without the bias."""
        self.x, self.w, self.columns, self.scale = x, w, columns, scale
        self.ridge, self.damping = ridge, ridge * unit
        self.left = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        self.added = x.new_zeros(len(x), w.shape[1])
        self.whitened = self._whiten()

    @classmethod
    def start(cls, x: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float) -> "RowsState":
        """Start from rows x (n, D) and weights w (D, K) with the bias last; raises SingularSystem."""
        inputs, weights = x[:, :-1].double(), w[:-1]
        unit = float((inputs**2).sum(0).mean())
        if unit == 0:  # all inputs are always 0: whatever goes was never felt
            return cls(inputs, torch.zeros_like(weights), columns, scale, ridge, 1.0)
        has_bias = bool(x[:, -1].any())
        return cls(inputs - inputs.mean(0) if has_bias else inputs, weights, columns, scale, ridge, unit)

    def costs(self, alive: np.ndarray) -> np.ndarray:
        """Return the relative cost of each channel that is left."""
        costs = np.zeros(len(alive))
        sizes = np.array([len(self.columns[c]) for c in alive])
        for size in np.unique(sizes[sizes > 0]):
            members = np.flatnonzero(sizes == size)
            step = max(1, _BATCH // (len(self.x) * size + min(len(self.x), size) ** 2))
            for part in (members[i : i + step] for i in range(0, len(members), step)):
                costs[part] = self._costs(torch.stack([self.columns[alive[i]] for i in part])).cpu().numpy()
        return costs

    def remove(self, channels: np.ndarray) -> float:
        """Take the channels out and return the rise of the relative error."""
        b = torch.cat([self.columns[c] for c in channels])
        if not len(b):
            return 0.0
        rise = float(self._costs(b[None])[0])
        lost = self.x[:, b] @ self._weights(b)
        self.left[b] = False
        self.whitened = self._whiten()
        self.added += torch.cholesky_solve(lost, self.factor)
        return max(rise, 0.0)

    def _costs(self, b: Tensor) -> Tensor:
        """Return the cost of taking out each row of column indices b (C, m)."""
        z, w = self.whitened[:, b].movedim(1, 0), self._weights(b)
        if b.shape[1] <= len(self.x):
            felt = (w * torch.linalg.solve(_one_minus(z.mT @ z), w)).sum((1, 2))
        else:  # (I − zᵀz)⁻¹ = I + zᵀ(I − zzᵀ)⁻¹z, by the smaller of the two
            zw = z @ w
            felt = (w**2).sum((1, 2)) + (zw * torch.linalg.solve(_one_minus(z @ z.mT), zw)).sum((1, 2))
        costs: Tensor = self.damping * self.scale * felt
        return costs

    def _weights(self, b: Tensor) -> Tensor:
        return self.w[b] + self.x.mT[b] @ self.added

    def _whiten(self) -> Tensor:
        """Factorise μI + X_A·X_Aᵀ = L·Lᵀ and return L⁻¹·X."""
        x = self.x * self.left
        system = x @ x.mT
        system.diagonal().add_(self.damping)
        self.factor = cholesky(system[None], x.shape[1] + 1, self.ridge)[0]
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, x, upper=False)
        return whitened


def _one_minus(square: Tensor) -> Tensor:
    return torch.eye(square.shape[-1], dtype=square.dtype, device=square.device) - square
