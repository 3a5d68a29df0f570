"""The knapsack of widths by a Lagrange multiplier (METHOD §4).

`lagrange` solves  min Σ_g loss_g(w_g)  s.t.  cost(w) ≤ budget  by a multiplier μ: each group in turn takes the width
that minimises  loss_g(w) + μ·cost(w | widths of the others),  until nothing changes; μ is bisected. What is left of
the budget is then spent on the channels that reduce the loss most per cost. As costs are products, where the sweeps
end depends on where they start: they start from the widest and from the narrowest widths. A multiplier only finds
widths on the convex hull of what is possible; uniform widths, filled up likewise, are the third candidate, and the
one that loses least is taken.
"""

import numpy as np

from compress.costs import Widths
from compress.searches.problem import Problem, loss_of, search
from compress.searches.uniform import uniform

_SWEEPS = 50
_BISECTIONS = 60


@search("lagrange")
def lagrange(problem: Problem) -> Widths:
    """Solve the knapsack by a Lagrange multiplier, then spend what is left of the budget."""
    widest = {name: int(widths[-1]) for name, widths in problem.allowed.items()}
    if problem.cost.total(widest) <= problem.budget:
        return widest
    narrowest = {name: int(widths[0]) for name, widths in problem.allowed.items()}
    found = (_bisect(problem, widest), _bisect(problem, narrowest), uniform(problem))
    return min((_fill(problem, widths) for widths in found), key=lambda widths: loss_of(problem, widths))


def _bisect(problem: Problem, start: Widths) -> Widths:
    """Return the minimiser for the least multiplier whose widths are within the budget."""
    low, high = 1e-12, 1e6
    widest = {name: int(widths[-1]) for name, widths in problem.allowed.items()}
    scale = max(sum(float(loss.max()) for loss in problem.losses.values()), 1e-30)
    scale /= max(problem.cost.total(widest), 1.0)
    best = {name: int(widths[0]) for name, widths in problem.allowed.items()}
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        widths = _minimise(problem, start, middle * scale)
        if problem.cost.total(widths) <= problem.budget:
            high, best = middle, widths
        else:
            low = middle
        if high / low < 1.0005:
            break
    return best


def _minimise(problem: Problem, start: Widths, multiplier: float) -> Widths:
    """Sweep over the groups until no width changes."""
    widths = dict(start)
    for _ in range(_SWEEPS):
        changed = False
        for name, allowed in problem.allowed.items():
            loss = problem.losses[name]
            lagrangian = loss[len(loss) - 1 - allowed] + multiplier * problem.cost.of_group(name, allowed, widths)
            chosen = int(allowed[len(allowed) - 1 - np.argmin(lagrangian[::-1])])  # of equals, the widest
            changed |= chosen != widths[name]
            widths[name] = chosen
        if not changed:
            break
    return widths


def _fill(problem: Problem, widths: Widths) -> Widths:
    """Widen groups, best gain per cost first, while the budget holds."""
    widths = dict(widths)
    spent = problem.cost.total(widths)
    while True:
        best, best_rate = None, 0.0
        for name, allowed in problem.allowed.items():
            wider = allowed[allowed > widths[name]]
            if not len(wider):
                continue
            loss = problem.losses[name]
            before, *after = problem.cost.of_group(name, np.concatenate([[widths[name]], wider]), widths)
            price = np.maximum(np.array(after) - before, 1e-9)
            gain = loss[len(loss) - 1 - widths[name]] - loss[len(loss) - 1 - wider]
            rate = np.where(spent + price <= problem.budget, gain / price, -1.0)
            if rate.max() > best_rate:
                best, best_rate = (name, int(wider[rate.argmax()]), float(price[rate.argmax()])), float(rate.max())
        if best is None:
            return widths
        widths[best[0]] = best[1]
        spent += best[2]
