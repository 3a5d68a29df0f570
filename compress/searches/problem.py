"""How many channels per group: what a search is given, and the table of searches.

A search receives the loss of every group at every width, the cost of all widths together, and the widths
allowed; it returns widths whose cost is within the budget, or the least it could reach.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compress.costs import CostModel, Widths


@dataclass(frozen=True)
class Problem:
    """What a search is given.

    `losses[g][n]` is the loss of group g with n channels removed; `allowed[g]` its permitted widths, ascending;
    the first is the least and the last the most.
    """

    losses: Mapping[str, np.ndarray]
    allowed: Mapping[str, np.ndarray]
    cost: CostModel
    budget: float


Search = Callable[[Problem], Widths]
SEARCHES: dict[str, Search] = {}


def search(name: str) -> Callable[[Search], Search]:
    """Register a search under the name that the command line uses."""

    def register(function: Search) -> Search:
        if name in SEARCHES:
            raise ValueError(f"the search {name!r} is registered twice")
        SEARCHES[name] = function
        return function

    return register


def least(problem: Problem) -> float:
    """Return the smallest cost that the allowed widths reach."""
    return problem.cost.total({name: int(widths[0]) for name, widths in problem.allowed.items()})


def loss_of(problem: Problem, widths: Widths) -> float:
    """Return the sum of the groups' losses at these widths."""
    return sum(float(loss[len(loss) - 1 - widths[name]]) for name, loss in problem.losses.items())
