"""The same share of every group, for comparison; no group goes altogether unless the budgets ask for it."""

from dataclasses import replace

import numpy as np

from compress.costs import Widths
from compress.searches.problem import Problem, search


@search("uniform")
def uniform(problem: Problem) -> Widths:
    """Keep the same share of every group: the largest share that fits the budgets."""
    kept = {name: widths[(widths > 0) | (widths == widths[-1])] for name, widths in problem.allowed.items()}
    if problem.fits({name: int(widths[0]) for name, widths in kept.items()}):
        problem = replace(problem, allowed=kept)
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
