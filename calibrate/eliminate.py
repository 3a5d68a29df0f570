"""Which channels of a group go first, by what each costs *after* an optimal refit of all its consumers.

With A = xx + λ·s·I and W the weights of a consumer, a refit without the columns R loses

    loss(R) = min |v − W|²_A  over v with v[R] = 0

Backwards (`eliminate`), from all channels, P = A⁻¹; removing channel c (its block of columns B) costs

    cost(c) = tr( W[B]ᵀ · P[B,B]⁻¹ · W[B] )

after which P and W are downdated exactly:

    P ← P − P[:,B]·P[B,B]⁻¹·P[B,:]        W ← W − P[:,B]·P[B,B]⁻¹·W[B]

Forwards (`select`), from none, these are the very same lines that start from A in the place of P and A·W in the
place of W: the cost is then what *adding* the channel gains, and the largest is added first. P is the Schur
complement of what was added, W the gradient that is left.

(METHOD §3; forwards it is CaP's selection, arXiv 2108.13728 §3.2, backwards OBS in blocks.) One pass gives the order
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
    order, costs = _greedy([_start(reader, ridge, True) for reader in readers], channels, at_once, 1)
    return Curve(order, np.concatenate([[0.0], np.cumsum(costs)]))


def select(readers: Sequence[Reader], channels: int, ridge: float = 1e-3, at_once: int = 64) -> Curve:
    """Return the curve of adding the best channel first, from none; what is added last goes first.

    Raises SingularSystem where statistics are not finite. Many at a time as in `eliminate`.
    """
    order, gains = _greedy([_start(reader, ridge, False) for reader in readers], channels, at_once, -1)
    return Curve(order[::-1].copy(), np.concatenate([[0.0], np.cumsum(gains[::-1])]))


def _greedy(
    states: "Sequence[_State | RowsState]", channels: int, at_once: int, sign: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the channels in the order of being moved, the least of sign · cost first, and what each changed."""
    waiting = np.arange(channels)
    order: list[int] = []
    changes: list[float] = []
    while len(waiting):
        cost = sum((state.costs(waiting) for state in states), start=np.zeros(len(waiting)))
        mantissa, exponent = np.frexp(sign * cost)
        rank = np.ldexp(np.round(mantissa, 9), exponent)  # what differs by rounding is a tie: the first channel goes
        first = waiting[np.argsort(rank, kind="stable")[: max(1, len(waiting) // at_once)]]
        changes.extend([sum(state.move(first) for state in states) / len(first)] * len(first))
        order.extend(first.tolist())
        waiting = np.setdiff1d(waiting, first, assume_unique=True)
    return np.array(order, dtype=np.int64), np.array(changes)


def _start(reader: Reader, ridge: float, backwards: bool) -> "_State | RowsState":
    columns = [torch.as_tensor(c, device=reader.xx.device) for c in reader.columns]
    if gram.holds_rows(reader.xx[None]):
        return RowsState.start(reader.xx, reader.w, columns, reader.scale, ridge, backwards)
    return _State.start(reader.xx, reader.w, columns, reader.scale, ridge, backwards)


class _State:
    """The system of one reader, without the channels that moved."""

    def __init__(self, p: Tensor, w: Tensor, columns: list[Tensor], scale: float) -> None:
        self.p, self.w, self.columns, self.scale = p, w, columns, scale
        self.left = torch.ones(len(p), dtype=torch.bool, device=p.device)

    @classmethod
    def start(
        cls, xx: Tensor, w: Tensor, columns: list[Tensor], scale: float, ridge: float, backwards: bool
    ) -> "_State":
        if not bool(xx.diagonal()[:-1].any()):  # all inputs are always 0: whatever goes was never felt
            return cls(torch.eye(len(xx)).to(xx), torch.zeros_like(w), columns, scale)
        system = MatrixFactor.of(xx[None], ridge)
        if backwards:
            return cls(torch.cholesky_inverse(system.factor[0]), w.clone(), columns, scale)
        a = xx + torch.diag(system.damping[0])
        state = cls(a, a @ w, columns, scale)
        rest = torch.ones(len(a), dtype=torch.bool, device=a.device)
        rest[torch.cat(columns)] = False
        state.take(rest.nonzero()[:, 0])  # the bias, and channels of other groups, are there from the start
        return state

    def costs(self, waiting: np.ndarray) -> np.ndarray:
        """Return what moving each channel would change, relative."""
        sizes = {len(self.columns[c]) for c in waiting}
        costs = np.zeros(len(waiting))
        for size in sorted(sizes - {0}):
            members = [i for i, c in enumerate(waiting) if len(self.columns[c]) == size]
            block = torch.stack([self.columns[waiting[i]] for i in members])
            w = self.w[block]
            if size == 1:
                cost = (w[:, 0] ** 2).sum(1) / self.p[block[:, 0], block[:, 0]]
            else:
                cost = (torch.linalg.inv(self.p[block[:, :, None], block[:, None, :]]) * (w @ w.mT)).sum((1, 2))
            costs[members] = (cost * self.scale).cpu().numpy()
        return costs

    def move(self, channels: np.ndarray) -> float:
        """Take the channels out and return by how much the relative error changes."""
        return self.take(torch.cat([self.columns[c] for c in channels]))

    def take(self, b: Tensor) -> float:
        """Take columns out and return by how much the relative error changes."""
        if not len(b):
            return 0.0
        w = self.w[b]
        solved = torch.linalg.solve(self.p[b][:, b], torch.cat([self.p[b], w], dim=1))
        change = float((w * solved[:, len(self.p) :]).sum()) * self.scale
        left = self.p[:, b].clone()
        self.p.addmm_(left, solved[:, : len(self.p)], alpha=-1)
        self.w.addmm_(left, solved[:, len(self.p) :], alpha=-1)
        self._forget(b)
        return max(change, 0.0)

    def _forget(self, gone: Tensor) -> None:
        """Leave out the rows and columns of what is gone, now 0, once they are a fifth of the system."""
        self.left[gone] = False
        if int(self.left.sum()) > 0.8 * len(self.left):
            return
        place = torch.cumsum(self.left, 0) - 1
        self.columns = [place[c] for c in self.columns]
        self.p, self.w = self.p[self.left][:, self.left], self.w[self.left]
        self.left = self.left[self.left]
