"""A measure of the user's own, for tasks that are not classification: --metric module:function.

    def metric(outputs, references, labels): return a number, larger is better

`outputs` and `references` map the names of the outputs to arrays of all samples at once, of the model in question and
of the original; `labels` are the samples' labels or None. What the original itself is worth is
metric(references, references, labels).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.errors import OptionError
from compress.settings import MetricFunction
from compress.users_code import load_function, users_code

Outputs = dict[str, np.ndarray]

MOST_BYTES = 4 << 30  # of the outputs of all samples, of two models


@dataclass(frozen=True)
class Metric:
    """A function of the user's and the name to show for it."""

    name: str
    function: MetricFunction

    def __call__(
        self, outputs: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], labels: np.ndarray | None
    ) -> float:
        """Return what the outputs are worth; OptionError for whatever goes wrong in the function."""
        with users_code(f"metric {self.name}"):
            value = float(self.function(dict(outputs), dict(references), labels))
        if not np.isfinite(value):
            raise OptionError(f"metric {self.name}: it returned {value}: give a finite number, larger is better")
        return value + 0.0  # -0.0, an error's negative where there is none, becomes 0


class Collected:
    """The outputs of two models, batch by batch, until the metric is asked; they must fit in memory."""

    def __init__(self, metric: Metric, samples: int) -> None:
        """Start with nothing; `samples` are to come."""
        self._metric, self._samples = metric, samples
        self._parts: tuple[list[Outputs], list[Outputs]] = ([], [])

    def add(self, outputs: Outputs, references: Outputs) -> None:
        """Take one batch of the model and of the original. Raises OptionError where all of them would be too much."""
        if not self._parts[0]:
            size = sum(array.nbytes for array in (*outputs.values(), *references.values()))
            most = size * self._samples / max((len(array) for array in outputs.values() if array.ndim), default=1)
            if most > MOST_BYTES:
                raise OptionError(
                    f"metric {self._metric.name}: the outputs of {self._samples} samples take {most / 2**30:.0f} GiB, "
                    "and it sees them all at once: use fewer --samples"
                )
        for part, batch in zip(self._parts, (outputs, references), strict=True):
            part.append(batch)

    def worth(self, labels: np.ndarray | None) -> tuple[float, float]:
        """Return what the metric says of the original and of the model."""
        references = _joined(self._parts[1])
        return self._metric(references, references, labels), self.worth_of_model(labels)

    def worth_of_model(self, labels: np.ndarray | None) -> float:
        """Return what the metric says of the model alone."""
        outputs, references = map(_joined, self._parts)
        return self._metric(outputs, references, labels)


def _joined(batches: Sequence[Outputs]) -> Outputs:
    return {name: np.concatenate([np.atleast_1d(batch[name]) for batch in batches]) for name in batches[0]}


def load_metric(spec: MetricFunction | str | None) -> Metric | None:
    """Return the metric that "module:function" names, or that a function is; OptionError where it cannot be had."""
    return None if spec is None else Metric(*load_function(spec, "metric"))
