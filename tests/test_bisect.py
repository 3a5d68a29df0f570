"""The binary structural search where its answer is known: losses that add up, and a plain walk over all widths."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from compress.costs import CostModel, Extent, Term, Widths
from compress.searches import Budget, Effort, Problem, bisect
from compress.searches.bisect import narrowed

WIDTHS = {"a": 6, "b": 9, "c": 4}


@dataclass
class Counted:
    """Stands in for trials; `seen` are the choices that were tried."""

    problem: Problem
    seen: list[Widths]

    def __call__(self, widths: Widths) -> float:
        self.seen.append(dict(widths))
        full = {name: len(loss) - 1 for name, loss in self.problem.losses.items()}
        return self.problem.loss({**full, **widths})


def network(seed: int = 0, limit: float = 0.5) -> Problem:
    generator = np.random.default_rng(seed)
    losses = {
        name: np.concatenate([[0.0], np.cumsum(generator.gamma(1, 0.1, width))]) for name, width in WIDTHS.items()
    }
    extents = [Extent(3, {}), *(Extent(0, {name: 1.0}) for name in WIDTHS)]
    cost = CostModel(2.0, tuple(Term(5.0, pair) for pair in itertools.pairwise(extents)))
    allowed = {name: np.arange(1, width + 1) for name, width in WIDTHS.items()}
    problem = Problem(losses, allowed, (Budget(cost, limit * cost.total(WIDTHS)),))
    return replace(problem, trials=Counted(problem, []))


def walked(problem: Problem, total: float) -> Widths:
    """Return the step constraint's answer by trying every width: the narrowest that stays within the allowance."""
    widths = dict(WIDTHS)
    for number, name in enumerate(WIDTHS, 1):
        fitting = [
            int(w)
            for w in problem.allowed[name]
            if problem.loss({**widths, name: int(w)}) <= total * number / len(WIDTHS)
        ]
        widths[name] = min(fitting, default=widths[name])
    return widths


@pytest.mark.parametrize("total", [0.0, 0.2, 0.7, 1.5, 9.0])
@pytest.mark.parametrize("seed", range(4))
def test_an_allowed_drop_is_used_up_in_equal_steps(seed: int, total: float) -> None:
    problem, allowed = network(seed), total * (1 + 1e-9)  # shares are differences of rounded numbers
    *_, found = narrowed(problem, allowed)
    assert found == walked(problem, allowed)


@pytest.mark.parametrize("seed", range(10))
def test_the_budget_is_met_with_widths_that_the_least_sufficient_drop_allows(seed: int) -> None:
    """No group is narrower than at that drop, found to 7 %: what fits before the last group leaves the others whole."""
    problem = network(seed)
    found = bisect(problem)
    assert problem.fits(found)
    least = next(total for total in np.geomspace(1e-3, 10, 2000) if problem.fits(walked(problem, total)))
    assert all(found[name] >= width for name, width in walked(problem, 1.07 * least).items())


def test_what_cannot_fit_is_cut_as_far_as_permitted() -> None:
    problem = network(limit=1e-3)
    assert bisect(problem) == problem.narrowest


def test_what_fits_already_is_left_alone_and_tried_never() -> None:
    problem = network(limit=1.0)
    assert bisect(problem) == WIDTHS
    assert problem.trials.seen == []  # type: ignore[union-attr]


def test_groups_before_the_one_that_is_searched_stay_as_they_were_found() -> None:
    """So that a trial can begin where the last one differs from it."""
    problem = network(limit=0.4)
    list(narrowed(problem, 0.8))
    seen = problem.trials.seen  # type: ignore[union-attr]
    moving = [[name for name in WIDTHS if one[name] != WIDTHS[name]] for one in seen]
    assert [len(names) for names in moving] == sorted(len(names) for names in moving)


def test_progress_ends_at_what_was_announced() -> None:
    heard: list[int] = []
    bisect(replace(network(), effort=Effort(candidates=100, advance=heard.append)))
    assert sum(heard) == 100


def test_a_problem_without_trials_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="has to come with trials"):
        bisect(replace(network(), trials=None))
