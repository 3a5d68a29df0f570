"""Moments are sums over rows: they merge by `+=`, and say what direct sums over the rows say."""

import numpy as np
import pytest
import torch

from calibrate import moments
from calibrate.moments import Moments


def rows(seed: int, n: int, groups: int = 2, d: int = 5, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    x = np.concatenate([generator.normal(size=(groups, n, d - 1)), np.ones((groups, n, 1))], axis=2)
    return torch.from_numpy(x), torch.from_numpy(generator.normal(1.0, 2.0, size=(groups, n, k)))


def test_the_moments_of_two_sets_are_those_of_their_union() -> None:
    (x, y), (more_x, more_y) = rows(0, 7), rows(1, 11)
    together = Moments.of(torch.cat([x, more_x], dim=1), torch.cat([y, more_y], dim=1))
    merged = Moments.of(x, y)
    merged += Moments.of(more_x, more_y)
    assert merged.n == together.n == 18
    for name in ("xx", "xy", "yy"):
        torch.testing.assert_close(getattr(merged, name), getattr(together, name), rtol=1e-12, atol=1e-12)


def test_the_sums_are_those_of_the_formula() -> None:
    x, y = rows(2, 9)
    found = Moments.of(x, y)
    for g in range(2):
        a, b = x[g].numpy(), y[g].numpy()
        np.testing.assert_allclose(found.xx[g], sum(np.outer(r, r) for r in a), rtol=1e-12)
        np.testing.assert_allclose(found.xy[g], sum(np.outer(r, t) for r, t in zip(a, b, strict=True)), rtol=1e-12)
        np.testing.assert_allclose(found.yy[g], (b**2).sum(0), rtol=1e-12)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(3, 50)
    whole = Moments.of(x, y)
    monkeypatch.setattr(moments, "_CHUNK_BYTES", 8 * 2 * 8 * 7)  # seven rows at a time
    torch.testing.assert_close(Moments.of(x, y).xx, whole.xx, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Moments.of(x, y).xy, whole.xy, rtol=1e-12, atol=1e-12)


def test_float32_rows_are_summed_in_float64() -> None:
    x = torch.full((1, 10_001, 1), 0.1, dtype=torch.float32)
    exact = 10_001 * float(x[0, 0, 0]) ** 2  # a sum in float32 is off in the fourth digit
    assert float(Moments.of(x, x).xx) == pytest.approx(exact, rel=1e-12)


def test_the_error_of_weights_is_the_sum_of_squares_of_the_residuals() -> None:
    x, y = rows(4, 20)
    w = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 5, 3)))
    direct = float(((y - x @ w) ** 2).sum())
    assert Moments.of(x, y).error(w) == pytest.approx(direct, rel=1e-10)


def test_the_variance_is_the_energy_about_the_mean() -> None:
    x, y = rows(6, 20)
    expected = 20 * y.numpy().var(axis=1).sum()
    assert Moments.of(x, y).variance() == pytest.approx(expected, rel=1e-10)
