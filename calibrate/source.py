"""A source of calibration samples, and the table of the kinds of sources."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibrate.errors import DataError
from calibrate.images import Alter, show
from calibrate.preprocess import Preprocess
from graph.inputs import InputSpec


@dataclass(frozen=True)
class Source:
    """Samples ready for the model, read when they are asked for.

    `labels`, where known, are numbers whose first axis is that of the samples: class indices, or whatever a metric or
    loss of the user's takes. `description` is a phrase for the report ("512 images of calibration/"); `notes` are
    sentences for it: what was assumed because it was not said.
    `read_altered`, for samples that are pictures, changes each of them first.
    """

    count: int
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    description: str
    labels: np.ndarray | None = None
    generated: bool = False
    notes: tuple[str, ...] = ()
    read_altered: Callable[[np.ndarray, Alter], dict[str, np.ndarray]] | None = None

    def __len__(self) -> int:
        """Return how many samples there are."""
        return self.count

    @property
    def classes(self) -> np.ndarray | None:
        """The labels where they are one integer per sample; None for others, or where none are known."""
        return self.labels if self.labels is not None and one_integer_each(self.labels) else None

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return these samples by input name, in this order, in the model's dtypes and layout.

        A model with a fixed batch size has to be fed that many indices at a time. Raises IndexError for an
        index outside 0…len − 1 and DataError for a sample that cannot be read.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= self.count)]
        if outside.size:
            raise IndexError(f"sample {outside[0]} of a source with {self.count}")
        return self.read(wanted)

    def altered(self, indices: np.ndarray, alter: Alter) -> dict[str, np.ndarray]:
        """Return these samples with each picture changed first; as they are where they are no pictures."""
        return self.batch(indices) if self.read_altered is None else self.read_altered(indices, alter)

    def pictures(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return these samples as people see them, uint8 height × width × channels; none where they are no pictures."""
        seen: list[np.ndarray] = []

        def keep(picture: np.ndarray) -> np.ndarray:
            seen.append(picture)
            return picture

        if self.read_altered is not None:
            self.read_altered(np.asarray(indices, np.int64).reshape(-1), keep)
        return tuple(seen)


@dataclass(frozen=True)
class Request:
    """What `open_source` was asked for, with the path or array or name as it came in `spec`."""

    spec: object
    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess
    samples: int | None
    seed: int
    labels_file: Path | None


Accepts = Callable[[object], bool]
Opener = Callable[[Request], Source]

KINDS: dict[str, tuple[Accepts, Opener]] = {}


def opens(kind: str, accepts: Accepts) -> Callable[[Opener], Opener]:
    """Enter a function into the table of sources: it opens every `spec` that `accepts` is true of.

    The specs that two kinds accept must not overlap.
    """

    def enter(opener: Opener) -> Opener:
        if kind in KINDS:
            raise ValueError(f"two functions open {kind!r}")
        KINDS[kind] = (accepts, opener)
        return opener

    return enter


def one_integer_each(labels: np.ndarray) -> bool:
    """Say whether labels may be class indices: integers, one per sample."""
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def chunked(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Split sample indices into chunks of at most `size`."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def wanted_inputs(inputs: tuple[InputSpec, ...]) -> str:
    """Write what the model wants, for the messages: x float32 N×3×32×32."""
    return ", ".join(f"{spec.name} {np.dtype(spec.dtype)} {show(spec.shape)}" for spec in inputs)


def only_input(inputs: tuple[InputSpec, ...], found: str) -> InputSpec:
    """Return the single input of the model; DataError if there are several and `found` serves one only."""
    if len(inputs) != 1:
        raise DataError(
            f"{found} serves one input, the model has {len(inputs)} ({wanted_inputs(inputs)}):"
            " give them all by name in an .npz or by module:function"
        )
    return inputs[0]
