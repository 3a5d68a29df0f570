"""Which channels hang together: labels are carried once through the graph, and what meets is tied.

Every removable channel is an integer label; a value carries labels along at most one of its axes. The rules in
`graph.rules` say how each operator passes labels on; what no rule covers is fixed, so that a missing rule costs
compression and never correctness.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

import graph.rules  # noqa: F401 - fills the table of rules
from graph.branches import branches
from graph.channels import Axis, ChannelGroup, Channels, Labels, Site
from graph.choices import choose
from graph.partition import Ids
from graph.trace import Trace
from graph.walk import NOTHING, Role, Use, Walk, identity


def couple(model: ir.Model, trace: Trace) -> Channels:
    """Return the labels of every weight axis and value, and the groups of channels that can be removed.

    `trace` is of the same model. A group has at least two channels, a producer and a consumer. Works on a model as
    it is; `simplify` it first so that weights are plain initializers.
    """
    walk = choose(lambda prefer: _carry(model, trace, prefer), model, trace)
    axes, values = _resolved_axes(walk), _resolved_values(walk)
    channels = Channels(
        labels=axes,
        values=values,
        groups=_groups(walk, axes, values),
        frozen=tuple(dict.fromkeys(walk.frozen)),
        integers=trace.integers,
    )
    lasting, together = branches(model, channels)
    return replace(channels, lasting=lasting, together=together)


def _carry(model: ir.Model, trace: Trace, prefer: Mapping[str, int]) -> Walk:
    """Carry labels through the whole graph, and fix those of its outputs."""
    walk = Walk(model, trace, prefer)
    for node in model.graph:
        walk.step(node)
    for output in model.graph.outputs:
        ids, producer = walk.labels(output).ids, output.producer()
        if producer is not None and output.uses():  # of an output that nothing else reads there is nothing to say
            walk.fix(producer, ids, f"{output.name} is an output of the model")
        walk.partition.freeze(ids)
    _agree_on_constants(walk, model)
    return walk


def _agree_on_constants(walk: Walk, model: ir.Model) -> None:
    """Tie the labels of all uses of a constant; fix an axis that some use does not speak for."""
    users: dict[Axis, list[Use]] = defaultdict(list)
    for use in walk.uses:
        users[use.axis].append(use)
    outputs = {output.name for output in model.graph.outputs}
    for axis, uses in users.items():
        for use in uses[1:]:
            walk.partition.union(uses[0].ids, use.ids)
        value = uses[0].node.inputs[uses[0].index]
        assert value is not None
        spoken = {(use.node, use.index) for use in uses}
        if axis.weight in outputs or any(tuple(use) not in spoken for use in value.uses()):
            walk.fix(uses[0].node, uses[0].ids, f"{axis.weight} is used elsewhere in another way")


def _resolved_axes(walk: Walk) -> dict[Axis, Ids]:
    resolved = {use.axis: walk.partition.find(use.ids) for use in walk.uses}
    return {axis: ids for axis, ids in resolved.items() if ids.any()}


def _resolved_values(walk: Walk) -> dict[str, Labels]:
    resolved = {}
    for name, labels in walk.values.items():
        ids = walk.partition.find(labels.ids)
        resolved[name] = Labels(labels.shape, labels.axis, ids) if ids.any() else Labels(labels.shape, None, NOTHING)
    return resolved


def _groups(walk: Walk, axes: dict[Axis, Ids], values: dict[str, Labels]) -> tuple[ChannelGroup, ...]:
    sites: dict[int, list[tuple[Site, Role]]] = defaultdict(list)
    members, number = _by_places([*axes.values(), *(labels.ids for labels in values.values())])
    present = {axis: [group for group in np.unique(number[ids]).tolist() if group >= 0] for axis, ids in axes.items()}
    names: dict[int, str] = {}
    for use in walk.uses:
        site = Site(identity(use.node), use.node.op_type, use.axis)
        for group in present.get(use.axis, []):
            sites[group].append((site, use.role))
            if use.role is Role.PRODUCER:
                names.setdefault(group, use.node.name or identity(use.node))
    taken: set[str] = set()
    groups = []
    for group in names:
        by_role = {role: tuple(site for site, its in sites[group] if its is role) for role in Role}
        if len(members[group]) < 2 or not by_role[Role.CONSUMER]:
            continue
        groups.append(
            ChannelGroup(
                name=_unique(names[group], taken),
                channels=tuple(members[group]),
                producers=by_role[Role.PRODUCER],
                followers=by_role[Role.FOLLOWER],
                consumers=by_role[Role.CONSUMER],
            )
        )
    return tuple(groups)


def _by_places(places: Iterable[Ids]) -> tuple[list[list[int]], np.ndarray]:
    """Return the labels, ascending, in lists of those that occur in exactly the same places, and each label's list.

    One place after another splits the lists so far into what occurs in it and what does not. A label that occurs
    nowhere has list -1.
    """
    distinct = list({ids.tobytes(): ids for ids in places}.values())
    size, lists = 1 + max((int(ids.max()) for ids in distinct if len(ids)), default=0), 1
    number = np.zeros(size, np.int64)  # 0: not seen yet
    for ids in distinct:
        seen = np.zeros(size, bool)
        seen[ids] = True
        seen[0] = False
        before, which = np.unique(number[seen], return_inverse=True)
        number[seen] = lists + which
        lists += len(before)
    found = np.flatnonzero(number)
    by_list = found[np.argsort(number[found], kind="stable")]
    bounds = np.flatnonzero(np.diff(number[by_list])) + 1
    members = sorted(part.tolist() for part in np.split(by_list, bounds) if len(part))
    number[:] = -1
    for group, labels in enumerate(members):
        number[labels] = group
    return members, number


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, numbered where a group has it already."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    taken.add(found)
    return found
