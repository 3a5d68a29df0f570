"""The ridge fit against numpy's solution of the formula in its docstring."""

import numpy as np
import pytest
import torch

from calibrate.least_squares import Factor, SingularSystem


def problem(seed: int, n: int = 40, d: int = 5, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return xx, xy, and prior weights, the bias last."""
    generator = np.random.default_rng(seed)
    x = np.concatenate([generator.normal(2.0, 1.0, size=(n, d - 1)), np.ones((n, 1))], axis=1)
    y = generator.normal(size=(n, k))
    return x.T @ x, x.T @ y, generator.normal(size=(d, k))


def solve(xx: np.ndarray, xy: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray:
    factor = Factor.of(torch.from_numpy(xx)[None], ridge)
    return factor.solve(torch.from_numpy(xy)[None], torch.from_numpy(prior)[None])[0].numpy()


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_the_solution_is_that_of_the_formula(ridge: float) -> None:
    xx, xy, prior = problem(0)
    damping = ridge * np.diag(xx)[:-1].mean() * np.diag([1.0, 1, 1, 1, 0])  # the bias is not damped
    expected = np.linalg.solve(xx + damping, xy + damping @ prior)
    np.testing.assert_allclose(solve(xx, xy, prior, ridge), expected, rtol=1e-9)


def test_the_groups_of_a_convolution_are_solved_apart() -> None:
    problems = [problem(seed) for seed in (1, 2)]
    xx, xy, prior = (torch.from_numpy(np.stack(parts)) for parts in zip(*problems, strict=True))
    together = Factor.of(xx, 0.1).solve(xy, prior).numpy()
    for found, alone in zip(together, problems, strict=True):
        np.testing.assert_allclose(found, solve(*alone, 0.1), rtol=1e-9)


def test_a_large_ridge_keeps_the_prior_and_fits_the_bias_alone() -> None:
    xx, xy, prior = problem(3)
    found = solve(xx, xy, prior, 1e9)
    np.testing.assert_allclose(found[:-1], prior[:-1], rtol=1e-6)
    # what is left is the mean of the residual: the last normal equation, solved for the bias
    np.testing.assert_allclose(found[-1], (xy[-1] - xx[-1, :-1] @ prior[:-1]) / xx[-1, -1], rtol=1e-6)


def test_a_bias_column_of_zeros_leaves_the_prior_bias() -> None:
    xx, xy, prior = problem(4)
    xx[-1] = xx[:, -1] = xy[-1] = 0
    found = solve(xx, xy, prior, 1e-3)
    np.testing.assert_array_equal(found[-1], prior[-1])
    damped = xx[:-1, :-1] + 1e-3 * np.diag(xx)[:-1].mean() * np.eye(4)
    expected = np.linalg.solve(damped, xy[:-1] + (damped - xx[:-1, :-1]) @ prior[:-1])
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-9)


def test_weights_that_fit_already_stay() -> None:
    xx, _, prior = problem(5)
    np.testing.assert_allclose(solve(xx, xx @ prior, prior, 0.3), prior, rtol=1e-9)


@pytest.mark.parametrize(
    ("xx", "why"),
    [
        (np.zeros((3, 3)), "inputs that are always 0 give no scale to damp with"),
        (np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), "not a sum of squares"),
        (np.full((3, 3), np.nan), "a value overflowed"),
    ],
)
def test_a_singular_system_is_said_to_be_one(xx: np.ndarray, why: str) -> None:
    with pytest.raises(SingularSystem, match=r"3 unknowns.*ridge 0\.001"):
        Factor.of(torch.from_numpy(xx)[None], 1e-3)


def test_fewer_rows_than_unknowns_are_enough_with_a_ridge() -> None:
    xx, xy, prior = problem(6, n=2)
    assert np.isfinite(solve(xx, xy, prior, 1e-3)).all()
