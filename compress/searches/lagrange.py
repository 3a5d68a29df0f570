"""The knapsack of widths by a Lagrange multiplier (METHOD §4).

`lagrange` solves  min Σ_g loss_g(w_g)  s.t.  cost_k(w) ≤ limit_k for every budget k  by a multiplier μ: each group in
turn takes the width that minimises

    loss_g(w) + μ·price(w | widths of the others)        price = Σ_k λ_k·cost_k ÷ limit_k

until nothing changes; μ is bisected. With one budget λ is 1. With several, each is tried alone, then all together, and
λ moves to those that bind:  λ_k ← λ_k·(cost_k ÷ limit_k)⁸.  What is left of the budgets is then spent on the channels
that reduce the loss most per price. As costs are products, where the sweeps end depends on where they start: they start
from the widest and from the narrowest widths. A multiplier only finds widths on the convex hull of what is possible;
uniform widths, filled up likewise, are one more candidate, and the one that loses least is taken.

Where groups go together (those inside one branch), none of them goes on its own account: once no width changes, each
branch is taken out as a whole where loss and price together are then less.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from compress.costs import CostModel, Widths, weighted
from compress.searches.problem import Problem, search
from compress.searches.uniform import uniform

_SWEEPS = 50
_BISECTIONS = 60
_MIXTURES = 4


@search("lagrange")
def lagrange(problem: Problem) -> Widths:
    """Solve the knapsack by a Lagrange multiplier, then spend what is left of the budgets."""
    if problem.fits(problem.widest):
        return problem.widest
    found = [uniform(problem), *_hull(problem, problem.widest), *_hull(problem, problem.narrowest)]
    return min((fill(problem, widths) for widths in found), key=problem.loss)


def _hull(problem: Problem, start: Widths) -> Iterator[Widths]:
    """Yield what a multiplier finds from one start: for each budget alone, and for mixtures of several."""
    budgets = problem.budgets
    for alone in np.eye(len(budgets)):
        yield _bisect(problem, start, _price(problem, alone))
    if len(budgets) > 1:
        weights = np.full(len(budgets), 1 / len(budgets))
        for _ in range(_MIXTURES):
            widths = _bisect(problem, start, _price(problem, weights))
            yield widths
            weights = weights * np.array([budget.share(widths) for budget in budgets]) ** 8
            weights /= weights.sum()


def _price(problem: Problem, weights: np.ndarray) -> CostModel:
    pairs = zip(weights.tolist(), problem.budgets, strict=True)
    return weighted([(weight / budget.limit, budget.cost) for weight, budget in pairs if weight > 0])


def _bisect(problem: Problem, start: Widths, price: CostModel) -> Widths:
    """Return the minimiser for the least multiplier whose widths are within the budgets."""
    low, high = 1e-12, 1e6
    scale = max(sum(float(loss.max()) for loss in problem.losses.values()), 1e-30)
    scale /= price.total(problem.widest)
    best = problem.narrowest
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        widths = _minimise(problem, start, price, middle * scale)
        if problem.fits(widths):
            high, best = middle, widths
        else:
            low = middle
        if high / low < 1.0005:
            break
    return best


def _minimise(problem: Problem, start: Widths, price: CostModel, multiplier: float) -> Widths:
    """Sweep over the groups until no width changes and no branch goes."""
    widths, due, gone = dict(start), set(problem.allowed), set[str]()
    for _ in range(_SWEEPS):
        for name, allowed in problem.allowed.items():
            if name not in due:
                continue
            due.remove(name)
            if name in gone:
                continue
            if name in problem.together:
                allowed = allowed[(allowed > 0) | (allowed == allowed[-1])]
            loss = problem.losses[name]
            lagrangian = loss[len(loss) - 1 - allowed] + multiplier * price.of_group(name, allowed, widths)
            chosen = int(allowed[len(allowed) - 1 - np.argmin(lagrangian[::-1])])  # of equals, the widest
            if chosen != widths[name]:
                due |= price.neighbours.get(name, frozenset())
            widths[name] = chosen
        if not due:
            for branch in _branches(problem, gone):
                without = widths | branch
                cheaper = _price_of(price, branch, widths) - _price_of(price, branch, without)
                if problem.loss(without) - problem.loss(widths) < multiplier * cheaper:
                    widths, gone = without, gone | branch.keys()
                    due |= {other for name in branch for other in price.neighbours.get(name, ())}
        if not due:
            break
    return widths


def _branches(problem: Problem, gone: set[str]) -> Iterator[Widths]:
    """Yield the widths of the groups of each branch that is not `gone`, once it is."""
    for name, others in problem.together.items():
        if problem.allowed[name][0] == 0 and name not in gone:
            yield {each: int(problem.allowed[each][0]) for each in (name, *sorted(others))}


def _price_of(price: CostModel, names: Iterable[str], widths: Widths) -> float:
    terms = {id(term): term for name in names for term in price.touching.get(name, ())}
    return float(sum(term.value(widths) for term in terms.values()))


def fill(problem: Problem, widths: Widths) -> Widths:
    """Widen groups, best gain per price first, while the budgets hold; a branch that is gone stays so."""
    widths = dict(widths)
    idle = {name for name in problem.together if not widths[name]} | problem.idle(widths)
    while True:
        left = [budget.limit - budget.cost.total(widths) for budget in problem.budgets]
        best, best_rate = None, 0.0
        for name, allowed in problem.allowed.items():
            wider = allowed[allowed > widths[name]]
            if not len(wider) or name in idle:
                continue
            price, fits = np.zeros(len(wider)), np.ones(len(wider), bool)
            for budget, rest in zip(problem.budgets, left, strict=True):
                before, *after = budget.cost.of_group(name, np.append(widths[name], wider), widths)
                more = np.maximum(np.array(after) - before, 1e-9)
                price += more / budget.limit
                fits &= more <= rest
            loss = problem.losses[name]
            gain = loss[len(loss) - 1 - widths[name]] - loss[len(loss) - 1 - wider]
            rate = np.where(fits, gain / price, -1.0)
            if rate.max() > best_rate:
                best, best_rate = (name, int(wider[rate.argmax()])), float(rate.max())
        if best is None:
            return widths
        widths[best[0]] = best[1]
