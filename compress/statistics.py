"""The statistics of a latency measurement, on plain arrays of times.

`times` is rounds × models in milliseconds. One round times every model once, so what slows the machine for a
moment slows all of them, and the ratio is taken pair by pair:

    ratio = median(times[:, i]) / median(times[:, 0])

with a percentile bootstrap over rounds (Efron 1979): the same drawn rounds for both medians.
"""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
UNSTABLE_ABOVE = 0.025


@dataclass(frozen=True)
class Ratio:
    """A ratio of median latencies and its bootstrap interval."""

    value: float
    low: float
    high: float


def ratio_of_medians(times: np.ndarray, reference: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> Ratio:
    """Return median(times) / median(reference) with its 95 % interval; both are one time per round, paired."""
    pairs = np.stack([times, reference])
    generator = np.random.default_rng(seed)
    rounds = pairs.shape[1]
    drawn = np.empty(resamples)
    for i in range(resamples):  # one resample at a time: rounds × resamples need not fit in memory
        medians = np.median(pairs[:, generator.integers(0, rounds, rounds)], axis=1)
        drawn[i] = medians[0] / medians[1]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = np.median(times) / np.median(reference)
    return Ratio(float(value), float(low), float(high))


def variation(times: np.ndarray) -> float:
    """Return the coefficient of variation, standard deviation ÷ mean (0 for a single time)."""
    return float(times.std() / times.mean())


def settled(times: list[float], *, at_least: int = 10, within: float = 0.05) -> bool:
    """Say whether the last five of at least `at_least` times have the median of the five before, within 5 %."""
    if len(times) < max(at_least, 10):
        return False
    before, after = np.median(times[-10:-5]), np.median(times[-5:])
    return bool(abs(after - before) <= within * before)
