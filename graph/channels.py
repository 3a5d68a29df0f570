"""Which channels hang together, as plain data.

Every removable channel is an integer label; 0 means fixed. A label stands on every weight axis, and
every axis of a value, from which one slice goes when that channel is removed. Removing the channels
with labels R is then `np.compress(~np.isin(labels, R), weight, axis)` for each labelled axis.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, order=True)
class Axis:
    """One axis of one weight (an initializer or the output of a Constant node), by the value's name."""

    weight: str
    axis: int


@dataclass(frozen=True, order=True)
class Site:
    """One use of a labelled weight axis by a node; `node` is the name of the node's first output."""

    node: str
    op_type: str
    axis: Axis


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that appear on exactly the same axes and values, so that they can be ranked against one another.

    No value loses all its channels as long as every group keeps one; which groups need not is in `Channels.lasting`.
    `channels` are the labels, ascending. Producers make the channels (output axis of a Conv, Gemm …),
    followers carry them (biases, BatchNormalization, depthwise Conv …), consumers mix them by a weight
    and can compensate for what is gone.
    """

    name: str
    channels: tuple[int, ...]
    producers: tuple[Site, ...]
    followers: tuple[Site, ...]
    consumers: tuple[Site, ...]

    def without(self, removed: frozenset[int], gone: Collection[str]) -> "ChannelGroup":
        """Return the group without these labels, and without what used the weights that are gone."""

        def left(sites: tuple[Site, ...]) -> tuple[Site, ...]:
            return tuple(site for site in sites if site.axis.weight not in gone)

        channels = tuple(label for label in self.channels if label not in removed)
        return ChannelGroup(self.name, channels, left(self.producers), left(self.followers), left(self.consumers))


@dataclass(frozen=True)
class Frozen:
    """A node that fixed the channels it touches, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Labels:
    """The labels of one value: they vary along at most one axis.

    `shape` is the traced shape of the value; `ids` has `shape[axis]` labels (0 = fixed), or is empty
    with `axis` None where every channel is fixed.
    """

    shape: tuple[int, ...]
    axis: int | None
    ids: np.ndarray

    def without(self, removed: frozenset[int]) -> "Labels":
        """Return the labels of the value that has lost these."""
        if self.axis is None:
            return self
        ids = self.ids[~np.isin(self.ids, list(removed))]
        shape = (*self.shape[: self.axis], len(ids), *self.shape[self.axis + 1 :])
        return Labels(shape, self.axis, ids) if ids.any() or not len(ids) else Labels(shape, None, ids[:0])


@dataclass(frozen=True)
class Channels:
    """The result of coupling: labels of every weight axis and value, the groups, and what was frozen.

    `integers` are the traced small integers, which say what computed shapes were before anything is removed.
    `lasting` says of every group why it must keep a channel, or "" where all of them may go; `together` of some groups
    which others serve nothing any more where all of it goes.
    """

    labels: Mapping[Axis, np.ndarray]
    values: Mapping[str, Labels]
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    integers: Mapping[str, np.ndarray] = field(default_factory=dict)
    lasting: Mapping[str, str] = field(default_factory=dict)
    together: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def removable(self) -> frozenset[str]:
        """The groups all of whose channels may go, by name."""
        return frozenset(name for name, reason in self.lasting.items() if not reason)

    def without(self, removed: frozenset[int]) -> "Channels":
        """Return the channels of the network that has lost these labels.

        What has no channel left is gone, weights and values alike. `integers` stay: they are of the original, which
        is what is cut.
        """
        left = {axis: ids[~np.isin(ids, list(removed))] for axis, ids in self.labels.items()}
        gone = {axis.weight for axis, ids in left.items() if not len(ids)}
        narrow = (group.without(removed, gone) for group in self.groups)
        groups = tuple(group for group in narrow if group.channels)
        names = {group.name for group in groups}
        values = {name: labels.without(removed) for name, labels in self.values.items()}
        return replace(
            self,
            labels={axis: ids for axis, ids in left.items() if axis.weight not in gone and ids.any()},
            values={name: each for name, each in values.items() if each.axis is None or len(each.ids)},
            groups=groups,
            lasting={name: reason for name, reason in self.lasting.items() if name in names},
            together={n: others & names for n, others in self.together.items() if n in names and others & names},
        )
