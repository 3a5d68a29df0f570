"""The same share of every group, for comparison."""

import numpy as np

from compress.costs import Widths
from compress.searches.problem import Problem, search


@search("uniform")
def uniform(problem: Problem) -> Widths:
    """Keep the same share of every group: the largest share that fits the budgets."""
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        if problem.fits(_share(problem, share)):
            low = share
        else:
            high = share
    return _share(problem, low)


def _share(problem: Problem, share: float) -> Widths:
    return {
        name: int(widths[np.argmin(np.abs(widths - share * (len(problem.losses[name]) - 1)))])
        for name, widths in problem.allowed.items()
    }
