"""The elimination of `calibrate.eliminate` for fewer rows X (n, D) than unknowns, on n rows instead of D × D.

The bias, which is not damped, is fitted exactly by rows about their mean. With μ = λ·s, the columns A that are
kept, μI + X_A·X_Aᵀ = L·Lᵀ and Z = L⁻¹·X, Woodbury's identity gives the refit, and what moving columns B changes:

    W = w + Zᵀ·Z_R·w_R     over the columns R that are not kept
    cost(B) = μ·tr( W_Bᵀ · (I ∓ Z_Bᵀ·Z_B)⁻¹ · W_B )

with − where B leaves A, + where it joins A. Afterwards, with the eigenvalues λ and eigenvectors V of Z_Bᵀ·Z_B,

    W ← W ± Zᵀ·Z_B · (I ∓ Z_Bᵀ·Z_B)⁻¹ · W_B
    Z ← (I ∓ Z_B·Z_Bᵀ)^(-1/2) · Z = Z + Z_B·V·diag( ±1 ÷ (r + r²) )·Vᵀ·Z_Bᵀ·Z     r = √(1 ∓ λ)

which rounds a little each time; once as many columns have moved as there are rows, Z is made anew.
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
        self.x, self.columns, self.scale = x, columns, scale
        self.ridge, self.damping = ridge, ridge * unit
        self.sign = 1.0 if backwards else -1.0
        self.kept = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        if not backwards:
            self.kept[torch.cat(columns)] = False
        self.whitened, self.moved = self._whiten(), 0  # Zᵀ, whose rows are the columns of Z
        gone = ~self.kept
        self.weights = w + self.whitened @ (self.whitened[gone].mT @ w[gone])

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
        z, w = self.whitened[b], self.weights[b]
        solved = self._solved(z, w)
        if few := len(b) <= len(self.x):
            across = self.whitened @ z.mT
            self.weights.addmm_(across, solved, alpha=self.sign)
        else:
            self.weights.addmm_(self.whitened, z.mT @ solved, alpha=self.sign)
        self.kept[b] = self.sign < 0
        self.moved += len(b)
        if few and self.moved < len(self.x):
            values, v = torch.linalg.eigh(across[b])
            root = (1 - self.sign * values).clamp_min(1e-12).sqrt()
            self.whitened.addmm_(across, (v * (self.sign / (root + root**2))) @ (v.mT @ z))
        else:
            self.whitened, self.moved = self._whiten(), 0
        return max(self.damping * self.scale * float((w * solved).sum()), 0.0)

    def _costs(self, b: Tensor) -> Tensor:
        """Return the cost of moving each row of column indices b (C, m)."""
        z, w = self.whitened[b], self.weights[b]
        costs: Tensor = self.damping * self.scale * (w * self._solved(z, w)).sum((1, 2))
        return costs

    def _solved(self, z: Tensor, w: Tensor) -> Tensor:
        """Return (I ∓ z·zᵀ)⁻¹·w for z (…, m, n), by the smaller of the two systems."""
        if z.shape[-2] <= z.shape[-1]:
            solved: Tensor = torch.linalg.solve(self._one_minus(z @ z.mT), w)
            return solved
        core: Tensor = torch.linalg.solve(self._one_minus(z.mT @ z), z.mT @ w)
        return w + self.sign * z @ core

    def _whiten(self) -> Tensor:
        """Factorise μI + X_A·X_Aᵀ = L·Lᵀ and return (L⁻¹·X)ᵀ, row by row in memory."""
        x = self.x * self.kept
        system = x @ x.mT
        system.diagonal().add_(self.damping)
        factor = cholesky(system[None], x.shape[1] + 1, self.ridge)[0]
        whitened: Tensor = torch.linalg.solve_triangular(factor, self.x, upper=False)
        return whitened.mT.contiguous()

    def _one_minus(self, square: Tensor) -> Tensor:
        return torch.eye(square.shape[-1], dtype=square.dtype, device=square.device) - self.sign * square
