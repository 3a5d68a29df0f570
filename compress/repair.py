"""Fit one consumer of the pruned network to what the original network does at the same place (METHOD §2).

With rows x of the pruned network, the value t wanted at the end of the tail (original network), the shortcut s
as it is now, and the tail's affine map (a, b):

    p = a·Wᵀx + b + s                                  what the pruned network has before the activation
    W ← ridge fit of (t − s − b) / a                   (asymmetric, residual-aware)
    t ← t inside (low, high); min(p, low) where t ≤ low; max(p, high) where t ≥ high;  fit again

λ and the number of repetitions are chosen on held-out images by the error after the activation; a fit that is
worse there than the plain slice is not used. What was chosen is then fitted on all rows, the held-out ones too, unless
something after it is to be judged by them. Large ridges, which leave the slice almost as it is, serve only where they
better the others by as much as those better the slice, or clearly: where they won by less, single layers gained and
whole networks lost (benchmarks/README.md).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrate.least_squares import Factor, SingularSystem
from calibrate.moments import Moments

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LARGE_RIDGES = (1.0, 10.0, 100.0)  # at the last little more than the bias moves
CLEARLY = 0.1  # the share of the error by which a large ridge that betters the best other one serves in any case
REPETITIONS = 5
EXACT = 1e-10  # a relative error that is rounding


@dataclass(frozen=True)
class Rows:
    """Rows of one consumer: x (G, n, D), wanted t and shortcut s (G, n, K); s is None without a shortcut."""

    x: Tensor
    t: Tensor
    s: Tensor | None


@dataclass(frozen=True)
class Activation:
    """The affine map (G, 1, K) or None, and the interval outside which the activation is flat."""

    scale: Tensor | None
    shift: Tensor | None
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Say whether there is any flat side."""
        return self.low > -torch.inf or self.high < torch.inf


@dataclass(frozen=True)
class Repair:
    """How one consumer was repaired: relative errors on held-out images, before and after, and the ridge chosen.

    `note` says in words why the plain slice was kept, where it was and left an error.
    """

    node: str
    slice_error: float
    error: float
    ridge: float | None
    repetitions: int
    note: str = ""


def repair(
    node: str, fit: Rows, held: Rows, activation: Activation, prior: Tensor, *, hold_out: bool = False
) -> tuple[Tensor, Repair]:
    """Return new weights (G, D, K) float64 for prior weights (the slice), and the record of the fit.

    With `hold_out` the held rows choose, and take no part in the fit.
    """
    held = held if held.x.shape[1] else fit
    energy = float(((held.t - held.t.mean(1, keepdim=True)) ** 2).sum()) or 1.0

    def error(w: Tensor) -> float:
        difference = _act(_predict(held, w, activation), activation) - _act(held.t, activation)
        return float((difference.double() ** 2).sum()) / energy

    plain = error(prior)
    if plain < EXACT:  # its input is that of the original network
        return prior, Repair(node, plain, plain, None, 0)
    statistics = _statistics(fit, activation)

    def judged(ridge: float) -> float:
        try:
            (w,) = _fits(fit, statistics, activation, prior, ridge, 0)
        except SingularSystem:
            return math.inf
        return error(w)

    usual = {ridge: judged(ridge) for ridge in RIDGES}
    large = {ridge: judged(ridge) for ridge in LARGE_RIDGES}
    least = min(plain, *usual.values())
    tried = large if min(large.values()) < least * max(least / plain, 1 - CLEARLY) else usual
    chosen = min(tried, key=tried.__getitem__)
    if not tried[chosen] < plain:  # which may be nan
        singular = all(found == math.inf for found in (usual | large).values())
        note = "every fit was singular" if singular else "no fit was better on held-out images"
        return prior, Repair(node, plain, plain, None, 0, f"{note}; the plain slice was kept")
    most = REPETITIONS if activation.flat else 0
    errors = [error(w) for w in _fits(fit, statistics, activation, prior, chosen, most)]
    repetitions = errors.index(min(errors))
    if held is not fit and not hold_out:  # what was chosen on held-out rows is fitted once more, on all rows
        fit = _both(fit, held)
        statistics += _statistics(held, activation)
    *_, best = _fits(fit, statistics, activation, prior, chosen, repetitions)
    return best, Repair(node, plain, errors[repetitions], chosen, repetitions)


def _statistics(rows: Rows, activation: Activation) -> Moments:
    return Moments.of(rows.x, _wanted(rows, rows.t, activation))


def _fits(
    rows: Rows, statistics: Moments, activation: Activation, prior: Tensor, ridge: float, repetitions: int
) -> Iterator[Tensor]:
    """Yield the ridge fit, then the fit after each repetition with targets that know the flat sides."""
    factor = Factor.of(statistics.xx, ridge)
    w = factor.solve(statistics.xy, prior)
    yield w
    for _ in range(repetitions):
        p = _predict(rows, w, activation)
        t = torch.where(rows.t <= activation.low, p.clamp(max=activation.low), rows.t)
        t = torch.where(rows.t >= activation.high, p.clamp(min=activation.high), t)
        w = factor.solve(_cross(rows.x, _wanted(rows, t, activation)), prior)
        yield w


def _both(fit: Rows, held: Rows) -> Rows:
    s = None if fit.s is None or held.s is None else torch.cat([fit.s, held.s], dim=1)
    return Rows(torch.cat([fit.x, held.x], dim=1), torch.cat([fit.t, held.t], dim=1), s)


def _predict(rows: Rows, w: Tensor, activation: Activation) -> Tensor:
    p = rows.x @ w.to(rows.x.dtype)
    if activation.scale is not None and activation.shift is not None:
        p = p * activation.scale + activation.shift
    return p if rows.s is None else p + rows.s


def _wanted(rows: Rows, t: Tensor, activation: Activation) -> Tensor:
    """Return what the consumer itself must put out for t at the end of its tail."""
    t = t if rows.s is None else t - rows.s
    if activation.scale is not None and activation.shift is not None:
        t = (t - activation.shift) / activation.scale
    return t


def _act(values: Tensor, activation: Activation) -> Tensor:
    return values.clamp(activation.low, activation.high) if activation.flat else values


def _cross(x: Tensor, y: Tensor, chunk: int = 8192) -> Tensor:
    """Return Σ x yᵀ in float64."""
    total = torch.zeros(x.shape[0], x.shape[2], y.shape[2], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], chunk):
        total.baddbmm_(x[:, start : start + chunk].double().mT, y[:, start : start + chunk].double())
    return total
