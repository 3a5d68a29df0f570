"""Batches of pictures as the model takes them, N×C×H×W or N×H×W×C, and moving what is on them."""

import numpy as np

LEAST_SIDE = 8  # of a picture
CHANNELS = frozenset({1, 3, 4})


def sides_of(value: np.ndarray) -> tuple[int, int] | None:
    """Return the axes of height and width of a batch of pictures, N×C×H×W or N×H×W×C; None for other arrays."""
    if value.ndim != 4:
        return None
    for channels, sides in ((1, (2, 3)), (3, (1, 2))):
        if value.shape[channels] in CHANNELS and min(value.shape[side] for side in sides) >= LEAST_SIDE:
            return sides
    return None


def flipped(value: np.ndarray, side: int, turned: np.ndarray) -> np.ndarray:
    """Return the pictures, those that are `turned` (N flags) the other way round along an axis."""
    return np.where(along_samples(turned, value), np.flip(value, side), value)


def shifted(value: np.ndarray, side: int, steps: np.ndarray) -> np.ndarray:
    """Move each picture along an axis by its number of `steps` (N); what comes in repeats the edge."""
    size = value.shape[side]
    places = np.clip(np.arange(size) + steps[: len(value), None], 0, size - 1)
    rows = np.moveaxis(value, side, 1)[np.arange(len(value))[:, None], places]  # np.take_along_axis is slower by far
    return np.moveaxis(rows, 1, side)


def along_samples(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return one number per sample in the shape that broadcasts over a batch; the first for all, where it holds one."""
    return (values if len(values) == len(batch) else values[:1]).reshape(-1, *[1] * (batch.ndim - 1))
