"""What is asked of a network, in its own figures: which widths are permitted, what they cost, and the limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compress.costs import CostModel, bytes_model, macs_model, params_model
from compress.errors import OptionError
from compress.searches import Budget
from compress.settings import Options
from compress.targets import METRICS, Target
from compress.widths import allowed_widths, matches, may_go
from graph.analysis import Analysis
from graph.channels import Channels
from graph.errors import ModelError
from graph.walk import constant_array


@dataclass(frozen=True)
class Original:
    """The bytes of the original's file: as it is, and as it would be written with every channel kept."""

    as_is: int
    rewritten: int


@dataclass(frozen=True)
class Limit:
    """One target: what it counts, how much of that the original has, and the cost of widths in it."""

    target: Target
    original: float
    cost: CostModel

    @property
    def metric(self) -> str:
        """What is limited."""
        return self.target.metric

    @property
    def limit(self) -> float:
        """How much may be left, in the metric's own unit."""
        return self.target.budget(self.original)

    @property
    def budget(self) -> Budget:
        """The limit as the search takes it."""
        return Budget(self.cost, self.limit)


def permitted(analysis: Analysis, names: Mapping[str, str], options: Options, round_to: int) -> dict[str, np.ndarray]:
    """Return the widths that each group may take.

    Raises ModelError where nothing can be pruned, and OptionError for a pattern that fits no layer.
    """
    groups = analysis.channels.groups
    if not groups:
        raise ModelError(analysis.converted or _nothing(analysis.channels))
    for pattern in (*options.exclude, *(options.max_width_ratio or {})):
        if not any(matches(group, pattern, names) for group in groups):
            raise OptionError(f"{pattern!r} fits no layer that can be pruned: compress inspect lists them")
    return {
        group.name: allowed_widths(
            group,
            names,
            exclude=options.exclude,
            max_width_ratio=options.max_width_ratio,
            round_to=round_to,
            removable=may_go(group, analysis.channels, names, options.exclude),
        )
        for group in groups
    }


def limit_of(
    target: Target,
    analysis: Analysis,
    size: Callable[[], Original],
    latency: Callable[[], tuple[float, CostModel]],
) -> Limit:
    """Return a target in figures of this network.

    `size` is asked where it is in bytes, and `latency` where it is in time: for the original's milliseconds, and those
    of any widths.
    """
    channels, shapes = analysis.channels, analysis.trace.shapes
    if target.metric == "bytes":
        bytes_ = size()
        return Limit(target, bytes_.as_is, bytes_model(channels, shapes, _item_bytes(analysis), bytes_.rewritten))
    if target.metric == "latency":
        return Limit(target, *latency())
    make, original = (
        (macs_model, analysis.original.macs) if target.metric == "macs" else (params_model, analysis.original.params)
    )
    return Limit(target, original, make(channels, analysis.count, shapes))


def floor(limit: Limit, allowed: Mapping[str, np.ndarray]) -> float:
    """Return how much of what is limited the narrowest permitted widths leave."""
    return limit.cost.total({name: int(widths[0]) for name, widths in allowed.items()})


def out_of_reach(limit: Limit, allowed: Mapping[str, np.ndarray]) -> str:
    """Return a sentence, with the least that is possible, where no permitted widths are within the limit, else ""."""
    least = floor(limit, allowed)
    if least <= limit.limit:
        return ""
    known = METRICS[limit.metric]
    return (
        f"the target, {limit.target}, is out of reach: the least that the permitted widths reach is "
        f"{least / limit.original:.3f} of the original ({known.written(least)} of {known.written(limit.original)})"
    )


def _item_bytes(analysis: Analysis) -> dict[str, float]:
    """Return what a number of each labelled weight takes in the file, where it may be stored in fewer bits."""
    graph = analysis.model.graph
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    weights = {axis.weight for axis in analysis.channels.labels}
    arrays = {str(value.name): constant_array(value) for value in values if value.name in weights}
    stored = {each.weight: each.dtype.bitwidth / 8 for each in analysis.stored}
    return {name: stored.get(name, array.itemsize) for name, array in arrays.items() if array is not None}


def _nothing(channels: Channels) -> str:
    first = channels.frozen[0] if channels.frozen else None
    why = f"; the first obstacle: {first.op_type} {first.node}: {first.reason}" if first else ""
    return f"the model has no channels that could be removed{why}"
