"""Which widths a group may take: rounding, patterns of node names, and the plan that widths and curves make."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from compress.costs import Widths
from graph.channels import ChannelGroup, Channels
from graph.plan import Plan

if TYPE_CHECKING:
    from calibrate.eliminate import Curve  # it brings torch along


def display_names(model: ir.Model) -> dict[str, str]:
    """Return the name that people know each node by: its own, or that of its first output."""
    return {str(o.name): node.name or str(o.name) for node in model.graph for o in node.outputs[:1]}


def matches(group: ChannelGroup, pattern: str, names: Mapping[str, str]) -> bool:
    """Say whether a shell pattern fits the group's name or one of its producers', by node name or output name."""
    known = [group.name]
    for site in group.producers:
        known += [site.node, names.get(site.node, site.node)]
    return any(fnmatchcase(name, pattern) for name in known)


def allowed_widths(
    group: ChannelGroup,
    names: Mapping[str, str],
    *,
    exclude: Sequence[str] = (),
    max_width_ratio: Mapping[str, float] | None = None,
    round_to: int = 1,
    removable: bool = False,
) -> np.ndarray:
    """Return the widths that the group may take, ascending; never none.

    Multiples of `round_to`, and the full width; at most the ratio of the first pattern in `max_width_ratio` that fits;
    only the full width where a pattern of `exclude` fits. Without any channel only where the group is `removable`.
    """
    full = len(group.channels)
    if any(matches(group, pattern, names) for pattern in exclude):
        return np.array([full])
    widths = np.unique(np.append(np.arange(round_to, full + 1, round_to), full))
    for pattern, ratio in (max_width_ratio or {}).items():
        if matches(group, pattern, names):
            narrow = widths[widths <= ratio * full + 1e-9]
            widths = narrow if len(narrow) else widths[:1]
            break
    return np.append(0, widths) if removable else widths


def may_go(group: ChannelGroup, channels: Channels, names: Mapping[str, str], exclude: Sequence[str]) -> bool:
    """Say whether a group may go altogether: no pattern of `exclude` fits it, what goes with it, or what reads it."""
    branch = {group.name} | channels.together.get(group.name, frozenset())
    read = {name for site in group.consumers for name in (site.node, names.get(site.node, site.node))}
    return group.name in channels.removable and not any(
        any(fnmatchcase(name, pattern) for name in read)
        or any(matches(each, pattern, names) for each in channels.groups if each.name in branch)
        for pattern in exclude
    )


def plan_of(widths: Widths, groups: Sequence[ChannelGroup], curves: "Mapping[str, Curve]") -> Plan:
    """Return the plan that keeps, in each group, the channels that its curve removes last."""
    keep = {}
    for group in groups:
        mask = np.ones(len(group.channels), bool)
        if group.name in widths:
            mask[curves[group.name].order[: len(mask) - widths[group.name]]] = False
        keep[group.name] = mask
    return Plan(keep)
