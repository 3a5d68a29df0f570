"""Backward elimination of channels, by what each costs *after* an optimal refit of all its consumers.

With P = (xx + λ·s·I)⁻¹ and W the weights of a consumer, removing channel c (its block of columns B) and
refitting the rest raises the error by

    cost(c) = tr( W[B]ᵀ · P[B,B]⁻¹ · W[B] )

after which P and W are downdated exactly:

    P ← P − P[:,B]·P[B,B]⁻¹·P[B,:]        W ← W − P[:,B]·P[B,B]⁻¹·W[B]

(METHOD §3; the backward form of CaP's selection, arXiv 2108.13728 §3.2, and of OBS.) One pass gives the order
in which a group's channels go and the loss at every width. A group that several consumers read adds their costs,
each divided by the energy of that consumer's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calibrate import gram
from calibrate.eliminate_rows import RowsState
from calibrate.least_squares import MatrixFactor


@dataclass(frozen=True)
class Curve:
    """What a group loses: `order[i]` is the i-th channel to go, `loss[n]` the error with n channels removed.

    `loss` has one entry more than `order`; it is a sum of relative errors, without unit.
    """

    order: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Reader:
    """One consumer (or one G of it): xx (D, D) with the bias last, weights w (D, K), and the columns of each channel.

    `xx` may hold rows (n, D), see `calibrate.gram`. `columns[c]` lists the columns of the group's channel c; `scale`
    turns its error into a relative one.
    """

    xx: Tensor
    w: Tensor
    columns: Sequence[np.ndarray]
    scale: float


def eliminate(readers: Sequence[Reader], channels: int, ridge: float = 1e-3, at_once: int = 64) -> Curve:
    """Return the elimination order and losses of a group of `channels` channels, down to none.

    Raises SingularSystem where statistics are not finite.
    One channel goes at a time while fewer than 2·at_once are left, else alive // at_once of the cheapest, for speed;
    the downdates and losses are exact in both cases.
    """
    states = [_start(reader, ridge) for reader in readers]
    alive = np.arange(channels)
    order: list[int] = []
    loss = [0.0]
    while len(alive):
        cost = sum((state.costs(alive) for state in states), start=np.zeros(len(alive)))
        cheapest = alive[np.argsort(cost, kind="stable")[: max(1, len(alive) // at_once)]]
        rise = sum(state.remove(cheapest) for state in states)
        steps = np.arange(1, len(cheapest) + 1) / len(cheapest)
        loss.extend(loss[-1] + rise * steps)
        order.extend(cheapest.tolist())
        alive = np.setdiff1d(alive, cheapest, assume_unique=True)
    return Curve(np.array(order), np.array(loss))


def _start(reader: Reader, ridge: float) -> "_State | RowsState":
    columns = [torch.as_tensor(c, device=reader.xx.device) for c in reader.columns]
    if gram.holds_rows(reader.xx[None]):
        return RowsState.start(reader.xx, reader.w, columns, reader.scale, ridge)
    return _State.start(reader.xx, reader.w, columns, reader.scale, ridge)


class _State:
    """The shrinking system of one reader."""

    def __init__(self, p: Tensor, w: Tensor, columns: list[Tensor], scale: float) -> None:
        self.p, self.w, self.columns, self.scale = p, w, columns, scale
        self.left = torch.ones(len(p), dtype=torch.bool, device=p.device)

    @classmethod
    def start(cls, xx: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float) -> "_State":
        if not bool(xx.diagonal()[:-1].any()):  # all inputs are always 0: whatever goes was never felt
            return cls(torch.eye(len(xx)).to(xx), torch.zeros_like(w), columns, scale)
        return cls(torch.cholesky_inverse(MatrixFactor.of(xx[None], ridge).factor[0]), w.clone(), columns, scale)

    def costs(self, alive: np.ndarray) -> np.ndarray:
        """Return the relative cost of each channel that is left."""
        sizes = {len(self.columns[c]) for c in alive}
        costs = np.zeros(len(alive))
        for size in sorted(sizes - {0}):
            members = [i for i, c in enumerate(alive) if len(self.columns[c]) == size]
            block = torch.stack([self.columns[alive[i]] for i in members])
            w = self.w[block]
            if size == 1:
                cost = (w[:, 0] ** 2).sum(1) / self.p[block[:, 0], block[:, 0]]
            else:
                cost = (torch.linalg.inv(self.p[block[:, :, None], block[:, None, :]]) * (w @ w.mT)).sum((1, 2))
            costs[members] = (cost * self.scale).cpu().numpy()
        return costs

    def remove(self, channels: np.ndarray) -> float:
        """Take the channels out and return the rise of the relative error."""
        b = torch.cat([self.columns[c] for c in channels])
        if not len(b):
            return 0.0
        w = self.w[b]
        solved = torch.linalg.solve(self.p[b][:, b], torch.cat([self.p[b], w], dim=1))
        rise = float((w * solved[:, len(self.p) :]).sum()) * self.scale
        left = self.p[:, b].clone()
        self.p.addmm_(left, solved[:, : len(self.p)], alpha=-1)
        self.w.addmm_(left, solved[:, len(self.p) :], alpha=-1)
        self._forget(b)
        return max(rise, 0.0)

    def _forget(self, gone: Tensor) -> None:
        """Leave out the rows and columns of what is gone, now 0, once they are a fifth of the system."""
        self.left[gone] = False
        if int(self.left.sum()) > 0.8 * len(self.left):
            return
        place = torch.cumsum(self.left, 0) - 1
        self.columns = [place[c] for c in self.columns]
        self.p, self.w = self.p[self.left][:, self.left], self.w[self.left]
        self.left = self.left[self.left]
