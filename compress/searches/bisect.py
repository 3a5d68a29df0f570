"""Binary structural search with step constraint (CaP, arXiv 2108.13728).

Groups are taken from input to output. Of an allowed drop T the first i of G groups may use up

    T·i ÷ G

and bisection finds the narrowest width of group i with which the network cut so far, compensated, drops no more than
that; an outer bisection on log T looks for the least T whose widths fit the budgets. CaP's drop is one of accuracy;
here it is the divergence of the outputs, since accuracy on a hundred images is too coarse to divide among the groups.
"""

from collections.abc import Iterator

import numpy as np

from compress.costs import Widths
from compress.searches.lagrange import fill
from compress.searches.problem import Problem, search

PASSES = 7  # of the outer bisection
LEAST = 1e-2  # the least T that is tried, as a share of what the narrowest widths drop


@search("bisect")
def bisect(problem: Problem) -> Widths:
    """Return the widths of the least allowed drop that fit the budgets, filled up; the narrowest where nothing fits."""
    if problem.fits(problem.widest):
        return problem.widest
    return fill(problem, _within_budgets(problem))


def _within_budgets(problem: Problem) -> Widths:
    """Return the widths of the least T that fit, or the narrowest."""
    best = problem.narrowest
    most = float(np.clip(problem.trial(best), 1e-9, 1e9))
    low, high = LEAST * most, len(best) * most
    units = problem.effort.candidates
    for number in range(PASSES if problem.fits(best) else 0):
        middle = float(np.sqrt(low * high))
        if (found := _first_fit(problem, middle)) is None:
            low = middle
        else:
            high, best = middle, found
        problem.effort.advance(units * (number + 1) // PASSES - units * number // PASSES)
    return best


def _first_fit(problem: Problem, total: float) -> Widths | None:
    """Return the widths as soon as they fit, later groups still whole; None as soon as nothing can fit any more."""
    rest = problem.narrowest
    for widths in narrowed(problem, total):
        if problem.fits(widths):
            return widths
        rest.pop(next(iter(rest)))
        if not problem.fits({**widths, **rest}):
            return None
    return None


def narrowed(problem: Problem, total: float) -> Iterator[Widths]:
    """Yield the widths after each group, from input to output: those before it narrowed, those behind it whole."""
    widths = problem.widest
    for number, (name, allowed) in enumerate(problem.allowed.items(), 1):
        low, high = 0, len(allowed) - 1  # the widest stays even where what came before has used up the allowance
        while low < high:
            middle = (low + high) // 2
            if problem.trial({**widths, name: int(allowed[middle])}) <= total * number / len(problem.allowed):
                high = middle
            else:
                low = middle + 1
        widths = {**widths, name: int(allowed[high])}
        yield widths
