"""The distance of outputs against scipy's Kullback-Leibler divergence and numpy's sums."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from compress.divergence import are_scores, divergence


def scores(seed: int, n: int = 6, k: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, size=(n, k)).astype(np.float32))


def test_scores_are_compared_by_kullback_leibler() -> None:
    a, b = scores(0), scores(1)
    p, q = (softmax(s.double().numpy(), axis=1) for s in (a, b))
    np.testing.assert_allclose(divergence([a], [b]), rel_entr(p, q).sum(1), rtol=1e-9)


def test_probabilities_are_taken_as_they_are() -> None:
    p, q = (scores(seed).double().softmax(1) for seed in (0, 1))
    np.testing.assert_allclose(divergence([p], [q]), rel_entr(p.numpy(), q.numpy()).sum(1), rtol=1e-9)
    np.testing.assert_allclose(divergence([p], [q]), divergence([p.log()], [q.log()]), rtol=1e-9)


def test_an_impossible_class_costs_much_and_not_infinity() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    assert 5 < float(divergence([p], [q])) < 100


def test_a_constant_added_to_all_scores_is_no_difference() -> None:
    a = scores(2)
    np.testing.assert_allclose(divergence([a], [a + 5]), 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 1), (5, 3, 4, 4)])
def test_other_outputs_are_compared_by_relative_error(shape: tuple[int, ...]) -> None:
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


def test_whole_numbers_and_outputs_of_other_lengths_are_left_out() -> None:
    a, b = scores(10), scores(11)
    alone = divergence([a], [b])
    with_others = divergence([a, a.argmax(1), torch.ones(2, 3)], [b, b.argmax(1), torch.zeros(2, 3)])
    np.testing.assert_array_equal(with_others, alone)


@pytest.mark.parametrize(("shape", "expected"), [((4, 10), True), ((4, 2), True), ((4, 1), False), ((4, 10, 1), False)])
def test_what_looks_like_scores(shape: tuple[int, ...], expected: bool) -> None:
    assert are_scores(torch.zeros(shape)) is expected
