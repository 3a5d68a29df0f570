"""One small function per operator: how channel labels pass it, and how it is mended when channels are gone."""

from graph.registry import MENDS, RULES, Decline, mend, operator, rule
from graph.rules import (
    contraction,
    layout,
    movement,
    normalization,
    pointwise,
    pooling,
    product,
    quantisation,
    reduction,
    resize,
    selection,
    shapes,
    unfollowed,
)

__all__ = [
    "MENDS",
    "RULES",
    "Decline",
    "contraction",
    "layout",
    "mend",
    "movement",
    "normalization",
    "operator",
    "pointwise",
    "pooling",
    "product",
    "quantisation",
    "reduction",
    "resize",
    "rule",
    "selection",
    "shapes",
    "unfollowed",
]
