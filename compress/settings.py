"""How to prune: the options, as one frozen object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibrate.preprocess import Preprocess

MetricFunction = Callable[[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray | None], float]
AUTO = "auto"
COMPENSATIONS = ("asymmetric", "symmetric", "none")


@dataclass(frozen=True)
class Options:
    """How to prune; the defaults suit most models.

    `shapes` states sizes that inputs leave free, by input name; `exclude` and the keys of `max_width_ratio` are shell
    patterns of node names. `round_to` makes every width a multiple: of a number, or with AUTO of what suits the machine
    (the default where latency is a target or a profile given, else 1). `threads` and `provider` are how ONNX Runtime
    runs where latency is measured; with `profile`, a file that `compress profile` wrote, latency is that of another
    machine. `max_drop` is how much of the accuracy may be lost (0.01 is one point), see `compress.drop`; `metric` what
    stands in for accuracy, a function or "module:function", see `compress.metric`. `refine` is the number of steps of
    gradient descent after the closed form. `jobs` processes and a `checkpoint` file serve searches that try many
    candidates; `ray` is the address of a Ray cluster that makes the statistics and tries the candidates instead.

    For comparison: `criterion` and `search` name what ranks channels and chooses widths; `compensation` "symmetric" is
    CaP's own (every consumer is fitted to its own output, by the statistics of the original network), and "none" keeps
    the plain slices.
    """

    preprocess: Preprocess | None = None
    samples: int | None = None
    labels_file: str | Path | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    keep_batchnorm: bool = False
    max_drop: float | None = None
    metric: MetricFunction | str | None = None
    criterion: str = "cap"
    search: str = "lagrange"
    compensation: str = "asymmetric"
    refine: int = 0
    exclude: Sequence[str] = ()
    max_width_ratio: Mapping[str, float] | None = None
    round_to: int | str | None = None
    threads: int = 1
    provider: str = "cpu"
    profile: str | Path | None = None
    jobs: int = 1
    ray: str | None = None
    checkpoint: str | Path | None = None
    seed: int = 0
    device: str = "cpu"
