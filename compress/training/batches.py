"""The samples of an epoch: in which order, in which batches, and how they are varied.

Everything that is drawn is a function of seed, epoch and sample alone. So training that is resumed, or dealt out to
several processes, draws what it would have drawn without.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from calibrate.source import chunked
from compress.errors import OptionError
from compress.moving import flipped, shifted, sides_of

MOVED = 1 / 8  # of a side: the most that a picture is moved; 4 pixels of CIFAR's 32, as is usual there
_ORDER, _VARIED = 0, 1  # streams of random numbers


def order(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the samples in the order of an epoch."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(indices)


def batches(indices: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of an epoch, of `size` samples each.

    The samples that fill none are left out this time, unless there are no others.
    """
    found = chunked(order(indices, seed, epoch), size)
    return found[:-1] if len(found) > 1 and len(found[-1]) < size else found


Preset = Callable[[np.ndarray, tuple[int, int], np.ndarray], np.ndarray]
"""Varies N pictures, given their axes of height and width, and N×3 numbers of [0, 1) to draw from."""


def _flip(pictures: np.ndarray, sides: tuple[int, int], drawn: np.ndarray) -> np.ndarray:
    """Mirror half of the pictures, left to right."""
    return flipped(pictures, sides[1], drawn[:, 0] < 0.5)


def _crop(pictures: np.ndarray, sides: tuple[int, int], drawn: np.ndarray) -> np.ndarray:
    """Move each picture by whole pixels, as cutting it out of one with a wider edge does; all moves are as likely."""
    for side, share in zip(sides, drawn.T[1:], strict=True):
        most = round(pictures.shape[side] * MOVED)
        pictures = shifted(pictures, side, np.floor(share * (2 * most + 1)).astype(int) - most)
    return pictures


PRESETS: dict[str, Preset] = {"flip": _flip, "crop": _crop}


def check_presets(presets: Sequence[str]) -> None:
    """Raise OptionError for a name that is none of PRESETS."""
    for name in presets:
        if name not in PRESETS:
            raise OptionError(f"--augment {name!r} is not known: take one or several of {', '.join(PRESETS)}")


def augmented(
    batch: Mapping[str, np.ndarray], presets: Sequence[str], seed: int, epoch: int, indices: np.ndarray
) -> dict[str, np.ndarray]:
    """Return a batch by input name with its pictures varied by the presets; `indices` are its samples' in the source.

    All pictures of a sample are varied alike; its other inputs and its labels stay. Raises OptionError for an unknown
    preset, and where no input holds pictures.
    """
    check_presets(presets)
    varied = dict(batch)
    if not presets or not len(indices):
        return varied
    pictures = {name: sides for name, value in batch.items() if (sides := sides_of(value)) is not None}
    if not pictures:
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
        raise OptionError(f"--augment {presets[0]}: no input holds pictures ({found}): leave it out")
    # the numbers of a sample are the same however long the row that they are taken from
    drawn = np.random.default_rng([seed, epoch, _VARIED]).random((int(indices.max()) + 1, 3))[indices]
    for name, sides in pictures.items():
        for preset in PRESETS:  # in this order, whatever the order in which they were named
            if preset in presets:
                varied[name] = PRESETS[preset](varied[name], sides, drawn)
    return varied
