"""The curve of every group: the order in which its channels go, and the loss at every width (METHOD §3)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from calibrate.consumer import Consumer
from calibrate.eliminate import Curve, Reader, eliminate
from calibrate.least_squares import SingularSystem
from calibrate.moments import Moments
from graph.bridge import TorchModel
from graph.channels import Axis, ChannelGroup, Channels


def readers(
    group: ChannelGroup,
    channels: Channels,
    consumers: Mapping[str, Consumer],
    moments: Mapping[str, Moments],
    model: TorchModel,
) -> list[Reader]:
    """Return the least-squares problems of all consumers of a group that have statistics."""
    found = []
    for site in group.consumers:
        consumer = consumers.get(site.node)
        if consumer is None or site.node not in moments or site.axis != Axis(consumer.weight, consumer.input_axis):
            continue
        ids = channels.labels[site.axis]
        columns = [consumer.columns(np.flatnonzero(ids == label)) for label in group.channels]
        statistics = moments[site.node]
        bias = model.parameters[consumer.bias] if consumer.bias else None
        w = consumer.matrix(model.parameters[consumer.weight], bias)
        # an output that (nearly) never varies would have its error weighted without bound
        scale = 1.0 / max(statistics.variance(), 1e-6 * float(statistics.yy.sum()), 1e-30)
        found += [Reader(statistics.xx[g], w[g], columns, scale) for g in range(len(w))]
    return found


def curves(
    groups: Sequence[ChannelGroup],
    channels: Channels,
    consumers: Mapping[str, Consumer],
    moments: Mapping[str, Moments],
    model: TorchModel,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Curve]:
    """Return the curve of every group that has a consumer with finite statistics; the loss is error ÷ output energy."""
    found = {}
    for group in groups:
        problems = readers(group, channels, consumers, moments, model)
        if problems:
            with suppress(SingularSystem):  # statistics that overflowed; the group is left to another ranking
                found[group.name] = eliminate(problems, len(group.channels))
        advance()
    return found
