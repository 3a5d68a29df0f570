"""The elimination of `calibrate.eliminate` for fewer rows X (n, D) than unknowns, on n × n matrices.

The bias, which is not damped, is fitted exactly by rows about their mean. With μ = λ·s, the columns A that are
kept and M = (μI + X_A·X_Aᵀ)⁻¹, Woodbury's identity gives the refit, and what moving columns B changes:

    W_A = w_A + X_Aᵀ·C     C = M·X_R·w_R     over the columns R that are not kept
    cost(B) = μ·tr( W_Bᵀ · (I ∓ X_Bᵀ·M·X_B)⁻¹ · W_B )     W_B = w_B + X_Bᵀ·C

with − where B leaves A, + where it joins A; afterwards C ← C ± M′·X_B·W_B with M′ that of the columns kept then.
"""

import numpy as np
import torch
from torch import Tensor

from calibrate.least_squares import cholesky

_BATCH = 2**24  # numbers held at a time while the channels' costs are computed


class RowsState:
    """The system of one reader, and which of its columns are kept."""

    def __init__(
        self, x: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float, unit: float, backwards: bool
    ) -> None:
        """Start with all columns, or without the channels'; x (n, D) about their mean, w (D, K), float64, no bias."""
        self.x, self.w, self.columns, self.scale = x, w, columns, scale
        self.ridge, self.damping = ridge, ridge * unit
        self.sign = 1.0 if backwards else -1.0
        self.kept = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        if not backwards:
            self.kept[torch.cat(columns)] = False
        self.whitened = self._whiten()
        self.added = torch.cholesky_solve(x[:, ~self.kept] @ w[~self.kept], self.factor)

    @classmethod
    def start(
        cls, x: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float, backwards: bool = True
    ) -> "RowsState":
        """Start from rows x (n, D) and weights w (D, K) with the bias last; raises SingularSystem."""
        inputs, weights = x[:, :-1].double(), w[:-1]
        unit = float((inputs**2).sum(0).mean())
        if unit == 0:  # all inputs are always 0: whatever goes was never felt
            return cls(inputs, torch.zeros_like(weights), columns, scale, ridge, 1.0, backwards)
        has_bias = bool(x[:, -1].any())
        centred = inputs - inputs.mean(0) if has_bias else inputs
        return cls(centred, weights, columns, scale, ridge, unit, backwards)

    def costs(self, waiting: np.ndarray) -> np.ndarray:
        """Return what moving each channel would change, relative."""
        costs = np.zeros(len(waiting))
        sizes = np.array([len(self.columns[c]) for c in waiting])
        for size in np.unique(sizes[sizes > 0]):
            members = np.flatnonzero(sizes == size)
            step = max(1, _BATCH // (len(self.x) * size + min(len(self.x), size) ** 2))
            for part in (members[i : i + step] for i in range(0, len(members), step)):
                costs[part] = self._costs(torch.stack([self.columns[waiting[i]] for i in part])).cpu().numpy()
        return costs

    def move(self, channels: np.ndarray) -> float:
        """Take the channels out, or in, and return by how much the relative error changes."""
        b = torch.cat([self.columns[c] for c in channels])
        if not len(b):
            return 0.0
        change = float(self._costs(b[None])[0])
        moved = self.x[:, b] @ self._weights(b)
        self.kept[b] = self.sign < 0
        self.whitened = self._whiten()
        self.added += self.sign * torch.cholesky_solve(moved, self.factor)
        return max(change, 0.0)

    def _costs(self, b: Tensor) -> Tensor:
        """Return the cost of moving each row of column indices b (C, m)."""
        z, w = self.whitened[:, b].movedim(1, 0), self._weights(b)
        if b.shape[1] <= len(self.x):
            felt = (w * torch.linalg.solve(self._one_minus(z.mT @ z), w)).sum((1, 2))
        else:  # (I − zᵀz)⁻¹ = I + zᵀ(I − zzᵀ)⁻¹z, by the smaller of the two
            zw = z @ w
            felt = (w**2).sum((1, 2))
            felt += self.sign * (zw * torch.linalg.solve(self._one_minus(z @ z.mT), zw)).sum((1, 2))
        costs: Tensor = self.damping * self.scale * felt
        return costs

    def _weights(self, b: Tensor) -> Tensor:
        return self.w[b] + self.x.mT[b] @ self.added

    def _whiten(self) -> Tensor:
        """Factorise μI + X_A·X_Aᵀ = L·Lᵀ and return L⁻¹·X."""
        x = self.x * self.kept
        system = x @ x.mT
        system.diagonal().add_(self.damping)
        self.factor = cholesky(system[None], x.shape[1] + 1, self.ridge)[0]
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, self.x, upper=False)
        return whitened

    def _one_minus(self, square: Tensor) -> Tensor:
        return torch.eye(square.shape[-1], dtype=square.dtype, device=square.device) - self.sign * square
