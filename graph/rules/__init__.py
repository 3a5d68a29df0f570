"""One small function per operator: how channel labels pass it, and how it is mended when channels are gone."""

from graph.registry import MENDS, RULES, Decline, mend, operator, rule
from graph.rules import contraction, movement, normalization, pointwise, pooling, reduction, resize, shapes

__all__ = [
    "MENDS",
    "RULES",
    "Decline",
    "contraction",
    "mend",
    "movement",
    "normalization",
    "operator",
    "pointwise",
    "pooling",
    "reduction",
    "resize",
    "rule",
    "shapes",
]
