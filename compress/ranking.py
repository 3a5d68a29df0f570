"""In which order the channels of every group go, and what that costs at the network's outputs (METHOD §3, §4)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from calibrate.consumer import Consumer, find_consumers
from calibrate.eliminate import Curve
from calibrate.moments import Moments
from calibrate.statistics import Chunk, ChunkMoments, Spread, collect
from compress import sensitivity
from compress.cluster import Cluster, join
from compress.criteria import Evidence, order_channels
from compress.data import Data, chunk_size
from compress.progress import Timed
from compress.settings import Options
from graph.analysis import Analysis
from graph.bridge import Portable

SEARCH_MACS = 6e12  # multiply-accumulates spent on measuring sensitivities


@dataclass(frozen=True)
class Ranking:
    """For every group: the order in which its channels go, and the loss at the outputs by number removed.

    `consumers` and `moments`, by node, are what that was found from.
    """

    curves: Mapping[str, Curve]
    losses: Mapping[str, np.ndarray]
    consumers: Mapping[str, Consumer]
    moments: Mapping[str, Moments]


def rank(
    analysis: Analysis, portable: Portable, data: Data, options: Options, timed: Timed, notes: list[str]
) -> Ranking:
    """Collect statistics, and make the curve and the loss at the outputs of every group."""
    model, channels, chunk = portable.model, analysis.channels, chunk_size(analysis, data.batch)
    groups, fit = channels.groups, data.parts.fit
    read_by_groups = {site.node for group in groups for site in group.consumers}
    consumers = {
        c.node: c
        for c in find_consumers(analysis.model, dict(analysis.trace.shapes))
        if c.node in read_by_groups and not (c.window and c.window.transposed and c.groups > 1)
    }
    with timed("statistics", len(fit)) as advance:
        moments = collect(
            model,
            list(consumers.values()),
            data.source,
            fit,
            chunk=chunk,
            seed=options.seed,
            advance=advance,
            spread=None if options.ray is None else _spread_over(join(options.ray), portable),
        )
    with timed("curves", len(groups)) as advance:
        evidence = Evidence(
            groups, channels, consumers, moments, model, data.source, fit, chunk, options.seed, advance, notes.append
        )
        found, reasons = order_channels(options.criterion, evidence)
    notes += [f"{listed(names)}: {why}" for why, names in reasons.items()]
    if options.search == "uniform":
        return Ranking(found, {name: curve.loss for name, curve in found.items()}, consumers, moments)
    with timed("sensitivity", sum(len(sensitivity.cuts(group, channels)) for group in groups)) as advance:
        measured = sensitivity.measure(
            groups,
            channels,
            found,
            consumers,
            moments,
            model,
            data.source,
            searched_images(analysis, data),
            chunk=chunk,
            advance=advance,
        )
    losses = {name: sensitivity.losses(found[name], measured[name]) for name in found}
    return Ranking(found, losses, consumers, moments)


@dataclass(frozen=True)
class _Elsewhere:
    """Makes the moments of a chunk in another process."""

    portable: Portable
    made: ChunkMoments

    def __call__(self, chunk: Chunk) -> list[tuple[str, Moments]]:
        with torch.inference_mode():
            return list(self.made(self.portable.model, chunk))


def _spread_over(cluster: Cluster, portable: Portable) -> Spread:
    """Return what makes the moments of chunks in a cluster."""

    def spread(made: ChunkMoments, chunks: Iterable[Chunk]) -> Iterator[list[tuple[str, Moments]]]:
        return cluster.spread(_Elsewhere(portable, made), torch.get_num_threads())(chunks)

    return spread


def searched_images(analysis: Analysis, data: Data) -> np.ndarray:
    """Return the samples that cuts are tried on: as many as a fixed amount of work allows, 16 at least."""
    searched = data.parts.search if len(data.parts.search) else data.parts.fit
    runs = len(analysis.channels.groups) * len(sensitivity.CUTS) / 2  # a cut re-runs half of the network on average
    affordable = int(SEARCH_MACS / max(analysis.count.macs * runs, 1))
    size = data.batch or 1
    return searched[: min(len(searched), max(16, min(affordable, 256))) // size * size]


def listed(names: Sequence[str]) -> str:
    """Write the first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
