"""The least-squares problems of a group's consumers, and curves made from them."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from calibrate.along import along
from calibrate.eliminate import Curve, Reader
from calibrate.least_squares import SingularSystem
from compress.criteria.table import Evidence
from graph.channels import Axis, ChannelGroup


def readers(group: ChannelGroup, evidence: Evidence) -> list[Reader]:
    """Return the least-squares problems of all consumers of a group that have statistics."""
    found = []
    parameters = evidence.model.parameters
    for site in group.consumers:
        consumer, statistics = evidence.consumers.get(site.node), evidence.moments.get(site.node)
        if consumer is None or statistics is None or site.axis != Axis(consumer.weight, consumer.input_axis):
            continue
        ids = evidence.channels.labels[site.axis]
        columns = [consumer.columns(np.flatnonzero(ids == label)) for label in group.channels]
        w = consumer.matrix(parameters[consumer.weight], parameters[consumer.bias] if consumer.bias else None)
        # an output that (nearly) never varies would have its error weighted without bound
        scale = 1.0 / max(statistics.variance(), 1e-6 * float(statistics.yy.sum()), 1e-30)
        found += [Reader(statistics.xx[g], w[g], columns, scale) for g in range(len(w))]
    return found


def each(evidence: Evidence, curve: Callable[[Sequence[Reader], ChannelGroup], Curve | None]) -> dict[str, Curve]:
    """Return the curve of every group that has a consumer with finite statistics; the loss is error ÷ output energy."""
    found = {}
    for group in evidence.groups:
        problems = readers(group, evidence)
        if problems:
            with suppress(SingularSystem):  # statistics that overflowed; the group is left to another ranking
                made = curve(problems, group)
                if made is not None:
                    found[group.name] = made
        evidence.advance()
    return found


def by_score(evidence: Evidence, score: Callable[[ChannelGroup], np.ndarray | None]) -> dict[str, Curve]:
    """Return curves whose channels go from the least score to the largest; of equals, the first.

    A group whose score is None is left to another ranking.
    """

    def curve(problems: Sequence[Reader], group: ChannelGroup) -> Curve | None:
        scores = score(group)
        return None if scores is None else along(problems, np.argsort(scores, kind="stable"))

    return each(evidence, curve)
