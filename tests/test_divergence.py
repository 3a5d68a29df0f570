"""The distance of outputs against numpy's sums."""

import numpy as np
import pytest
import torch

from compress.divergence import divergence as divergence_of
from compress.divergence import energies


def divergence(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    return divergence_of(a, b, energies(a))


def scores(seed: int, n: int = 6, k: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, size=(n, k)).astype(np.float32))


def test_probabilities_are_compared_by_the_scores_behind_them() -> None:
    a, b = (scores(seed).double() for seed in (0, 1))
    a, b = (s / 4 - (s / 4).mean(1, keepdim=True) for s in (a, b))  # far from the least probability
    np.testing.assert_allclose(divergence([a.softmax(1)], [b.softmax(1)]), divergence([a], [b]), rtol=1e-9)


def test_an_impossible_class_costs_much_and_not_infinity() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    assert 5 < float(divergence([p], [q])[0]) < 1000


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3), (5, 1), (5, 3, 4, 4)])
def test_outputs_are_compared_by_relative_error(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(2, 1, shape), generator.normal(2, 1, shape)
    energy = ((a - a.mean(0)) ** 2).sum() / 5
    expected = ((a - b) ** 2).reshape(5, -1).sum(1) / energy
    np.testing.assert_allclose(divergence([torch.from_numpy(a)], [torch.from_numpy(b)]), expected, rtol=1e-9)


@pytest.mark.parametrize("a", [torch.full((3, 2, 2), 2.0), torch.full((1, 2, 2), 2.0)], ids=["constant", "one sample"])
def test_an_output_that_does_not_vary_is_measured_by_its_own_energy(a: torch.Tensor) -> None:
    np.testing.assert_allclose(divergence([a], [a + 1]), 4 / 16)


def test_outputs_add_up() -> None:
    a, b = [scores(4), scores(5)[:, :, None]], [scores(6), scores(7)[:, :, None]]
    each = [divergence([x], [y]) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(divergence(a, b), each[0] + each[1])


def test_the_same_is_at_no_distance() -> None:
    outputs = [scores(8), scores(9)[:, :, None], torch.zeros(6, 2, 2)]
    assert divergence(outputs, outputs).tolist() == [0.0] * 6


def test_parts_of_the_samples_are_measured_in_the_same_unit() -> None:
    a, b = scores(12), scores(13)
    parts = [divergence_of([a[i : i + 2]], [b[i : i + 2]], energies([a])) for i in (0, 2, 4)]
    np.testing.assert_allclose(torch.cat(parts), divergence([a], [b]))


def test_whole_numbers_and_outputs_of_other_lengths_are_left_out() -> None:
    a, b = scores(10), scores(11)
    alone = divergence([a], [b])
    with_others = divergence([a, a.argmax(1), torch.ones(2, 3)], [b, b.argmax(1), torch.zeros(2, 3)])
    np.testing.assert_array_equal(with_others, alone)
