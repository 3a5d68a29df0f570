"""FRS: how much of the prediction flows back through a channel (arXiv 2002.09958 §3; METHOD §6).

With R the layer-wise relevance (`calibrate.relevance`) of a feature map, n(c) the images that the network itself puts
in class c, and |S| taken over classes that occur,

    score(k) = | mean over c ∈ S of ( mean over the images of c of ( mean over positions of R_k ) ) |

divided by the L2 norm of the layer's scores. A group that several layers make adds their scores.
"""

import numpy as np

from calibrate.eliminate import Curve
from calibrate.relevance import channel_relevance
from compress.criteria.readers import by_score
from compress.criteria.table import Evidence, criterion
from graph.channels import ChannelGroup, Channels


@criterion("relevance")
def relevance(evidence: Evidence) -> dict[str, Curve]:
    """Rank channels by relevance, from the classes that the network predicts."""
    channels = evidence.channels
    found = {name: channels.values[name].axis for group in evidence.groups for name in _values(group, channels)}
    axes = {name: axis for name, axis in found.items() if axis}
    stops: dict[str, str] = {}
    means = channel_relevance(
        evidence.model, evidence.source, evidence.fit, axes, chunk=evidence.chunk, stopped=stops.__setitem__
    )
    for node, why in stops.items():
        evidence.note(f"{node}: {why}")
    return by_score(evidence, lambda group: scores(group, channels, means))


def scores(group: ChannelGroup, channels: Channels, means: dict[str, np.ndarray]) -> np.ndarray | None:
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
