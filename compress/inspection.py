"""What can be pruned in a model, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.costs import macs_model
from compress.widths import display_names
from graph.analysis import analyse
from graph.channels import Frozen, Site
from graph.inputs import example_inputs
from graph.model import load


@dataclass(frozen=True)
class GroupFacts:
    """One group: its width, the MACs that go if it is cut as far as can be, and its nodes by display name.

    `lasting` says why it must keep a channel; "" where all of them may go, as a branch does.
    """

    name: str
    channels: int
    macs_at_stake: int
    lasting: str
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What `compress inspect` shows; `least_macs` with every group cut as far as can be.

    `inputs` are the shapes that the figures are for; `converted` is a sentence where the model was quantised, or laid
    out for one processor.
    """

    inputs: Mapping[str, tuple[int, ...]]

    macs: int
    params: int
    least_macs: int
    groups: tuple[GroupFacts, ...]
    frozen: tuple[Frozen, ...]
    uncounted: Mapping[str, int]
    converted: str | None = None


def inspect(
    path: Path, shapes: Mapping[str, Sequence[int]] | None = None, *, keep_batchnorm: bool = False
) -> Inspection:
    """Analyse the model in a file; `shapes` states sizes that its inputs leave free. Raises ModelError."""
    model = load(path)
    feeds = example_inputs(model, shapes=shapes)
    analysis = analyse(model, feeds, keep_batchnorm=keep_batchnorm)
    costs = macs_model(analysis.channels, analysis.count, analysis.trace.shapes)
    full = {group.name: len(group.channels) for group in analysis.channels.groups}
    narrowest = {name: int(name not in analysis.channels.removable) for name in full}
    names = display_names(analysis.model)

    def shown(sites: tuple[Site, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names.get(site.node, site.node) for site in sites))

    facts = []
    for group in analysis.channels.groups:
        whole, least = costs.of_group(group.name, np.array([len(group.channels), narrowest[group.name]]), full)
        facts.append(
            GroupFacts(
                group.name,
                len(group.channels),
                round(whole - least),
                analysis.channels.lasting[group.name],
                shown(group.producers),
                shown(group.followers),
                shown(group.consumers),
            )
        )
    original = analysis.original
    return Inspection(
        {name: array.shape for name, array in feeds.items()},
        original.macs,
        original.params,
        round(costs.total(narrowest)),
        tuple(facts),
        analysis.channels.frozen,
        original.uncounted,
        analysis.converted,
    )
