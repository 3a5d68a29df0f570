"""The order of channels by the size of the weights that make them: for groups whose consumers cannot be fitted."""

import numpy as np

from calibrate.eliminate import Curve
from graph.bridge import TorchModel
from graph.channels import ChannelGroup, Channels


def magnitude(group: ChannelGroup, channels: Channels, model: TorchModel) -> Curve:
    """Return the curve of a group by L2 norm: the share of the producers' squared weights that is gone."""
    energy = np.zeros(len(group.channels))
    for site in group.producers or group.followers:
        weight = model.parameters[site.axis.weight].detach().double().cpu().numpy()
        if not np.issubdtype(weight.dtype, np.floating):
            continue
        each = (np.moveaxis(weight, site.axis.axis, 0).reshape(weight.shape[site.axis.axis], -1) ** 2).sum(1)
        ids = channels.labels[site.axis]
        total = max(float(each.sum()), 1e-30)
        energy += [float(each[ids == label].sum()) / total for label in group.channels]
    order = np.argsort(energy, kind="stable")
    share = np.cumsum(energy[order]) / max(float(energy.sum()), 1e-30)
    return Curve(order, np.concatenate([[0.0], share]))
