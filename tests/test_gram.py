"""Few rows say what the matrix of their products says: in sums, fits, eliminations and compensations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from calibrate import gram
from calibrate.eliminate import Reader, eliminate
from calibrate.least_squares import Factor, SingularSystem
from calibrate.moments import Moments
from compress.sensitivity import compensated

CHANNELS, TAPS = 8, 5
D = CHANNELS * TAPS + 1


def rows(n: int, bias: bool = True, groups: int = 2, seed: int = 0) -> Tensor:
    """Rows (G, n, D) whose mean is not 0; the last column is the constant 1, or 0 for a consumer without a bias."""
    generator = np.random.default_rng(seed)
    x = np.maximum(generator.normal(0.3, 1.0, (groups, n, D)), 0)
    x[:, :, -1] = bias
    return torch.from_numpy(x)


def weights(k: int = 3, groups: int = 2, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(groups, D, k)))


def products(x: Tensor) -> Tensor:
    return torch.einsum("gni,gnj->gij", x, x)


def test_rows_are_held_until_the_matrix_is_smaller() -> None:
    x = rows(D)
    held = x[:, :0]
    for start in range(0, D, 7):
        held = gram.absorb(held, x[:, start : start + 7].float()).clone()
        seen = min(start + 7, D)
        assert gram.holds_rows(held) == (2 * seen < D)
        torch.testing.assert_close(gram.matrix(held), products(x[:, :seen].float().double()))
    torch.testing.assert_close(gram.absorb(x[:, :0], x), products(x))


@pytest.mark.parametrize("first", [0, 3, 15, 30])
@pytest.mark.parametrize("second", [3, 30])
def test_sums_over_two_sets_are_those_over_their_union(first: int, second: int) -> None:
    x, y = rows(first + second), rows(first + second, seed=2)[:, :, :3]
    parts = [Moments.of(x[:, part], y[:, part]) for part in (slice(0, first), slice(first, None))]
    before = gram.matrix(parts[1].xx).clone()
    together = parts[0]
    together += parts[1]
    torch.testing.assert_close(gram.matrix(together.xx), products(x))
    torch.testing.assert_close(gram.matrix(parts[1].xx), before, msg="a sum changed what was added")
    w = weights()
    assert together.error(w) == pytest.approx(float(((y - x @ w) ** 2).sum()))


def test_parts_of_the_matrix_are_those_of_the_rows() -> None:
    x, w = rows(12), weights()
    kept = torch.from_numpy(np.random.default_rng(3).random(D) < 0.8)
    xx = products(x)
    torch.testing.assert_close(gram.times(x, w), xx @ w)
    torch.testing.assert_close(gram.diagonal(x), torch.diagonal(xx, dim1=1, dim2=2))
    torch.testing.assert_close(gram.cross(x, kept, w), xx[:, kept][:, :, ~kept] @ w[:, ~kept])
    torch.testing.assert_close(gram.matrix(gram.restrict(x, kept)), xx[:, kept][:, :, kept])
    few = torch.arange(D) < 5  # fewer columns than rows
    torch.testing.assert_close(gram.restrict(x, few), xx[:, few][:, :, few])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-5, 1e-3, 0.1])
def test_a_fit_on_rows_is_that_on_their_matrix(ridge: float, bias: bool) -> None:
    x, prior = rows(12, bias), weights()
    xy = x.mT @ torch.from_numpy(np.random.default_rng(4).normal(2.0, 1.0, (2, 12, 3)))
    torch.testing.assert_close(
        Factor.of(x, ridge).solve(xy, prior), Factor.of(products(x), ridge).solve(xy, prior), rtol=1e-6, atol=1e-7
    )


def test_rows_about_0_have_a_bias_all_the_same() -> None:
    x, prior = rows(12), weights()
    x[:, :, :-1] -= x[:, :, :-1].mean(1, keepdim=True)
    xy = x.mT @ torch.full((2, 12, 3), 5.0, dtype=torch.float64)
    torch.testing.assert_close(Factor.of(x, 0.1).solve(xy, prior), Factor.of(products(x), 0.1).solve(xy, prior))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("at_once", "n"), [(64, 12), (2, 12), (64, 3)])
def test_channels_go_in_the_same_order_at_the_same_loss(bias: bool, at_once: int, n: int) -> None:
    x, w = rows(n, bias), weights()
    columns = [np.arange(c * TAPS, (c + 1) * TAPS) for c in range(CHANNELS - 1)]
    columns.append(np.array([], np.int64))  # a channel that this consumer does not read
    curves = []
    for xx in (x, products(x)):
        readers = [Reader(xx[g], w[g], columns, 1.0 / (g + 1)) for g in range(2)]
        curves.append(eliminate(readers, CHANNELS, at_once=at_once))
    np.testing.assert_array_equal(curves[0].order, curves[1].order)
    np.testing.assert_allclose(curves[0].loss, curves[1].loss, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gone", [3, 38])
def test_compensation_by_rows_is_that_by_their_matrix(gone: int, bias: bool) -> None:
    x, w, columns = rows(12, bias), weights(), torch.arange(gone)
    torch.testing.assert_close(compensated(w, x, columns), compensated(w, products(x), columns), rtol=1e-6, atol=1e-8)


def test_inputs_that_are_always_0_and_those_that_are_not_finite() -> None:
    x, w = torch.zeros_like(rows(12)), weights()
    x[:, :, -1] = 1.0
    curve = eliminate([Reader(x[0], w[0], [np.arange(5), np.arange(5, 10)], 1.0)], 2)
    assert curve.loss.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(SingularSystem, match="41 unknowns"):
        Factor.of(x, 1e-3)
    x[0, 3, 4] = torch.nan
    with pytest.raises(SingularSystem):
        eliminate([Reader(x[0], w[0], [np.arange(5)], 1.0)], 1)
