"""What is done to the weights that stay: compensation in one of its forms, then refinement.

asymmetric   x of the pruned network, targets of the original one, consumer after consumer   (compress.compensate)
symmetric    x and y of the original network: each consumer is fitted to its own output      (CaP, arXiv 2108.13728)
none         the plain slices
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from calibrate.consumer import find_consumers
from compress.compensate import compensate
from compress.data import chunk_size
from compress.prepare import Prepared
from compress.progress import Timed
from compress.ranking import listed
from compress.refine import Refinement, refine
from compress.repair import Repair
from compress.sensitivity import weights_without
from compress.store import store
from graph.bridge import TorchModel
from graph.channels import Channels
from graph.plan import Plan


def refit(
    prepared: Prepared,
    small: ir.Model,
    pruned: TorchModel,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    timed: Timed,
) -> tuple[Repair, ...]:
    """Compensate in `small` and its torch form `pruned`, which are changed, for the channels that are gone."""
    examined = prepared.examined
    options, data, channels = examined.options, examined.data, examined.analysis.channels
    if options.compensation == "none":
        return ()
    if options.compensation == "symmetric":
        with timed("compensate", 1), torch.inference_mode():
            _symmetric(prepared, small, pruned, plan)
        return ()
    with timed("compensate", len(find_consumers(small, shapes))) as advance:
        return tuple(
            compensate(
                prepared.model,
                pruned,
                small,
                channels,
                plan,
                shapes,
                data.source,
                data.parts.fit,
                data.parts.search,
                chunk=chunk_size(examined.analysis, data.batch),
                seed=options.seed,
                advance=advance,
            )
        )


def _symmetric(prepared: Prepared, small: ir.Model, pruned: TorchModel, plan: Plan) -> None:
    """Give each consumer the weights that are best on the original network's statistics, cut to the channels kept."""
    ranking, channels = prepared.ranking, prepared.examined.analysis.channels
    removed = plan.removed(channels)
    sites = list(dict.fromkeys(site for group in channels.groups for site in group.consumers))
    changed = weights_without(sites, removed, channels, ranking.consumers, ranking.moments, prepared.model)
    for name, weight in changed.items():
        for axis, labels in _axes(channels, name):
            kept = np.flatnonzero(~np.isin(labels, list(removed)))
            weight = weight.index_select(axis, torch.as_tensor(kept, device=weight.device))
        store(name, weight, pruned, small)


def _axes(channels: Channels, weight: str) -> list[tuple[int, np.ndarray]]:
    return [(axis.axis, labels) for axis, labels in channels.labels.items() if axis.weight == weight]


def refined(
    prepared: Prepared,
    small: ir.Model,
    pruned: TorchModel,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    timed: Timed,
) -> Refinement:
    """Let gradient descent move the weights of `small` and of its torch form `pruned`."""
    examined = prepared.examined
    options, data = examined.options, examined.data
    with timed("refine", options.refine) as advance:
        return refine(
            prepared.model,
            pruned,
            small,
            examined.analysis.channels,
            plan,
            shapes,
            data.source,
            data.parts.fit,
            data.parts.search,
            steps=options.refine,
            chunk=chunk_size(examined.analysis, data.batch),
            batch=data.batch,
            seed=options.seed,
            advance=advance,
        )


def repair_notes(repairs: Sequence[Repair], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence for each kind of thing that compensation could not do, naming the nodes."""
    by_note: dict[str, list[str]] = {}
    for repair in repairs:
        if repair.note:
            by_note.setdefault(repair.note, []).append(names.get(repair.node, repair.node))
    return tuple(f"{listed(nodes)}: {note}" for note, nodes in by_note.items())
