"""How many channels per group: a table of searches, one file each."""

from compress.searches.lagrange import lagrange
from compress.searches.problem import SEARCHES, Problem, Search, least, loss_of, search
from compress.searches.uniform import uniform

__all__ = ["SEARCHES", "Problem", "Search", "lagrange", "least", "loss_of", "search", "uniform"]
