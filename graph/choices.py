"""Where labels come to vary along several axes of one value, only what follows shows which axis should keep them.

The Reshape of an attention's query (N, T, C) → (N, T, heads, depth) could keep either: whole heads go, or the same
position of every head. The product of query and key sums over the depth and fixes the second, never the first. So the
graph is walked with the choices that leave most channels, and where that lost some later on it is walked again with
every other choice in that region; each region keeps what leaves it most.

A region is what hangs together without passing a weight that mixes channels: choices in one do not reach another, so
all regions try their next choices in one walk. In a region, choices between axes of the same sizes are made alike.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product, zip_longest

import numpy as np
import onnx_ir as ir

from graph.trace import Trace
from graph.walk import Role, Walk, identity

MOST_WALKS = 12  # attention needs six: two kinds of choice, among two axes and among three

Prefer = Mapping[str, int]  # by node: which of its axes, in order, keeps the labels


def choose(carry: Callable[[Prefer], Walk], model: ir.Model, trace: Trace) -> Walk:
    """Return the walk with the best choices; `carry` walks the graph with given ones."""
    first = carry({})
    lost = {name for name in first.choices if _lost(first, name)}
    if not lost:
        return first
    region = _regions(first, model, trace)
    nodes: dict[str, list[str]] = defaultdict(list)
    for name in first.choices:
        nodes[region[name]].append(name)
    open_ = [names for names in nodes.values() if not lost.isdisjoint(names)]
    scores = _scores(first, region)
    best: list[tuple[float, Prefer]] = [(scores[region[names[0]]], {}) for names in open_]
    for tries in zip_longest(*(islice(_alternatives(first, names), MOST_WALKS) for names in open_)):
        walk = carry({node: place for tried in tries for node, place in (tried or {}).items()})
        scores = _scores(walk, region)
        for i, (names, tried) in enumerate(zip(open_, tries, strict=True)):
            score = scores[region[names[0]]]
            if tried is not None and score > best[i][0]:
                best[i] = score, tried
    chosen = {node: place for _, tried in best for node, place in tried.items()}
    return carry(chosen) if chosen else first


def _lost(walk: Walk, node: str) -> bool:
    """Whether any label of a choice is fixed in the end."""
    ids = walk.choices[node].ids
    return bool((walk.partition.find(ids) == 0).any())


def _alternatives(walk: Walk, nodes: Sequence[str]) -> Iterator[Prefer]:
    """Yield every way to choose in a region, choices between axes of the same sizes made alike."""
    kinds = list(dict.fromkeys(walk.choices[node].sizes for node in nodes))
    for places in product(*(range(len(sizes)) for sizes in kinds)):
        chosen = dict(zip(kinds, places, strict=True))
        yield {node: chosen[walk.choices[node].sizes] for node in nodes}


def _scores(walk: Walk, region: Mapping[str, str]) -> dict[str, float]:
    """Return, by region, how much of the weights at its border and inside can go.

    An axis on which n sets of channels are free counts (1 − 1/n)² of the weight's entries there: all sets but one can
    go, and a few large ones leave little to choose from.
    """
    scores: dict[str, float] = defaultdict(float)
    for use in walk.uses:
        ids = walk.partition.find(use.ids)
        sets = len(np.unique(ids[ids > 0]))
        weight = walk.constant(use.node.inputs[use.index])
        if sets < 2 or weight is None:
            continue
        share = (1 - 1 / sets) ** 2 * np.count_nonzero(ids) / len(ids)
        beside = use.node.outputs if use.role is not Role.CONSUMER else use.node.inputs
        for root in {region[str(value.name)] for value in beside if value is not None and value.name in region}:
            scores[root] += share * weight.size
    return scores


def _regions(walk: Walk, model: ir.Model, trace: Trace) -> dict[str, str]:
    """Return the region of every value with channels, as the name of one value of it."""
    mixing = {identity(use.node) for use in walk.uses if use.role is not Role.FOLLOWER}
    # shape arithmetic links what has nothing to do with one another
    parent = {name: name for name in walk.values if name not in trace.integers or name in walk.choices}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for node in model.graph:
        names = [str(value.name) for value in (*node.inputs, *node.outputs) if value is not None]
        names = [name for name in names if name in parent]
        for name in names[1:] if identity(node) not in mixing else []:
            parent[root(name)] = root(names[0])
    return {name: root(name) for name in parent}
