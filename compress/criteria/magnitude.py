"""The size of the weights that make a channel: the sum of |w|ᵖ over its entries, p = 1 or 2.

A group that several weights make adds their shares, each of its weight's own sum (Li et al., arXiv 1608.08710, has
p = 1 and one weight).
"""

import numpy as np

from calibrate.eliminate import Curve
from compress.criteria.readers import by_score
from compress.criteria.table import Evidence, criterion
from graph.bridge import TorchModel
from graph.channels import ChannelGroup, Channels


@criterion("magnitude-l1")
def magnitude_l1(evidence: Evidence) -> dict[str, Curve]:
    """Rank channels by the L1 norm of the weights that make them."""
    return by_score(evidence, lambda group: norms(group, evidence.channels, evidence.model, 1))


@criterion("magnitude-l2")
def magnitude_l2(evidence: Evidence) -> dict[str, Curve]:
    """Rank channels by the L2 norm of the weights that make them."""
    return by_score(evidence, lambda group: norms(group, evidence.channels, evidence.model, 2))


def norms(group: ChannelGroup, channels: Channels, model: TorchModel, power: int) -> np.ndarray:
    """Return each channel's share of Σ |w|ᵖ over the producers' weights (the followers' where there are none)."""
    shares = np.zeros(len(group.channels))
    for site in group.producers or group.followers:
        weight = model.parameters[site.axis.weight].detach().double().cpu().numpy()
        each = (np.abs(np.moveaxis(weight, site.axis.axis, 0)) ** power).reshape(weight.shape[site.axis.axis], -1)
        ids, sums = channels.labels[site.axis], each.sum(1)
        shares += [float(sums[ids == label].sum()) / max(float(sums.sum()), 1e-30) for label in group.channels]
    return shares


def share(group: ChannelGroup, channels: Channels, model: TorchModel) -> Curve:
    """Return the curve by L2 norm of a group that nothing can be fitted for: the share of squared weights gone."""
    energy = norms(group, channels, model, 2)
    order = np.argsort(energy, kind="stable")
    gone = np.cumsum(energy[order]) / max(float(energy.sum()), 1e-30)
    return Curve(order, np.concatenate([[0.0], gone]))
