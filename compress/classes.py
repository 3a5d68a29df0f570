"""Class scores and class labels: which output holds the scores, and whether labels are among the classes."""

from collections.abc import Mapping

import numpy as np

from calibrate.images import show
from calibrate.source import one_integer_each
from compress.errors import OptionError

MOST_CLASSES = 100_000


def score_outputs(outputs: Mapping[str, np.ndarray], samples: int) -> tuple[str, ...]:
    """Return the names of the outputs that look like class scores: floats, one vector of 2 or more per sample."""
    return tuple(name for name, value in outputs.items() if _is_scores(value, samples))


def score_output(outputs: Mapping[str, np.ndarray], samples: int, asked: str | None = None) -> str | None:
    """Return the output that is asked for, or the only one with class scores; None where none or several have.

    Raises OptionError where the one that is asked for holds none.
    """
    if asked is not None and (asked not in outputs or not _is_scores(outputs[asked], samples)):
        shape = f" (shape {outputs[asked].shape})" if asked in outputs else ""
        raise OptionError(f"output {asked!r}{shape} does not hold one vector of class scores per sample")
    found = (asked,) if asked is not None else score_outputs(outputs, samples)
    return found[0] if len(found) == 1 else None


def _is_scores(value: np.ndarray, samples: int) -> bool:
    return value.dtype.kind == "f" and value.ndim == 2 and len(value) == samples and 2 <= value.shape[1] <= MOST_CLASSES


def no_classes(labels: np.ndarray, classes: int) -> str:
    """Return why labels are not one of 0…classes − 1 per sample, in words; "" where they are."""
    if not one_integer_each(labels):
        found = f"labels ({labels.dtype} {show((None, *labels.shape[1:]))})"
        return f"{found} that are no classes, one integer per sample, need a metric or loss of your own"
    outside = labels[(labels < 0) | (labels >= classes)]
    return f"label {outside[0]} is not one of the {classes} classes that the model scores" if outside.size else ""


def top_class(scores: np.ndarray) -> np.ndarray:
    """Return the class with the largest score per row of N×K; rows with a NaN have none (NaN, equal to nothing)."""
    return np.where(np.isnan(scores).any(1), np.nan, scores.argmax(1))


def right_answers(scores: np.ndarray, labels: np.ndarray) -> int:
    """Return how many rows of N×K have their largest score at the label; OptionError for labels that are no classes."""
    if reason := no_classes(labels, scores.shape[1]):
        raise OptionError(reason)
    return int((top_class(scores) == labels).sum())
