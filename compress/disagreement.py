"""The pictures on which two models choose different classes."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrate.source import Source, chunked
from compress.classes import top_class
from compress.measure import Runner, log_probabilities

SHOWN = 12


@dataclass(frozen=True)
class Choice:
    """A class and the probability that the model gives it (softmax of its scores)."""

    number: int
    probability: float


@dataclass(frozen=True)
class Disagreement:
    """One sample: its place in the data, what it shows (uint8 height × width × channels), and both answers."""

    sample: int
    picture: np.ndarray
    original: Choice
    other: Choice
    label: int | None


@dataclass(frozen=True)
class Disagreements:
    """On how many of `samples` the classes differ, and those of them on which the original was surest."""

    count: int
    samples: int
    shown: tuple[Disagreement, ...]


def disagreements(
    original: ir.Model,
    other: ir.Model,
    source: Source,
    indices: np.ndarray,
    scores: str | None,
    batch: int | None = None,
    most: int = SHOWN,
) -> Disagreements | None:
    """Return where the two models choose different classes by the output `scores`; None without it or pictures."""
    if scores is None or not source.pictures(indices[:1]):
        return None
    sized = {} if batch is None else {"batch": batch}
    runners = [Runner(model, **sized) for model in (original, other)]
    found = []
    for rows in chunked(indices, min(runner.batch for runner in runners)):
        with np.errstate(invalid="ignore"):  # infinite scores: such a row has no class
            first, second = (log_probabilities(runner(source, rows)[scores]) for runner in runners)
        apart = np.flatnonzero(top_class(first) != top_class(second))
        found += [(int(rows[i]), _choice(first[i]), _choice(second[i])) for i in apart]
    found.sort(key=lambda entry: (-entry[1].probability, entry[0]))
    shown = found[:most]
    pictures = source.pictures(np.array([sample for sample, _, _ in shown], int))
    classes = source.classes
    return Disagreements(
        len(found),
        len(indices),
        tuple(
            Disagreement(sample, picture, a, b, None if classes is None else int(classes[sample]))
            for (sample, a, b), picture in zip(shown, pictures, strict=True)
        ),
    )


def _choice(row: np.ndarray) -> Choice:
    number = int(row.argmax())
    return Choice(number, float(np.exp(row[number])))
