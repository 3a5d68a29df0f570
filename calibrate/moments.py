"""Second-order statistics of a consumer: sums over rows, so that sets of images merge by `+=`.

One row x is one im2col patch of the consumer's input, followed by a constant 1 for the bias; one row y is
the output vector at that position (METHOD §2):

    xx = Σ x xᵀ      xy = Σ x yᵀ      yy = Σ y²

A grouped convolution is G independent problems; G leads every shape here and is 1 for the rest.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from calibrate import gram

_CHUNK_BYTES = 64 << 20  # of the float64 copy of the rows made at a time


@dataclass(frozen=True)
class Moments:
    """Sums over n rows, float64: xx (G, D, D), xy (G, D, K), yy (G, K); the last of the D columns is the constant 1.

    While the rows are few `xx` holds the rows themselves, see `calibrate.gram`.
    """

    n: int
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def __iadd__(self, other: Self) -> Self:
        """Merge with the statistics of a disjoint set of rows; the sums are reused, not copied."""
        xx, xy, yy = gram.merge(self.xx, other.xx), self.xy.add_(other.xy), self.yy.add_(other.yy)
        return type(self)(self.n + other.n, xx, xy, yy)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Self:
        """Sum over the rows of x (G, n, D) and y (G, n, K), in float64."""
        groups, n, d = x.shape
        k = y.shape[2]
        xy = torch.zeros(groups, d, k, dtype=torch.float64, device=x.device)
        yy = xy.new_zeros(groups, k)
        step = max(1, _CHUNK_BYTES // (8 * groups * (d + k)))
        for start in range(0, n, step):
            rows, targets = x[:, start : start + step].double(), y[:, start : start + step].double()
            xy.baddbmm_(rows.mT, targets)
            yy.add_((targets**2).sum(1))
        return cls(n, gram.absorb(x[:, :0], x), xy, yy)

    def error(self, w: Tensor) -> float:
        """Return Σ |y − Wᵀx|² over all rows, for weights w (G, D, K)."""
        return float(self.yy.sum() - 2 * (w * self.xy).sum() + (w * gram.times(self.xx, w)).sum())

    def variance(self) -> float:
        """Return Σ |y − ȳ|²: the energy of the output about its mean, the unit of relative errors."""
        mean = self.xy[:, -1] / max(self.n, 1)
        return float((self.yy - self.n * mean**2).sum())
