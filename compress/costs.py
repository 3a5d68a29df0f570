"""What a choice of widths costs, with the widths on both sides of every layer.

A node's MACs are positions × the size of its weight, and the size of a weight is the product over its axes of

    n(axis) = fixed + Σ_g  m(axis, g) · w_g

where w_g is the width of group g and m how many entries of the axis each of its channels holds. Parameters are
the same products without positions.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from graph.channels import Axis, Channels
from graph.count import Count

Widths = dict[str, int]


@dataclass(frozen=True)
class Extent:
    """The size of one weight axis as a function of the widths."""

    fixed: float
    per_channel: Mapping[str, float]

    def size(self, widths: Mapping[str, int | np.ndarray]) -> float | np.ndarray:
        """Return fixed + Σ m·w."""
        return self.fixed + sum(m * widths[name] for name, m in self.per_channel.items())


@dataclass(frozen=True)
class Term:
    """coefficient · Π over extents."""

    coefficient: float
    extents: tuple[Extent, ...]

    def value(self, widths: Mapping[str, int | np.ndarray]) -> float | np.ndarray:
        """Return the cost at the widths (arrays broadcast)."""
        result: float | np.ndarray = self.coefficient
        for extent in self.extents:
            result = result * extent.size(widths)
        return result


@dataclass(frozen=True)
class CostModel:
    """A sum of terms and a constant."""

    constant: float
    terms: tuple[Term, ...]

    def total(self, widths: Mapping[str, int]) -> float:
        """Return the cost of the whole network."""
        return float(self.constant + sum(term.value(widths) for term in self.terms))

    def of_group(self, name: str, candidates: np.ndarray, widths: Mapping[str, int]) -> np.ndarray:
        """Return the cost of everything that group `name` touches, at each candidate width, the others as given."""
        tried: dict[str, int | np.ndarray] = {**widths, name: candidates}
        total = np.zeros(len(candidates))
        for term in self.terms:
            if any(name in extent.per_channel for extent in term.extents):
                total = total + term.value(tried)
        return total


def macs_model(channels: Channels, count: Count, shapes: Mapping[str, tuple[int, ...]]) -> CostModel:
    """Return the MACs of the network as a function of the widths of its groups."""
    parts = [(node.weight, node.positions, node.macs) for node in count.nodes]
    return _model(parts, channels, shapes)


def params_model(channels: Channels, count: Count, shapes: Mapping[str, tuple[int, ...]]) -> CostModel:
    """Return the number of parameters as a function of the widths."""
    labelled = sorted({axis.weight for axis in channels.labels})
    sizes = {weight: int(np.prod(shapes[weight])) for weight in labelled}
    model = _model([(weight, 1, sizes[weight]) for weight in labelled], channels, shapes)
    return CostModel(model.constant + count.params - sum(sizes.values()), model.terms)


def _model(
    parts: Iterable[tuple[str | None, int, int]], channels: Channels, shapes: Mapping[str, tuple[int, ...]]
) -> CostModel:
    group_of = {label: group.name for group in channels.groups for label in group.channels}
    width = {group.name: len(group.channels) for group in channels.groups}
    constant, terms = 0.0, []
    for weight, positions, total in parts:
        extents = []
        if weight is not None:
            for axis, size in enumerate(shapes[weight]):
                ids = channels.labels.get(Axis(weight, axis))
                if ids is None:
                    extents.append(Extent(size, {}))
                    continue
                held = Counter(group_of[i] for i in ids.tolist() if i in group_of)
                extents.append(Extent(size - held.total(), {name: n / width[name] for name, n in sorted(held.items())}))
        if any(extent.per_channel for extent in extents):
            terms.append(Term(positions, tuple(extents)))
        else:
            constant += total
    return CostModel(constant, tuple(terms))
