"""Backward elimination against brute force: refitting without the channels, by numpy."""

import numpy as np
import pytest
import torch

from calibrate.eliminate import Reader, eliminate


def system(generator: np.random.Generator, channels: int, taps: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    x = generator.normal(size=(200, channels * taps)) @ generator.normal(size=(channels * taps, channels * taps))
    x = np.concatenate([x, np.ones((200, 1))], axis=1)
    return x.T @ x, generator.normal(size=(channels * taps + 1, outputs))


def refit_error(xx: np.ndarray, w: np.ndarray, kept: np.ndarray) -> float:
    """Return min |X·w − X[:, kept]·v|² over v, from the normal equations."""
    target = xx @ w
    v = np.linalg.solve(xx[np.ix_(kept, kept)], target[kept])
    return float((w * target).sum() - (v * target[kept]).sum())


def reader(xx: np.ndarray, w: np.ndarray, columns: list[np.ndarray], scale: float = 1.0) -> Reader:
    return Reader(torch.from_numpy(xx), torch.from_numpy(w), columns, scale)


@pytest.mark.parametrize(("channels", "taps", "outputs"), [(6, 1, 3), (5, 4, 2), (4, 9, 7)])
def test_every_loss_is_that_of_the_best_refit(channels: int, taps: int, outputs: int) -> None:
    xx, w = system(np.random.default_rng(channels), channels, taps, outputs)
    columns = [np.arange(c * taps, (c + 1) * taps) for c in range(channels)]
    curve = eliminate([reader(xx, w, columns)], channels, ridge=1e-12)
    for removed in range(channels + 1):
        gone = set(curve.order[:removed].tolist())
        kept = np.array([i for c in range(channels) if c not in gone for i in columns[c]] + [channels * taps])
        assert curve.loss[removed] == pytest.approx(refit_error(xx, w, kept), rel=1e-6, abs=1e-6)


def test_the_first_channel_to_go_is_the_cheapest_of_all() -> None:
    xx, w = system(np.random.default_rng(3), 7, 3, 4)
    columns = [np.arange(c * 3, c * 3 + 3) for c in range(7)]
    everything = np.arange(22)
    costs = [refit_error(xx, w, np.setdiff1d(everything, columns[c])) for c in range(7)]
    assert eliminate([reader(xx, w, columns)], 7, ridge=1e-12).order[0] == int(np.argmin(costs))


def test_two_readers_add_their_costs_by_scale() -> None:
    generator = np.random.default_rng(4)
    (first_xx, first_w), (second_xx, second_w) = (system(generator, 4, 1, 2) for _ in range(2))
    columns = [np.array([c]) for c in range(4)]
    curve = eliminate([reader(first_xx, first_w, columns, 2.0), reader(second_xx, second_w, columns, 0.5)], 4, 1e-12)
    kept = np.setdiff1d(np.arange(5), curve.order[:2])
    expected = 2.0 * refit_error(first_xx, first_w, kept) + 0.5 * refit_error(second_xx, second_w, kept)
    assert curve.loss[2] == pytest.approx(expected, rel=1e-6)


def test_removing_several_at_once_still_gives_the_exact_loss() -> None:
    xx, w = system(np.random.default_rng(5), 12, 2, 3)
    columns = [np.arange(c * 2, c * 2 + 2) for c in range(12)]
    curve = eliminate([reader(xx, w, columns)], 12, ridge=1e-12, at_once=3)
    for removed in (4, 12):
        kept = np.setdiff1d(np.arange(25), np.concatenate([columns[c] for c in curve.order[:removed]]))
        assert curve.loss[removed] == pytest.approx(refit_error(xx, w, kept), rel=1e-6)


def test_inputs_that_are_always_0_go_without_loss() -> None:
    """A dead reader beside a live one changes nothing; alone, all goes for nothing."""
    xx, w = system(np.random.default_rng(6), 4, 2, 3)
    columns = [np.arange(c * 2, c * 2 + 2) for c in range(4)]
    dead = reader(np.diag([0.0] * 8 + [200.0]), w, columns, 1e30)
    assert eliminate([dead], 4).loss.tolist() == [0.0] * 5
    alone, beside = eliminate([reader(xx, w, columns)], 4), eliminate([reader(xx, w, columns), dead], 4)
    np.testing.assert_array_equal(beside.order, alone.order)
    np.testing.assert_array_equal(beside.loss, alone.loss)
