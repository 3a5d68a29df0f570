"""The loss along an order of channels that is given: what the best refit leaves at every width, exactly.

With A = xx + λ·s·I and W the weights of a consumer, a refit without the columns R loses (see `calibrate.eliminate`)

    loss(R) = min |v − W|²_A  over v with v[R] = 0  =  |W|²_A − |L_K⁻¹·(A·W)[K]|²        A[K,K] = L_K·L_Kᵀ

If what is kept longest comes first, the kept columns K of every width are a prefix, and all L_K are corners of one
Cholesky factor A = L·Lᵀ; L⁻¹·A·W = Lᵀ·W, and so each column adds its own share:

    loss(R) = Σ_{i ∈ R} |(Lᵀ·W)_i|²

Of fewer rows X than unknowns, N = (μI + X_K·X_Kᵀ)⁻¹ and C = N·X_R·W_R are updated instead while blocks B of columns
come in (the forward step of `calibrate.eliminate_rows`, in the order given):

    Y = N·X_B     S = (I + X_Bᵀ·Y)⁻¹     V = W_B + X_Bᵀ·C     share(B) = μ·tr(Vᵀ·S·V)
    N ← N − Y·S·Yᵀ     C ← C − Y·S·V
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from calibrate import gram
from calibrate.eliminate import Curve, Reader
from calibrate.least_squares import cholesky, damping_of

_BLOCK = 256  # columns that come in at a time


def along(readers: Sequence[Reader], order: np.ndarray, ridge: float = 1e-3) -> Curve:
    """Return the curve of a group whose channels go in this order; raises SingularSystem."""
    rises = np.zeros(len(order))
    for reader in readers:
        if not bool(reader.xx[:, :-1].any()):  # all inputs are always 0: whatever goes was never felt
            continue
        kept = [torch.as_tensor(reader.columns[c], device=reader.xx.device) for c in order[::-1]]
        share = _by_rows if gram.holds_rows(reader.xx[None]) else _by_matrix
        columns, owners = torch.cat(kept), np.repeat(np.arange(len(order))[::-1], [len(c) for c in kept])
        each = share(reader.xx, reader.w, columns, ridge).cpu().numpy()
        rises += reader.scale * np.bincount(owners, each, len(order))
    return Curve(np.array(order, dtype=np.int64), np.concatenate([[0.0], np.cumsum(rises)]))


def _by_matrix(xx: Tensor, w: Tensor, columns: Tensor, ridge: float) -> Tensor:
    system, place = xx + torch.diag(damping_of(xx[None], ridge)[0]), torch.cat([_others(columns, len(xx)), columns])
    factor = cholesky(system[place][:, place][None], len(xx), ridge)[0]
    shares: Tensor = ((factor.mT @ w[place]) ** 2).sum(1)
    return shares[len(place) - len(columns) :]


def _by_rows(rows: Tensor, w: Tensor, columns: Tensor, ridge: float) -> Tensor:
    x, w = rows[:, :-1].double(), w[:-1]
    damping = ridge * float((x**2).sum(0).mean())
    if bool(rows[:, -1].any()):
        x = x - x.mean(0)
    always = x[:, _others(columns, x.shape[1])]
    system = always @ always.mT
    system.diagonal().add_(damping)
    n = torch.cholesky_inverse(cholesky(system[None], x.shape[1] + 1, ridge)[0])
    c = n @ (x[:, columns] @ w[columns])
    shares = []
    for start in range(0, len(columns), _BLOCK):
        b = columns[start : start + _BLOCK]
        y = n @ x[:, b]
        inner = x[:, b].mT @ y
        inner.diagonal().add_(1.0)
        # V = L·U with I + X_BᵀY = L·Lᵀ: the share of each column is that of its row of U, as for the matrix
        factor = cholesky(inner[None], len(b), ridge)[0]
        u = torch.linalg.solve_triangular(factor, w[b] + x[:, b].mT @ c, upper=False)
        step = torch.linalg.solve_triangular(factor, y.mT, upper=False)
        n -= step.mT @ step
        c -= step.mT @ u
        shares.append(damping * (u**2).sum(1))
    return torch.cat(shares)


def _others(columns: Tensor, total: int) -> Tensor:
    """Return what is not among the columns: the bias, and channels of other groups."""
    free = torch.ones(total, dtype=torch.bool, device=columns.device)
    free[columns] = False
    return free.nonzero()[:, 0]
