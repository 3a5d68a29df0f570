"""What a network in training is worth: its loss and its answers on samples kept apart."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from calibrate.forward import Env, feed
from calibrate.source import Source, chunked
from compress.classes import no_classes, right_answers, top_class
from compress.errors import OptionError
from compress.metric import Collected, Metric
from compress.training.objective import Objective, labels_of, references
from graph.bridge import TorchModel


@dataclass(frozen=True)
class Figures:
    """What a network is worth.

    `loss` is the mean that training makes smaller, `top1` the share of right answers where the labels are classes,
    `agreement` that of answers which are the original's, where that ran too; `metric` is the user's.
    """

    loss: float
    top1: float | None = None
    agreement: float | None = None
    metric: float | None = None


class Runs(Protocol):
    """A network in training, as far as it matters here (`compress.training.network`)."""

    @property
    def torch(self) -> TorchModel:
        """The torch form."""
        ...

    def run(self, inputs: Env, *, training: bool) -> dict[str, Tensor]:
        """Return the outputs by name."""
        ...


@torch.no_grad()
def evaluate(
    network: Runs,
    source: Source,
    indices: np.ndarray,
    objective: Objective,
    *,
    original: TorchModel,
    metric: Metric | None,
    chunk: int,
    batch: int | None,
) -> Figures:
    """Return the figures of a network on these samples, run as it will run when it is finished.

    `chunk` samples run at a time, and `batch` is how many the model insists on, None where that is free. The
    original runs only where the objective or the metric asks for it.
    Raises OptionError where there are no samples, for labels that are no classes where nothing else takes them,
    and for mistakes in functions of the user's.
    """
    if not len(indices):
        raise OptionError("no samples to measure on")
    labels = None if source.labels is None else source.labels[indices]
    objective.check(labels)
    answers = _are_answers(labels, objective, metric)
    asked = objective.needs_references or metric is not None
    collected = None if metric is None else Collected(metric, len(indices))
    loss, right, agreeing = 0.0, 0, 0
    for rows in chunked(indices, chunk):
        fed = rows if batch is None else np.pad(rows, (0, batch - len(rows)), "edge")
        inputs = feed(network.torch, source, fed)
        outputs = _without_filling(network.run(inputs, training=False), len(rows), len(fed))
        expected = _without_filling(references(original, inputs), len(rows), len(fed)) if asked else None
        loss += len(rows) * float(objective(outputs, expected, labels_of(source, rows, network.torch.device)))
        if objective.scores is not None:
            scores = _array(outputs[objective.scores])
            right += right_answers(scores, source.labels[rows]) if answers and source.labels is not None else 0
            if expected is not None:
                agreeing += int((top_class(scores) == top_class(_array(expected[objective.scores]))).sum())
        if collected is not None and expected is not None:
            collected.add(*({name: _array(value) for name, value in each.items()} for each in (outputs, expected)))
    return Figures(
        loss / len(indices),
        right / len(indices) if answers else None,
        agreeing / len(indices) if asked and objective.scores is not None else None,
        None if collected is None else collected.worth_of_model(labels),
    )


def _are_answers(labels: np.ndarray | None, objective: Objective, metric: Metric | None) -> bool:
    """Whether the labels say which class is right; OptionError where they do not, and nothing else takes them."""
    if labels is None or objective.scores is None:
        return False
    reason = no_classes(labels, objective.classes)
    if reason and objective.own is None and metric is None:
        raise OptionError(reason)
    return not reason


def _without_filling(outputs: dict[str, Tensor], samples: int, fed: int) -> dict[str, Tensor]:
    """Return the outputs of the samples themselves, where a fixed batch was filled up."""
    if samples == fed:
        return outputs
    return {name: value[:samples] if value.dim() and len(value) == fed else value for name, value in outputs.items()}


def _array(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.cpu().numpy()
    return array
