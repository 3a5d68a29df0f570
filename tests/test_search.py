"""The searches against brute force over all widths, on problems small enough for it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from compress.costs import CostModel, Extent, Term, Widths
from compress.searches import SEARCHES, Budget, Effort, Problem, lagrange, search, uniform

SEEDS = range(20)


def additive(losses: Mapping[str, np.ndarray]) -> Callable[[Widths], float]:
    """Stand in for trials, for the searches that want them: the divergence is the sum of the losses."""
    return lambda widths: sum(float(losses[name][-1 - width]) for name, width in widths.items())


def chain(seed: int, *, convex: bool = False) -> Problem:
    """Return a chain of layers whose costs are products of the widths on both sides, with random losses."""
    generator = np.random.default_rng(seed)
    full = {f"g{i}": int(generator.integers(3, 7)) for i in range(generator.integers(2, 5))}
    terms, before = [], Extent(3, {})
    for name in full:
        after = Extent(0, {name: 1.0})
        terms.append(Term(float(generator.integers(1, 50)), (before, after)))
        before = after
    terms.append(Term(float(generator.integers(1, 20)), (before, Extent(10, {}))))
    cost = CostModel(float(generator.integers(0, 20)), tuple(terms))
    losses = {}
    for name, width in full.items():
        steps = generator.gamma(0.7, 1.0, width) * generator.choice([0.1, 1, 10])
        losses[name] = np.concatenate([[0.0], np.cumsum(np.sort(steps) if convex else steps)])
    allowed = {name: np.arange(1, width + 1) for name, width in full.items()}
    lowest, highest = cost.total(dict.fromkeys(full, 1)), cost.total(full)
    budget = Budget(cost, lowest + (highest - lowest) * generator.uniform(0.05, 0.95))
    return Problem(losses, allowed, (budget,), additive(losses), Effort(candidates=2))


def limited(problem: Problem, *limits: float) -> Problem:
    """Return the problem with other limits, of the same costs."""
    return replace(problem, budgets=tuple(map(Budget, (b.cost for b in problem.budgets), limits)))


def least(problem: Problem) -> list[float]:
    return [budget.cost.total(problem.narrowest) for budget in problem.budgets]


def loss(problem: Problem, widths: Widths) -> float:
    return sum(float(curve[len(curve) - 1 - widths[name]]) for name, curve in problem.losses.items())


def double(seed: int, *, convex: bool = False) -> Problem:
    """Return a chain with a second budget, of other prices (as of parameters); either binds at times."""
    problem = chain(seed, convex=convex)
    generator = np.random.default_rng([seed, 1])
    (budget,) = problem.budgets
    terms = [replace(term, coefficient=float(generator.integers(1, 50))) for term in budget.cost.terms]
    other = CostModel(float(generator.integers(0, 20)), tuple(terms))
    lowest, highest = other.total(problem.narrowest), other.total(problem.widest)
    share = generator.uniform(0.05, 0.95)
    return replace(problem, budgets=(budget, Budget(other, lowest + (highest - lowest) * share)))


def choices(problem: Problem) -> list[Widths]:
    """Return all widths within the budgets."""
    every = (dict(zip(problem.allowed, widths, strict=True)) for widths in itertools.product(*problem.allowed.values()))
    return [widths for widths in every if all(b.cost.total(widths) <= b.limit for b in problem.budgets)]


def coarse(problem: Problem) -> Problem:
    """Allow even widths and the full one only, with the budget moved up to where something is possible."""
    allowed = {
        name: np.unique([*range(2, len(curve) - 1, 2), len(curve) - 1]) for name, curve in problem.losses.items()
    }
    narrowed = replace(problem, allowed=allowed)
    limits = [max(b.limit, lowest) for b, lowest in zip(problem.budgets, least(narrowed), strict=True)]
    return limited(narrowed, *limits)


def bottlenecks(seed: int, *, branches: int = 2) -> Problem:
    """Return a stream with branches of three layers, each of which may go: both of its groups, or neither."""
    generator = np.random.default_rng(seed)
    full = {"s": int(generator.integers(2, 5))}
    stream = Extent(0, {"s": 1.0})
    terms = [Term(float(generator.integers(1, 20)), (Extent(3, {}), stream))]
    together = {}
    for i in range(branches):
        a, b = f"a{i}", f"b{i}"
        full |= {a: int(generator.integers(2, 5)), b: int(generator.integers(2, 5))}
        inner, outer = Extent(0, {a: 1.0}), Extent(0, {b: 1.0})
        for pair in ((stream, inner), (inner, outer), (outer, stream)):
            terms.append(Term(float(generator.integers(1, 20)), pair))
        together |= {a: frozenset([b]), b: frozenset([a])}
    cost = CostModel(float(generator.integers(0, 20)), tuple(terms))
    losses = {}
    for name, width in full.items():
        steps = generator.gamma(0.7, 1.0, width) * generator.choice([0.1, 1, 10])
        losses[name] = np.concatenate([[0.0], np.cumsum(np.sort(steps))])
    allowed = {name: np.arange(0 if name in together else 1, width + 1) for name, width in full.items()}
    lowest, highest = cost.total({name: int(widths[0]) for name, widths in allowed.items()}), cost.total(full)
    budget = Budget(cost, lowest + (highest - lowest) * generator.uniform(0.05, 0.95))
    return Problem(losses, allowed, (budget,), additive(losses), Effort(candidates=2), together)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_search_holds_the_budget_and_takes_permitted_widths(name: str, seed: int) -> None:
    for problem in (chain(seed), coarse(chain(seed)), double(seed), coarse(double(seed)), bottlenecks(seed)):
        widths = SEARCHES[name](problem)
        assert all(budget.cost.total(widths) <= budget.limit for budget in problem.budgets)
        assert widths.keys() == problem.allowed.keys()
        assert all(widths[group] in allowed for group, allowed in problem.allowed.items())


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_goes_where_the_budget_allows_everything(name: str) -> None:
    for problem in (chain(0), double(0)):
        full = {group: int(allowed[-1]) for group, allowed in problem.allowed.items()}
        assert SEARCHES[name](limited(problem, *(b.cost.total(full) for b in problem.budgets))) == full


@pytest.mark.parametrize("name", SEARCHES)
def test_the_narrowest_widths_are_found_where_nothing_else_fits(name: str) -> None:
    for seed in SEEDS:
        problem = chain(seed)
        widths = SEARCHES[name](limited(problem, *least(problem)))
        assert widths == dict.fromkeys(problem.allowed, 1)


def test_lagrange_is_never_worse_than_uniform_widths() -> None:
    for seed in (*range(40), 92, 189, 202, 230, 241):  # in the last ones the multiplier alone is worse
        for problem in (chain(seed), coarse(chain(seed)), double(seed)):
            assert loss(problem, lagrange(problem)) <= loss(problem, uniform(problem)) + 1e-12


@pytest.mark.parametrize("make", [chain, double])
@pytest.mark.parametrize("convex", [True, False])
def test_lagrange_is_close_to_the_best_of_all_widths(convex: bool, make: Callable[..., Problem]) -> None:
    """Close, not equal: a multiplier cannot see inside the convex hull, and there a width is a large step."""
    excess = []
    for seed in range(60):
        problem = make(seed, convex=convex)
        best = min(loss(problem, widths) for widths in choices(problem))
        worst = sum(float(curve[-1]) for curve in problem.losses.values())
        excess.append((loss(problem, lagrange(problem)) - best) / worst)
    assert min(excess) > -1e-12
    assert np.mean(excess) < 0.005
    assert np.mean(np.array(excess) < 1e-12) > 0.85
    assert max(excess) < 0.15


def branchwise(problem: Problem, widths: Widths) -> float:
    """Return the loss of bottlenecks: of a branch that is gone that of one group, else that of both."""
    each = {name: float(curve[len(curve) - 1 - widths[name]]) for name, curve in problem.losses.items()}
    inside = [("a0", "b0"), ("a1", "b1")]
    return each["s"] + sum(each[a] + each[b] if widths[a] else min(each[a], each[b]) for a, b in inside)


def test_branches_go_where_that_is_close_to_the_best() -> None:
    """Of a branch that is gone one loss counts, the smaller one of its two groups, and nothing of it costs anything."""
    excess, gone = [], 0
    for seed in range(60):
        problem = bottlenecks(seed)
        pairs = [(name, min(others)) for name, others in problem.together.items()]
        canonical = [w for w in choices(problem) if all((w[a] == 0) == (w[b] == 0) for a, b in pairs)]

        best, found = min(canonical, key=partial(branchwise, problem)), lagrange(problem)
        assert found in canonical
        assert problem.loss(found) == pytest.approx(branchwise(problem, found))
        gone += best["a0"] == 0 or best["a1"] == 0
        worst = sum(float(curve[-1]) for curve in problem.losses.values())
        excess.append((branchwise(problem, found) - branchwise(problem, best)) / worst)
    assert gone > 10
    assert min(excess) > -1e-12
    assert np.mean(excess) < 0.01
    assert max(excess) < 0.15


def test_uniform_takes_nothing_out_unless_it_must() -> None:
    for seed in SEEDS:
        problem = bottlenecks(seed)
        thin = {name: max(1, int(allowed[0])) for name, allowed in problem.allowed.items()}
        assert all(uniform(problem).values()) == problem.fits(thin)


def long_chain(seed: int, *, groups: int = 6, widest: int = 17) -> tuple[Problem, list[int]]:
    """Return a chain with whole-numbered costs Σ c_i·w_{i−1}·w_i from 3 channels to 10, and the c_i."""
    generator = np.random.default_rng(seed)
    full = {f"g{i}": int(generator.integers(8, widest)) for i in range(groups)}
    prices = generator.integers(1, 8, groups + 1).tolist()
    extents = [Extent(3, {}), *(Extent(0, {name: 1.0}) for name in full), Extent(10, {})]
    pairs = zip(prices, itertools.pairwise(extents), strict=True)
    cost = CostModel(0, tuple(Term(float(price), pair) for price, pair in pairs))
    losses = {}
    for name, width in full.items():
        steps = generator.gamma(0.7, 1, width) * 10 ** generator.uniform(-2, 1)
        losses[name] = np.concatenate([[0.0], np.cumsum(np.sort(steps))])
    allowed = {name: np.arange(1, width + 1) for name, width in full.items()}
    limit = float(int(cost.total(full) * generator.uniform(0.3, 0.7)))
    return Problem(losses, allowed, (Budget(cost, limit),)), prices


def optimum(problem: Problem, prices: list[int]) -> float:
    """Return the least loss of a long chain: dynamic programming over (width of the last group, cost so far)."""
    size = int(problem.budgets[0].limit) + 1
    before = {3: np.zeros(size)}  # by width: the least loss at each cost so far, here anything up to the budget
    for price, (name, allowed) in zip(prices, problem.allowed.items(), strict=False):
        after = {}
        for width in allowed.tolist():
            least_loss = np.full(size, np.inf)
            for narrower, reached in before.items():
                spent = price * narrower * width
                least_loss[spent:] = np.minimum(least_loss[spent:], reached[: max(size - spent, 0)])
            after[width] = least_loss + problem.losses[name][-1 - width]
        before = after
    ends = [(reached, size - 1 - prices[-1] * 10 * width) for width, reached in before.items()]
    return float(min(reached[left] for reached, left in ends if left >= 0))


def test_lagrange_is_close_to_the_optimum_of_longer_chains() -> None:
    ratios = []
    for seed in range(25):
        problem, prices = long_chain(seed)
        ratios.append(loss(problem, lagrange(problem)) / optimum(problem, prices))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.02
    assert max(ratios) < 1.15


@pytest.mark.parametrize("seed", SEEDS)
def test_lagrange_is_the_optimum_where_losses_are_convex_and_all_channels_cost_the_same(seed: int) -> None:
    problem = chain(seed, convex=True)
    cost = CostModel(2.0, tuple(Term(5.0, (Extent(0, {name: 1.0}),)) for name in problem.allowed))
    total = sum(len(curve) - 1 for curve in problem.losses.values())
    generator = np.random.default_rng(seed)
    budget = Budget(cost, 2.0 + 5.0 * generator.integers(len(problem.allowed), total + 1))
    problem = replace(problem, budgets=(budget,))
    best = min(loss(problem, widths) for widths in choices(problem))
    assert loss(problem, lagrange(problem)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_single_group_could_be_wider_to_advantage(seed: int) -> None:
    for problem in (chain(seed), double(seed)):
        widths = lagrange(problem)
        for name, allowed in problem.allowed.items():
            for wider in allowed[allowed > widths[name]]:
                changed = {**widths, name: int(wider)}
                assert not problem.fits(changed) or loss(problem, changed) == loss(problem, widths)


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_is_the_largest_share_that_fits(seed: int) -> None:
    problem = double(seed)

    def at(share: float) -> Widths:
        """Round half down, as the search does."""
        full = {name: len(curve) - 1 for name, curve in problem.losses.items()}
        return {name: max(1, int(np.ceil(share * width - 0.5))) for name, width in full.items()}

    fitting = [at(share) for share in np.linspace(0, 1, 4001) if problem.fits(at(share))]
    assert uniform(problem) == fitting[-1]


def test_the_group_that_loses_nothing_goes_first() -> None:
    cost = CostModel(0.0, (Term(1.0, (Extent(0, {"dead": 1.0}),)), Term(1.0, (Extent(0, {"alive": 1.0}),))))
    losses = {"dead": np.zeros(5), "alive": np.arange(5.0)}
    problem = Problem(losses, {name: np.arange(1, 5) for name in losses}, (Budget(cost, 5.0),))
    assert lagrange(problem) == {"dead": 1, "alive": 4}


def test_a_search_has_one_name() -> None:
    with pytest.raises(ValueError, match="'uniform' is registered twice"):
        search("uniform")(lagrange)
