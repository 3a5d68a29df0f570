"""FRS: how much of the answer flows back through a channel (arXiv 2002.09958; METHOD §6).

With R the layer-wise relevance (`calibrate.relevance`) of a feature map, n(c) the images of class c (by their labels,
or without any by what the network itself says), and S the classes that occur,

    score(k) = | mean over c ∈ S of ( mean over the images of c of ( mean over positions of R_k ) ) |

divided by the L2 norm of the layer's scores. A group that several layers make adds their scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from calibrate.eliminate import Curve
from calibrate.relevance import channel_relevance
from compress.criteria.readers import by_score
from compress.criteria.table import Evidence, criterion
from graph.channels import ChannelGroup, Channels


@criterion("relevance")
def relevance(evidence: Evidence) -> dict[str, Curve]:
    """Rank channels by relevance, from the classes that the network predicts: `prune` does without labels."""
    channels, unlabelled = evidence.channels, replace(evidence.source, labels=None)
    axes = made(evidence.groups, channels)
    found = channel_relevance(evidence.model, unlabelled, evidence.fit, axes, chunk=evidence.chunk, note=evidence.note)
    means = found.means()
    return by_score(evidence, lambda group: scores(group, channels, means))


def made(groups: Sequence[ChannelGroup], channels: Channels) -> dict[str, int]:
    """Return the values that the groups' layers make, with the axis of their channels."""
    found = {name: channels.values[name].axis for group in groups for name in _values(group, channels)}
    return {name: axis for name, axis in found.items() if axis}


def scores(group: ChannelGroup, channels: Channels, means: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the scores of a group's channels from mean relevance by value, None where no relevance came."""
    total = np.zeros(len(group.channels))
    for name in _values(group, channels):
        if name in means:
            ids = channels.values[name].ids
            score = np.abs([means[name][ids == label].mean() if label in ids else 0.0 for label in group.channels])
            total += score / max(float(np.linalg.norm(score)), 1e-30)
    return total if total.any() and np.isfinite(total).all() else None


def _values(group: ChannelGroup, channels: Channels) -> list[str]:
    """Return the values that the group's layers make."""
    sites = group.producers or group.followers
    return sorted({site.node for site in sites if site.node in channels.values})
