"""What a run can show beyond its figures: layer by layer, and picture by picture.

For the value x that a layer reads, a in the original and b in the pruned network, over the channels that both have:

    error = √(Σ (a − b)² ÷ Σ a²)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from calibrate.source import Source, chunked
from compress.cut import Pruned
from compress.disagreement import Disagreements, disagreements
from compress.measure import Comparison
from compress.widths import display_names
from graph.channels import Channels
from graph.count import Count, count
from graph.runtime import run, session
from graph.standard import standardise
from graph.trace import trace
from graph.walk import constant_array
from graph.widen import widened, widened_feeds

FEW = 8  # samples that errors are followed on

Reads = Mapping[str, str]  # by node: the name of the value that it reads


@dataclass(frozen=True)
class Layer:
    """A node that multiplies, by the name of its first output: its MACs before and after.

    None is for a model that has no such node; `error` is the relative error of what the node reads, where it is known.
    """

    node: str
    op_type: str
    before: int | None
    after: int | None
    error: float | None = None


@dataclass(frozen=True)
class Details:
    """The `layers` in their order, the loss of every group that lost channels, and where the classes differ.

    `losses` are in units of the outputs' divergence, each measured with that group alone cut; `followed` says on how
    many samples the errors of the layers are, `disagreements` is None without pictures or class scores. `names` are
    what people know the nodes by.
    """

    layers: tuple[Layer, ...] = ()
    followed: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    disagreements: Disagreements | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def details_of(pruned: Pruned, shipped: ir.Model, scores: str | None) -> Details:
    """Return what can be shown of a pruned model, and of the model `shipped` that was made of it, or is the same.

    `scores` names the output with class scores.
    """
    examined, data = pruned.prepared.examined, pruned.data
    names, reported = examined.names, data.parts.reported
    losses = pruned.prepared.ranking.losses
    size = data.batch or 1
    followed = reported[: max(FEW // size, 1) * size]
    errors = input_errors(pruned, chunked(followed, size))
    return Details(
        tuple(
            Layer(node, op_type, before, after, errors.get(node))
            for node, op_type, before, after in _paired(pruned.analysis.count, pruned.count)
        ),
        len(followed),
        {
            name: float(losses[name][before - after])
            for name, (before, after) in pruned.widths.items()
            if after < before and name in losses
        },
        disagreements(examined.original, shipped, data.source, reported, scores, data.batch),
        names,
    )


def details_of_two(
    original: ir.Model, other: ir.Model, source: Source, compared: Comparison, batch: int | None
) -> Details:
    """Return what can be shown of two models of which nothing else is known: nodes of one name are taken for one."""
    sample = source.batch(np.arange(batch or 1) % len(source))
    counts: list[Count] = []
    names: dict[str, str] = {}
    for model in (other, original):
        standard, _ = standardise(model)
        names |= display_names(standard)
        counts.append(count(standard, trace(standard, sample)))
    return Details(
        tuple(Layer(*layer) for layer in _paired(counts[1], counts[0])),
        disagreements=disagreements(original, other, source, np.arange(len(source)), compared.scores, batch),
        names=names,
    )


def _paired(before: Count, after: Count) -> Iterator[tuple[str, str, int | None, int | None]]:
    """Yield node, operator, and MACs before and after: in the order of the first, then what only the second has."""
    left = {node.node: node for node in after.nodes}
    for node in before.nodes:
        other = left.pop(node.node, None)
        yield node.node, node.op_type, node.macs, None if other is None else other.macs
    for node in left.values():
        yield node.node, node.op_type, None, node.macs


def input_errors(pruned: Pruned, batches: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the relative error of what each counted node reads, by node."""
    original, channels = pruned.analysis.model, pruned.analysis.channels
    counted = {node.node for node in pruned.analysis.count.nodes}
    places = {node: place for node, place in _places(original) if node in counted}
    before, after = _reads(original, places), _reads(pruned.model, places)
    removed = np.array(sorted(pruned.plan.removed(channels)), int)
    squared, energy = dict.fromkeys(after, 0.0), dict.fromkeys(after, 0.0)
    observers = _observer(original, before), _observer(pruned.model, after)
    for rows in batches:
        feeds = pruned.data.source.batch(rows)
        first, second = (observe(feeds) for observe in observers)
        for node in list(squared):
            a = _kept(first[before[node]], before[node], channels, removed).astype(np.float64)
            b = second[after[node]]
            if a.shape != b.shape:
                del squared[node]
                continue
            with np.errstate(invalid="ignore"):  # ∞ − ∞ is left out below
                squared[node] += float(((a - b) ** 2).sum())
            energy[node] += float((a**2).sum())
    known = [node for node in squared if np.isfinite(squared[node]) and 0 < energy[node] < np.inf]
    return {node: float(np.sqrt(squared[node] / energy[node])) for node in known}


def _places(model: ir.Model) -> Iterator[tuple[str, int]]:
    """Yield every node that reads a value, with the place of the first that is no constant."""
    for node in model.graph:
        for place, value in enumerate(node.inputs):
            if value is not None and constant_array(value) is None:
                yield str(node.outputs[0].name), place
                break


def _reads(model: ir.Model, places: Mapping[str, int]) -> Reads:
    found = ((str(node.outputs[0].name), node) for node in model.graph if node.outputs)
    return {name: str(node.inputs[places[name]].name) for name, node in found if name in places}  # type: ignore[union-attr]


def _observer(model: ir.Model, reads: Reads) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that runs the model and returns what its nodes read, by name."""
    inputs = {str(value.name) for value in model.graph.inputs}
    names = sorted(set(reads.values()) - inputs)
    opened = session(widened(model), optimise=False, outputs=names) if names else None

    def observe(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = widened_feeds(feeds)
        return given if opened is None else {**given, **dict(zip(names, run(opened, given), strict=True))}

    return observe


def _kept(value: np.ndarray, name: str, channels: Channels, removed: np.ndarray) -> np.ndarray:
    """Return the original's value without the channels that are gone."""
    labels = channels.values.get(name)
    if labels is None or labels.axis is None:
        return value
    return value.compress(~np.isin(labels.ids, removed), labels.axis)
