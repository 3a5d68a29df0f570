"""Which channels of a group go first: what a criterion is given, and the table of criteria.

A criterion receives the evidence and returns, for every group that it can rank, a curve: the order in which the
channels go, and the loss at every width. Losses of all criteria are those that a least-squares refit leaves, so that
a search can compare groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.consumer import Consumer
from calibrate.eliminate import Curve
from calibrate.moments import Moments
from calibrate.source import Source
from graph.bridge import TorchModel
from graph.channels import ChannelGroup, Channels


@dataclass(frozen=True)
class Evidence:
    """What is known of the original network.

    `consumers` and `moments` are by node, of those that could be measured; `fit` are the samples of `source` to rank
    by, of which `chunk` run at a time; `advance` is called once per group that is done, `note` with sentences for
    the user.
    """

    groups: Sequence[ChannelGroup]
    channels: Channels
    consumers: Mapping[str, Consumer]
    moments: Mapping[str, Moments]
    model: TorchModel
    source: Source
    fit: np.ndarray
    chunk: int
    seed: int = 0
    advance: Callable[[], None] = lambda: None
    note: Callable[[str], None] = lambda sentence: None


Criterion = Callable[[Evidence], dict[str, Curve]]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register a criterion under the name that the command line uses."""

    def register(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"the criterion {name!r} is registered twice")
        CRITERIA[name] = function
        return function

    return register
