"""The statistics on synthetic times whose truth is known."""

import numpy as np
import pytest

from compress.statistics import Ratio, median_ratio, variation

ONE = np.random.default_rng(7).random(400) + 1


def ratio(times: np.ndarray, reference: np.ndarray, seed: int = 0, resamples: int = 1000) -> Ratio:
    return median_ratio([np.stack([times, reference], axis=1)], seed=seed, resamples=resamples)


def test_a_known_ratio_is_inside_its_interval() -> None:
    generator = np.random.default_rng(0)
    machine = generator.gamma(2, 1, 400) + 10  # what both models suffer from in a round
    reference = machine * generator.normal(1, 0.01, 400)
    found = ratio(0.8 * machine * generator.normal(1, 0.01, 400), reference, seed=1)
    assert found.low < 0.8 < found.high
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.05
    assert found.within == pytest.approx(max(found.high - found.value, found.value - found.low) / found.value)


@pytest.mark.parametrize("placed", [0.0, 0.1])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(placed: float) -> None:
    """Also where each sitting is off by something of its own, which no number of rounds within it would show."""
    generator = np.random.default_rng(5)
    inside = 0
    for trial in range(60):
        sittings = [generator.normal(10, 1, (20, 2)) * np.exp(generator.normal(0, placed, 2)) for _ in range(16)]
        found = median_ratio(sittings, seed=trial, resamples=100)
        inside += found.low <= 1 <= found.high
    assert inside >= 52


def test_a_model_is_exactly_as_fast_as_itself_and_halving_halves() -> None:
    times = np.random.default_rng(2).random(31) + 1
    same, half = ratio(times, times), ratio(times / 2, times)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5), rel=1e-12)


def test_pairing_cancels_what_both_suffer_from() -> None:
    generator = np.random.default_rng(3)
    machine = np.exp(generator.normal(0, 0.5, 200))
    times = machine * generator.normal(1, 0.001, 200)
    paired, unpaired = ratio(times, machine), ratio(generator.permutation(times), machine)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_a_machine_of_two_speeds_does_not_matter() -> None:
    """Half of the rounds are slow: the medians may fall into different halves, the ratios of the rounds do not."""
    generator = np.random.default_rng(4)
    slow = np.where(np.arange(401) < 200, 1.0, 1.7)
    reference = slow * generator.normal(1, 0.01, 401)
    times = np.where(np.arange(401) == 200, 1.0, slow) * generator.normal(1, 0.01, 401)
    assert np.median(times) / np.median(reference) < 0.7
    assert ratio(times, reference).value == pytest.approx(1, abs=0.01)


def test_who_comes_first_does_not_matter() -> None:
    """Whoever comes second in a round pays for what the first left behind; there are more rounds of one order."""
    times, reference = ONE[:301].copy(), ONE[:301].copy()
    times[0::2] *= 1.04
    reference[1::2] *= 1.04
    assert ratio(times, reference).value == pytest.approx(1, abs=1e-9)


def test_variation_is_deviation_over_mean() -> None:
    assert variation(np.array([3.0, 3.0])) == 0
    assert variation(np.array([1.0, 3.0])) == pytest.approx(0.5)
