"""Which channels go first: a table of criteria, one file each."""

from compress.criteria import cap, magnitude, random, relevance  # noqa: F401  # they register themselves
from compress.criteria.order import order_channels
from compress.criteria.table import CRITERIA, Criterion, Evidence, criterion

__all__ = ["CRITERIA", "Criterion", "Evidence", "criterion", "order_channels"]
