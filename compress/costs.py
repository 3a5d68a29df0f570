"""What a choice of widths costs, with the widths on both sides of every layer.

A node's MACs are positions × the size of its weight, and the size of a weight is the product over its axes of

    n(axis) = fixed + Σ_g  m(axis, g) · w_g

where w_g is the width of group g and m how many entries of the axis each of its channels holds. Parameters are
the same products without positions. What is measured instead of counted comes as a table over the widths of one group
or of several (`Table`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

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

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups whose widths decide."""
        return tuple(dict.fromkeys(name for extent in self.extents for name in extent.per_channel))

    def value(self, widths: Mapping[str, int | np.ndarray]) -> float | np.ndarray:
        """Return the cost at the widths (arrays broadcast)."""
        result: float | np.ndarray = self.coefficient
        for extent in self.extents:
            result = result * extent.size(widths)
        return result

    def polynomial(self, name: str, widths: Mapping[str, int]) -> list[float]:
        """Return the coefficients, ascending, of the cost as a polynomial in the width of one group."""
        result = [self.coefficient]
        for extent in self.extents:
            slope, fixed = extent.per_channel.get(name), extent.fixed
            for other, m in extent.per_channel.items():
                if other != name:
                    fixed += m * widths[other]
            if slope is None:
                result = [fixed * a for a in result]
            else:
                result = [fixed * a + slope * b for a, b in zip([*result, 0.0], [0.0, *result], strict=True)]
        return result


@dataclass(frozen=True)
class Table:
    """coefficient · what is tabled at some widths of each group, linear between them, and as at its edge beyond it.

    `levels` are the widths by group, ascending, and `values` has one axis for each of `groups`. Where one of `sides`
    has no entry left, what is tabled is gone and costs nothing.
    """

    coefficient: float
    groups: tuple[str, ...]
    levels: tuple[np.ndarray, ...]
    values: np.ndarray
    sides: tuple[Extent, ...] = ()

    def value(self, widths: Mapping[str, int | np.ndarray]) -> float | np.ndarray:
        """Return the cost at the widths (arrays broadcast)."""
        at = np.broadcast_arrays(*(np.asarray(widths[name], float) for name in self.groups))
        corners: list[tuple[np.ndarray | float, tuple[np.ndarray, ...]]] = [(self.coefficient, ())]
        for levels, w in zip(self.levels, at, strict=True):
            place = np.interp(w, levels, np.arange(len(levels)))
            low = np.minimum(place.astype(int), max(len(levels) - 2, 0))
            high = np.minimum(low + 1, len(levels) - 1)
            share = place - low
            corners = [
                (weight * part, (*index, side))
                for weight, index in corners
                for part, side in ((1 - share, low), (share, high))
            ]
        total = sum((weight * self.values[index] for weight, index in corners), start=np.zeros(()))
        there = np.all([np.broadcast_to(side.size(widths), total.shape) > 0 for side in self.sides], axis=0)
        return np.where(there, total, 0.0)[()]


@dataclass(frozen=True)
class CostModel:
    """A sum of terms and a constant."""

    constant: float
    terms: tuple[Term | Table, ...]

    def total(self, widths: Mapping[str, int]) -> float:
        """Return the cost of the whole network."""
        return float(self.constant + sum(term.value(widths) for term in self.terms))

    def of_group(self, name: str, candidates: np.ndarray, widths: Mapping[str, int]) -> np.ndarray:
        """Return the cost of everything that group `name` touches, at each candidate width, the others as given."""
        total: list[float] = []  # one polynomial in the group's width: an array per term would take most of a search
        tabled = np.zeros(len(candidates))
        for term in self.touching.get(name, ()):
            if isinstance(term, Table):
                tabled += term.value({**widths, name: candidates})
            else:
                total = [a + b for a, b in zip_longest(total, term.polynomial(name, widths), fillvalue=0.0)]
        result = np.zeros(len(candidates))
        for factor in reversed(total):
            result = result * candidates + factor
        return result + tabled

    @cached_property
    def neighbours(self) -> Mapping[str, frozenset[str]]:
        """The groups whose widths decide, with a group's own, what its channels cost."""
        return {
            name: frozenset(other for term in terms for other in term.groups if other != name)
            for name, terms in self.touching.items()
        }

    @cached_property
    def touching(self) -> Mapping[str, Sequence[Term | Table]]:
        """The terms in which each group's width appears."""
        found: dict[str, list[Term | Table]] = {}
        for term in self.terms:
            for name in term.groups:
                found.setdefault(name, []).append(term)
        return found


def weighted(models: Iterable[tuple[float, CostModel]]) -> CostModel:
    """Return the sum of several cost models, each times its factor."""
    constant, terms = 0.0, list[Term | Table]()
    for factor, model in models:
        constant += factor * model.constant
        terms += [replace(term, coefficient=factor * term.coefficient) for term in model.terms]
    return CostModel(constant, tuple(terms))


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


def bytes_model(
    channels: Channels, shapes: Mapping[str, tuple[int, ...]], item_bytes: Mapping[str, float], whole: int
) -> CostModel:
    """Return the bytes of the file as a function of the widths.

    `item_bytes` is what one number of each labelled weight takes as it is stored, `whole` the size of the file with
    every channel in it. What is beside the numbers (names, scales, sizes) is taken as constant.
    """
    labelled = sorted({axis.weight for axis in channels.labels})
    sizes = {weight: int(np.prod(shapes[weight])) for weight in labelled}
    parts = [(weight, item_bytes[weight], item_bytes[weight] * sizes[weight]) for weight in labelled]
    model = _model(parts, channels, shapes)
    return CostModel(model.constant + whole - sum(total for _, _, total in parts), model.terms)


class Extents:
    """The sizes of labelled axes as functions of the widths of the groups."""

    def __init__(self, channels: Channels) -> None:
        """Look up which group each label is of."""
        self._group_of = {label: group.name for group in channels.groups for label in group.channels}
        self._width = {group.name: len(group.channels) for group in channels.groups}

    def of(self, ids: np.ndarray | None, size: int) -> Extent:
        """Return the extent of an axis of `size` entries with these labels; None where nothing of it can go."""
        held = Counter(self._group_of[i] for i in (() if ids is None else ids.tolist()) if i in self._group_of)
        return Extent(size - held.total(), {name: n / self._width[name] for name, n in sorted(held.items())})


def _model(
    parts: Iterable[tuple[str | None, float, float]], channels: Channels, shapes: Mapping[str, tuple[int, ...]]
) -> CostModel:
    extents, constant, terms = Extents(channels), 0.0, []
    for weight, positions, total in parts:
        sizes = () if weight is None else shapes[weight]
        sides = [extents.of(channels.labels.get(Axis(str(weight), axis)), size) for axis, size in enumerate(sizes)]
        if any(side.per_channel for side in sides):
            whole = [side.fixed for side in sides if not side.per_channel]  # known once and for all
            terms.append(Term(positions * math.prod(whole), tuple(side for side in sides if side.per_channel)))
        else:
            constant += total
    return CostModel(constant, tuple(terms))
