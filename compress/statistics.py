"""The statistics of a latency measurement, on plain arrays of times.

`times` is rounds × 2 in milliseconds, of a model and of the one that it is compared with, as `onboard.timed_rounds`
returns them: one round times both once, in turn, in the even rows in one order and in the odd ones in the other. What
slows the machine for a moment slows both models of a round, so the ratio is taken round by round, and because it
matters who comes first, in either order by itself:

    log ratio = (median over even rounds of log(times[:, 0] / times[:, 1]) + median over odd rounds of the same) / 2

with a percentile bootstrap (Efron 1979). A sitting is a time for which the models stay where they are in memory, which
makes a small difference: drawn are sittings, and rounds of either order within each. The ratio of two medians instead
of this median of ratios is off by tens of percent where a machine has two speeds, as one has whose cores are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
UNSTABLE_ABOVE = 0.025


@dataclass(frozen=True)
class Ratio:
    """A ratio of latencies and its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def within(self) -> float:
        """How far the interval reaches from the value, as a share of it."""
        return max(self.high - self.value, self.value - self.low) / self.value


def median_ratio(sittings: Sequence[np.ndarray], *, seed: int, resamples: int = RESAMPLES) -> Ratio:
    """Return the ratio with its 95 % interval; each sitting is rounds × 2, two rounds at least."""
    logs = [np.log(times[:, 0] / times[:, 1]) for times in sittings]
    orders = [[each[order::2] for each in logs] for order in (0, 1)]
    generator = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    chosen = generator.integers(0, len(logs), (resamples, len(logs)))
    for order in orders:
        rounds, sizes = np.concatenate(order), np.array([len(each) for each in order])
        starts = np.cumsum(sizes) - sizes
        for i, some in enumerate(chosen):  # one resample at a time: rounds × resamples need not fit in memory
            size = np.repeat(sizes[some], sizes[some])
            places = np.repeat(starts[some], sizes[some]) + (generator.random(len(size)) * size).astype(int)
            drawn[i] += np.median(rounds[places]) / 2
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = np.mean([np.median(np.concatenate(order)) for order in orders])
    return Ratio(*(float(np.exp(each)) for each in (value, low, high)))


def variation(times: np.ndarray) -> float:
    """Return the coefficient of variation, standard deviation ÷ mean (0 for a single time)."""
    return float(times.std() / times.mean())
