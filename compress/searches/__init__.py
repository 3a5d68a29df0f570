"""How many channels per group: a table of searches, one file each."""

from compress.searches.bisect import bisect
from compress.searches.effort import Effort
from compress.searches.evolve import FINALISTS, evolve
from compress.searches.lagrange import lagrange
from compress.searches.problem import SEARCHES, Budget, Problem, Search, search
from compress.searches.uniform import uniform

__all__ = [
    "SEARCHES",
    "WITH_RETRIALS",
    "WITH_TRIALS",
    "Budget",
    "Effort",
    "Problem",
    "Search",
    "bisect",
    "evolve",
    "lagrange",
    "search",
    "uniform",
]

WITH_TRIALS = frozenset({"bisect", "evolve"})  # these run whole networks: Problem.trials must be there
WITH_RETRIALS = {"evolve": 1 + FINALISTS}  # how many these try in the end by other samples: Problem.retrials
