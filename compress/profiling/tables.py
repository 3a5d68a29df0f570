"""The latency of any widths, from what was measured of a few networks on one machine.

Where the provider tells kernels apart, each kernel (a layer with all that was fused into it, or a reorder between two
layouts) has a table over the widths of the groups that it touches:

    latency(w) = constant + Σ_k table_k(w of the groups of k)

A profile makes every kernel a little slower, and what disturbs the machine disturbs all kernels of a run. So kernels
only say what share of a network's time they take; that time itself comes from runs in turn with the original.
Kernels that do the same on the same shapes take the same time, so the median over all of them stands for each.

A kernel is known by the value that it computes; one that the runtime put in between (ReorderOutput) belongs to the
kernel before it that made a value of the same shape. With more than two groups, or where not every pair of levels was
seen, the times are fitted instead:  a + b·n_in + c·n_out + d·n_in·n_out,  all of a, b, c, d ≥ 0, in channels.

Where only whole networks were timed, what is fitted to them is  a + b·MACs + c·activations + d·parameters.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from scipy.optimize import nnls

from compress.costs import CostModel, Extent, Extents, Table, Term, macs_model, params_model, weighted
from compress.profiling.profile import KernelTime, Measured, Profile
from graph.analysis import Analysis

MIXING = ("Conv", "Gemm", "MatMul")  # in the names of the operators, fused or not, that have a weight on two sides
_NUMBERS = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING)


@dataclass(frozen=True)
class Sides:
    """The channels that a kernel reads and makes, as functions of the widths; `layer` is what else is known of it."""

    reads: Extent
    makes: Extent
    layer: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups whose widths decide how long it takes."""
        return tuple(dict.fromkeys((*self.reads.per_channel, *self.makes.per_channel)))


def latency_model(profile: Profile, analysis: Analysis) -> CostModel:
    """Return the milliseconds that the model takes at any widths, by a profile of it."""
    rows = [row for row in profile.networks if row.kernels is not None]
    return _by_kernels(profile, rows, analysis) if rows else _by_wholes(profile, analysis)


def _by_kernels(profile: Profile, rows: Sequence[Measured], analysis: Analysis) -> CostModel:
    names = Names(analysis)
    owned = [names.owned(row.kernels or ()) for row in rows]
    operators = {value: kernel.op_type for kernels in owned for value, kernel in reversed(kernels)}
    sides = names.sides({value: op_type for value, op_type in operators.items() if value is not None})
    seen = defaultdict[Hashable, list[float]](list)
    for row, kernels in zip(rows, owned, strict=True):
        share = profile.original_ms * row.ratio / max(sum(kernel.us for _, kernel in kernels), 1e-9)
        for value, kernel in kernels:
            seen[_kind(kernel, sides.get(value or ""))].append(share * kernel.us)
    usual = {kind: float(np.median(times)) for kind, times in seen.items()}
    times = {value: np.zeros(len(rows)) for value in operators}
    for number, kernels in enumerate(owned):
        for value, kernel in kernels:
            times[value][number] += usual[_kind(kernel, sides.get(value or ""))]
    widths = [row.widths for row in rows]
    parts = [
        fitted(sides[value], widths, ms) if value is not None else CostModel(float(ms.mean()), ())
        for value, ms in times.items()
    ]
    return weighted([(1.0, part) for part in parts])


def _kind(kernel: KernelTime, sides: Sides | None) -> Hashable:
    """Return what the time of a kernel depends on."""
    return kernel.op_type, kernel.inputs, kernel.outputs, "" if sides is None else sides.layer


class Names:
    """Which value of the model each kernel computes, and what channels that takes."""

    def __init__(self, analysis: Analysis) -> None:
        """Look up who makes what."""
        self._channels = analysis.channels
        self._shapes = analysis.trace.shapes
        self._extents = Extents(analysis.channels)
        self._makers = {str(value.name): node for node in analysis.model.graph for value in node.outputs}

    def owned(self, kernels: Sequence[KernelTime]) -> list[tuple[str | None, KernelTime]]:
        """Return each kernel with the value that it is for; None where that cannot be told."""
        found: list[tuple[str | None, KernelTime]] = []
        for kernel in kernels:
            value = self._value(kernel.name)
            if value is None and kernel.inputs:
                before = (owner for owner, other in reversed(found) if other.outputs[:1] == kernel.inputs[:1])
                value = next(before, None)
            found.append((value, kernel))
        return found

    def _value(self, kernel: str) -> str | None:
        """Return the value in a kernel's name: ONNX Runtime adds to the names of what it fuses or lays out anew."""
        plain = re.sub(r"(_token_\d+)+$", "", kernel.removeprefix("fused ")).removesuffix("_nchwc")
        while plain and plain not in self._makers and "/" in plain:
            plain = plain.rpartition("/")[0]
        return plain if plain in self._makers else None

    def sides(self, operators: Mapping[str, str]) -> dict[str, Sides]:
        """Return what the kernels read and make, by the value they compute and their operator.

        One that ends in an Add may have been fused into either of the two layers before it: into the one that has no
        kernel of its own.
        """
        layers = {value: self._makers[value] for value, op_type in operators.items() if _mixes(op_type)}
        taken = {id(node) for node in layers.values() if _mixes(node.op_type)}
        found = {}
        for value in operators:
            node = self._makers[value]
            if value in layers and not _mixes(node.op_type):
                node = self._layer(node, taken) or node
                taken.add(id(node))
            read = next((str(each.name) for each in node.inputs if each is not None), value)
            found[value] = Sides(self._extent(read), self._extent(value), self._described(node))
        return found

    def _described(self, node: ir.Node) -> str:
        """Return what makes two layers differ that read and make values of the same shapes."""
        weights = (self._shapes.get(str(each.name), ()) for each in node.inputs[1:2] if each is not None)
        attributes = sorted(f"{name}={each.value}" for name, each in node.attributes.items() if each.type in _NUMBERS)
        return f"{node.op_type} {[shape[2:] for shape in weights]} {attributes}"

    def _layer(self, node: ir.Node, taken: set[int]) -> ir.Node | None:
        """Return the nearest layer above a node that has no kernel yet."""
        waiting, seen = [node], set[int]()
        while waiting:
            node = waiting.pop(0)
            if _mixes(node.op_type):
                if id(node) not in taken:
                    return node
                continue
            seen.add(id(node))
            above = (self._makers.get(str(each.name)) for each in node.inputs if each is not None)
            waiting += [each for each in above if each is not None and id(each) not in seen]
        return None

    def _extent(self, value: str) -> Extent:
        labels = self._channels.values.get(value)
        if labels is None or labels.axis is None:
            return Extent(1.0, {})
        return self._extents.of(labels.ids, labels.shape[labels.axis])


def fitted(sides: Sides, widths: Sequence[Mapping[str, int]], ms: np.ndarray) -> CostModel:
    """Return the time of one kernel as a function of the widths, from its times `ms` at the widths of each network."""
    groups = sides.groups
    if not groups:
        return CostModel(float(ms.mean()), ())
    levels = tuple(np.unique([row[name] for row in widths]) for name in groups)
    if sum(len(each) > 1 for each in levels) <= 2:
        sums, counts = np.zeros([len(each) for each in levels]), np.zeros([len(each) for each in levels])
        places = zip(groups, levels, strict=True)
        at = tuple(np.searchsorted(each, [row[name] for row in widths]) for name, each in places)
        np.add.at(sums, at, ms)
        np.add.at(counts, at, 1)
        if counts.all():
            return CostModel(0.0, (Table(1.0, groups, levels, sums / counts, (sides.reads, sides.makes)),))
    terms = tuple(Term(1.0, extents) for extents in ((sides.reads,), (sides.makes,), (sides.reads, sides.makes)))
    return _regression([CostModel(0.0, (term,)) for term in terms], widths, ms)


def _by_wholes(profile: Profile, analysis: Analysis) -> CostModel:
    rows, channels, shapes = profile.networks, analysis.channels, analysis.trace.shapes
    ms = np.array([profile.original_ms * row.ratio for row in rows])
    features = [
        macs_model(channels, analysis.count, shapes),
        activations_model(analysis),
        params_model(channels, analysis.count, shapes),
    ]
    return _regression(features, [row.widths for row in rows], ms)


def activations_model(analysis: Analysis) -> CostModel:
    """Return how many numbers the network computes on its way, as a function of the widths."""
    extents, constant, terms = Extents(analysis.channels), 0.0, []
    for labels in analysis.channels.values.values():
        size = float(np.prod(labels.shape))
        if labels.axis is None or not labels.shape[labels.axis]:
            constant += size
        else:
            extent = extents.of(labels.ids, labels.shape[labels.axis])
            terms.append(Term(size / labels.shape[labels.axis], (extent,)))
    return CostModel(constant, tuple(terms))


def _regression(features: Sequence[CostModel], widths: Sequence[Mapping[str, int]], ms: np.ndarray) -> CostModel:
    """Return a + Σ b_i·feature_i with a and all b_i ≥ 0, by least squares."""
    columns = np.array([[1.0, *(feature.total(row) for feature in features)] for row in widths])
    size = np.maximum(np.abs(columns).max(0), 1e-30)
    factors = nnls(columns / size, ms)[0] / size
    model = weighted(zip(factors[1:].tolist(), features, strict=True))
    return replace(model, constant=model.constant + float(factors[0]))


def _mixes(op_type: str) -> bool:
    return any(name in op_type for name in MIXING)
