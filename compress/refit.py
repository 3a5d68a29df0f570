"""What is done to the weights that stay: compensation in one of its forms, then refinement.

asymmetric   x of the pruned network, targets of the original one, consumer after consumer   (compress.compensate)
symmetric    x and y of the original network: each consumer is fitted to its own output      (CaP, arXiv 2108.13728)
none         the plain slices
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from compress.compensate import compensate, fitted
from compress.data import chunk_size
from compress.prepare import Prepared
from compress.progress import Timed
from compress.ranking import listed
from compress.refine import Refinement, refine
from compress.repair import Repair
from compress.sensitivity import weights_without
from compress.store import store
from graph.bridge import TorchModel
from graph.model import clone
from graph.plan import Plan
from graph.shrink import shrink


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
    with timed("compensate", len(fitted(small, prepared.model, shapes))) as advance:
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
                hold_out=options.refine > 0,  # by what was fitted on them the start would look better than it is
                advance=advance,
            )
        )


def _symmetric(prepared: Prepared, small: ir.Model, pruned: TorchModel, plan: Plan) -> None:
    """Give each consumer the weights that are best on the original network's statistics, cut to the channels kept."""
    ranking, channels = prepared.ranking, prepared.examined.analysis.channels
    removed = plan.removed(channels)
    sites = list(dict.fromkeys(site for group in channels.groups for site in group.consumers))
    changed = weights_without(sites, removed, channels, ranking.consumers, ranking.moments, prepared.model)
    whole = clone(prepared.examined.analysis.model)
    for name, weight in changed.items():
        initializer = whole.graph.initializers[name]
        assert initializer.dtype is not None
        initializer.const_value = ir.tensor(weight.cpu().numpy().astype(initializer.dtype.numpy()), name=name)
    for name, value in shrink(whole, channels, plan).graph.initializers.items():
        before, now = (each.const_value for each in (small.graph.initializers.get(name, value), value))
        if before is not None and now is not None and not np.array_equal(before.numpy(), now.numpy()):
            store(name, torch.from_numpy(now.numpy()), pruned, small)


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
