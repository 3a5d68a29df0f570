"""When channels go, what may be left, and the learning rate: their laws over many lengths."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.training.schedule import budgets, rate, removals


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"),
    [
        (20, 3, (3, 6, 9, 12)),
        (30, 10, (10, 20)),  # epochs 20 to 29 are the last third
        (200, 21, (21, 42, 63, 84, 105, 126)),  # of the paper
        (45, None, (3, 6, 9, 12, 15, 18, 21, 24, 27, 30)),
        (9, 7, (6,)),  # the first multiple is too late
        (2, None, (1,)),
        (1, None, (0,)),
        (1, 5, (0,)),
    ],
)
def test_removals_by_eye(epochs: int, interval: int | None, expected: tuple[int, ...]) -> None:
    assert removals(epochs, interval) == expected


@given(st.integers(1, 500), st.none() | st.integers(1, 600))
def test_removals_are_multiples_before_the_last_third(epochs: int, interval: int | None) -> None:
    found = removals(epochs, interval)
    assert found and all(3 * epoch <= 2 * epochs and epoch < epochs for epoch in found)
    assert len({late - early for early, late in itertools.pairwise((0, *found))} - {0}) <= 1
    if interval is None and epochs >= 15:
        assert 6 <= len(found) <= 14
    if interval is not None and 3 * interval <= 2 * epochs:
        assert found[0] == interval and 3 * (found[-1] + interval) > 2 * epochs


@pytest.mark.parametrize(("epochs", "interval"), [(0, None), (5, 0), (-3, 2)])
def test_lengths_below_one_are_refused(epochs: int, interval: int | None) -> None:
    with pytest.raises(ValueError, match=f"{epochs} epochs with removals every {interval}"):
        removals(epochs, interval)


@given(st.floats(1, 1e12), st.floats(1e-3, 1), st.integers(1, 50))
def test_budgets_fall_in_equal_steps_to_the_limit(original: float, share: float, count: int) -> None:
    limit = share * original
    found = budgets(original, limit, count)
    assert len(found) == count and found[-1] == limit
    steps = [early - late for early, late in itertools.pairwise((original, *found))]
    assert steps == pytest.approx([(original - limit) / count] * count, rel=1e-6, abs=1e-9 * original)


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 400, 1001])
def test_the_rate_warms_up_and_falls_as_a_cosine(steps: int) -> None:
    found = [rate(step, steps, 0.3) for step in range(steps)]
    warm = steps // 20
    assert all(value > 0 for value in found) and max(found) == found[warm] == 0.3
    assert found[:warm] == pytest.approx([0.3 * (i + 1) / (warm + 1) for i in range(warm)])
    assert found[warm:] == sorted(found[warm:], reverse=True)
    if steps > 100:  # half of what is left is half of the rate
        assert rate(warm + (steps - warm) // 2, steps, 0.3) == pytest.approx(0.15, rel=0.01)
        assert found[-1] < 1e-4
