"""How many channels per group: what a search is given, and the table of searches.

A search receives the loss of every group at every width, the widths allowed, and the budgets that must all hold; it
returns widths that fit them, where the narrowest do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from compress.costs import CostModel, Widths
from compress.searches.effort import Effort


@dataclass(frozen=True)
class Budget:
    """At most `limit` of what `cost` counts, in its own unit (MACs, parameters, bytes)."""

    cost: CostModel
    limit: float

    def share(self, widths: Widths) -> float:
        """Return how much of the budget the widths take: at most 1 where they fit."""
        return self.cost.total(widths) / self.limit


@dataclass(frozen=True)
class Problem:
    """What a search is given.

    `losses[g][n]` is the loss of group g with n channels removed; `allowed[g]` its permitted widths, ascending;
    the first is the least and the last the most; groups come from input to output. All of `budgets` must hold.
    `trials`, for the searches that try whole networks, tells how far a choice of widths moves the outputs
    (`compress.divergence`, after compensation). `together[g]` are the groups that serve nothing any more where g has no
    channel left: the loss of g is then that of all of them. `retrials` does what `trials` does, on more samples and
    others, for a last choice among what was found by `trials`.
    """

    losses: Mapping[str, np.ndarray]
    allowed: Mapping[str, np.ndarray]
    budgets: tuple[Budget, ...]
    trials: Callable[[Widths], float] | None = None
    effort: Effort = field(default_factory=Effort)
    together: Mapping[str, frozenset[str]] = field(default_factory=dict)
    retrials: Callable[[Widths], float] | None = None

    def fits(self, widths: Widths) -> bool:
        """Say whether the widths are within every budget."""
        return all(budget.cost.total(widths) <= budget.limit for budget in self.budgets)

    def trial(self, widths: Widths) -> float:
        """Return how far the outputs are moved by these widths; ValueError where there is nothing to try it with."""
        if self.trials is None:
            raise ValueError("this search tries whole networks: the problem has to come with trials")
        return self.trials(widths)

    @property
    def narrowest(self) -> Widths:
        """The least that is permitted of every group."""
        return {name: int(widths[0]) for name, widths in self.allowed.items()}

    @property
    def widest(self) -> Widths:
        """The most that is permitted of every group."""
        return {name: int(widths[-1]) for name, widths in self.allowed.items()}

    def loss(self, widths: Widths) -> float:
        """Return the sum of the groups' losses at these widths, but of those that serve nothing any more."""
        idle = self.idle(widths)
        return sum(float(loss[len(loss) - 1 - widths[name]]) for name, loss in self.losses.items() if name not in idle)

    def idle(self, widths: Widths) -> set[str]:
        """Return the groups that serve nothing any more; where two gone ones are of no use without each other, one."""
        idle: set[str] = set()
        for name in sorted(self.together, key=lambda name: float(self.losses[name][-1])):
            if not widths[name] and name not in idle:
                idle |= self.together[name]
        return idle


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
