"""The evolutionary search on chains whose true losses are known, and differ from what it is told."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from compress.costs import CostModel, Extent, Term, Widths
from compress.errors import OptionError
from compress.searches import WITH_RETRIALS, Budget, Effort, Problem, evolve, lagrange
from compress.searches.evolve import BATCH, bent, breed

GROUPS, WIDTH = 4, 8


@dataclass(frozen=True)
class Truth:
    """Stands in for trials: the divergence is the sum of the true losses."""

    losses: Mapping[str, np.ndarray]

    def __call__(self, widths: Widths) -> float:
        return sum(float(loss[len(loss) - 1 - widths[name]]) for name, loss in self.losses.items())


class PowerCut(Exception):
    """What ends a search in the middle."""


@dataclass
class Interrupted:
    """The same, until the power goes."""

    truth: Truth
    left: int

    def __call__(self, widths: Widths) -> float:
        self.left -= 1
        if self.left < 0:
            raise PowerCut
        return self.truth(widths)


def misled(seed: int, /, *, share: float = 0.5, **effort: object) -> Problem:
    """Return a chain of layers whose losses are told on a wrong scale, another one for every group."""
    generator = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(GROUPS)]
    extents = [Extent(3, {}), *(Extent(0, {name: 1.0}) for name in names), Extent(10, {})]
    cost = CostModel(0, tuple(Term(float(generator.integers(1, 9)), pair) for pair in itertools.pairwise(extents)))
    steps = {name: np.sort(generator.gamma(0.7, 1, WIDTH)) for name in names}
    true = {name: np.concatenate([[0.0], np.cumsum(step)]) for name, step in steps.items()}
    told = {name: np.exp(generator.normal()) * loss ** np.exp(0.3 * generator.normal()) for name, loss in true.items()}
    allowed = {name: np.arange(1, WIDTH + 1) for name in names}
    budget = Budget(cost, share * cost.total(dict.fromkeys(names, WIDTH)))
    return Problem(told, allowed, (budget,), Truth(true), Effort(**{"candidates": 24, **effort}))  # type: ignore[arg-type]


def divergence(problem: Problem, widths: Widths) -> float:
    return problem.trial(widths)


def test_the_first_candidate_is_what_lagrange_finds() -> None:
    for seed in range(3):
        problem = misled(seed, candidates=1)
        assert evolve(problem) == lagrange(problem)


def test_it_is_never_less_fit_than_lagrange() -> None:
    for seed in range(3):
        problem = misled(seed, candidates=BATCH)
        assert divergence(problem, evolve(problem)) <= divergence(problem, lagrange(problem))


def test_it_finds_out_what_the_losses_do_not_tell() -> None:
    """Of what lagrange loses for being misled, most is won back."""
    lost, left = 0.0, 0.0
    for seed in range(3):
        problem = misled(seed, candidates=96)
        best = divergence(problem, lagrange(replace(problem, losses=problem.trials.losses)))  # type: ignore[union-attr]
        lost += divergence(problem, lagrange(problem)) - best
        left += divergence(problem, evolve(problem)) - best
    assert lost > 0.1
    assert left < 0.4 * lost


def test_what_suits_the_trials_alone_is_not_taken() -> None:
    """By other samples the losses were told rightly: what is fitter only where it was bred gives way to the first."""
    given_way = 0
    for seed in range(3):
        problem = misled(seed, candidates=48)
        first, bred = lagrange(problem), evolve(problem)
        again = evolve(replace(problem, retrials=Truth(problem.losses)))
        assert problem.loss(again) <= min(problem.loss(first), problem.loss(bred))
        given_way += problem.loss(again) < problem.loss(bred)
        assert evolve(replace(problem, retrials=problem.trials)) == bred
    assert given_way


def test_the_budget_holds_whatever_is_bred() -> None:
    problem = misled(0)
    assert problem.fits(evolve(problem))


def test_a_seed_says_what_is_found(tmp_path: Path) -> None:
    texts = []
    for run, seed in enumerate((0, 0, 1)):
        file = tmp_path / f"{run}.json"
        evolve(misled(3, seed=seed, checkpoint=file))
        texts.append(json.loads(file.read_text())["tried"])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_processes_do_not_matter(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        file = tmp_path / f"{jobs}.json"
        widths = evolve(misled(1, candidates=12, jobs=jobs, checkpoint=file))
        found.append((widths, file.read_bytes()))
    assert found[0] == found[1]


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    expected = evolve(misled(2, checkpoint=whole))
    problem = misled(2, checkpoint=broken)
    with pytest.raises(PowerCut):
        evolve(replace(problem, trials=Interrupted(problem.trials, 18)))  # type: ignore[arg-type]
    assert len(json.loads(broken.read_text())["tried"]) == 16
    rest = Interrupted(problem.trials, 24 - 16)  # type: ignore[arg-type]  # nothing is tried twice
    assert evolve(replace(problem, trials=rest)) == expected
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "whole.json"]


def test_a_finished_search_is_read_back(tmp_path: Path) -> None:
    problem = misled(2, checkpoint=tmp_path / "search.json")
    expected = evolve(problem)
    assert evolve(replace(problem, trials=Interrupted(problem.trials, 0))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (misled(0, seed=1), "another seed"),
        (misled(0, candidates=25), "another candidates"),
        (misled(0, share=0.51), "another budget"),
        (misled(1), "another model and data"),
    ],
    ids=["seed", "candidates", "budget", "losses"],
)
def test_the_checkpoint_of_another_search_is_refused(other: Problem, said: str, tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    evolve(misled(0, checkpoint=file))
    with pytest.raises(OptionError, match=said):
        evolve(replace(other, effort=replace(other.effort, checkpoint=file)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1', "\x00", '{"tried": 3}'])
def test_a_file_that_is_no_checkpoint_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(OptionError, match=r"search\.json is not a checkpoint of a search: delete it"):
        evolve(misled(0, checkpoint=file))
    assert file.read_text() == text


def test_progress_counts_every_candidate_once(tmp_path: Path) -> None:
    file, heard = tmp_path / "search.json", []
    problem = misled(0, checkpoint=file, advance=heard.append)
    with pytest.raises(PowerCut):
        evolve(replace(problem, trials=Interrupted(problem.trials, 20)))  # type: ignore[arg-type]
    assert sum(heard) == 16
    heard.clear()
    evolve(problem)
    assert sum(heard) == 24 and heard[0] == 16
    heard.clear()
    evolve(replace(problem, retrials=problem.trials))
    assert sum(heard) == 24 + WITH_RETRIALS["evolve"]


def test_a_bent_loss_rises_from_nothing() -> None:
    loss = np.array([0.0, 0.0, 1e-12, 0.1, 0.5, 0.5, 3.0])
    for alpha, beta in ((0.5, 1.0), (-0.5, -2.0), (1.0, 0.0)):
        found = bent(loss, alpha, beta)
        assert found[0] == 0 and (np.diff(found) >= 0).all() and np.isfinite(found).all()
        assert found[3] == pytest.approx(np.exp(beta) * loss[3])  # the middle is scaled, not bent
    assert np.array_equal(bent(loss, 0.0, 0.0), loss)


def test_the_first_of_all_is_the_identity_and_later_ones_differ() -> None:
    batch = breed([], GROUPS, Effort())
    assert len(batch) == BATCH and not batch[0].any()
    assert all(latent.any(1).sum() == 1 for latent in batch[1:])  # a tenth of the groups, at least one
