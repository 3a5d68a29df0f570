"""More samples out of those that are there. No label is needed: the original network says what belongs to each.

What comes out lies between the samples (Zhang et al., mixup, arXiv 1710.09412) and, for pictures, a little beside them,
in the mirror, and as a camera or a web page would have stored them: as JPEG.
"""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from calibrate.forward import feed, outputs_of
from calibrate.source import Source
from compress.divergence import divergence, energies
from compress.moving import along_samples, flipped, shifted, sides_of
from graph.bridge import TorchModel

MIXED = 0.5  # the most that a sample takes over from another
ALIKE = 0.5  # divergence below which a mirrored sample is one of the same kind; two samples at random are 2 apart
MOVED = 1 / 16  # of a side: the most that a picture is moved
QUALITIES = (50, 96)  # of JPEG, from and below


def augmented(source: Source, among: np.ndarray, mirrored: bool, generator: np.random.Generator) -> Source:
    """Return a source that gives another variant of a sample at each reading.

    Floating inputs are mixed with those of another sample of `among`. Pictures are moved before by a few pixels, and
    half of them `mirrored`; half of those that the source reads in 8 bits have been through JPEG. Integers and flags
    are those of the sample itself.
    """

    def read(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = source.altered(indices, partial(compressed, generator=generator))
        others = source.batch(generator.choice(among, len(indices)))
        share = generator.uniform(0, MIXED, len(indices))
        turned = generator.random(len(indices)) < (0.5 if mirrored else 0)
        moved = generator.uniform(-MOVED, MOVED, (2, len(indices)))
        for name, value in batch.items():
            if (sides := sides_of(value)) is not None:
                picture = flipped(value, sides[1], turned)
                for side, shares in zip(sides, moved, strict=True):
                    picture = shifted(picture, side, np.rint(shares * value.shape[side]).astype(int))
                batch[name] = picture
        return {name: _mixed(value, others[name], share) for name, value in batch.items()}

    return replace(source, read=read)


def compressed(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a picture (uint8 height × width × channels) as it is or, in half of the cases, out of a JPEG file."""
    stays, quality = generator.random() < 0.5, int(generator.integers(*QUALITIES))
    grey = picture.shape[2] == 1
    if stays or not (grey or picture.shape[2] == 3):
        return picture
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(picture.shape)


def bears_mirrors(model: TorchModel, source: Source, indices: np.ndarray) -> bool:
    """Say whether the network's outputs for pictures and their mirrors are alike: for digits they are not.

    True as well for inputs that are no pictures, which are not mirrored.
    """
    batch = source.batch(indices)
    mirrored = {
        name: value if (sides := sides_of(value)) is None else np.flip(value, sides[1]) for name, value in batch.items()
    }
    with torch.no_grad():
        first, second = (outputs_of(model, feed(model, _always(each, source), indices)) for each in (batch, mirrored))
        return float(divergence(first, second, energies(first)).mean()) < ALIKE


def _always(batch: dict[str, np.ndarray], source: Source) -> Source:
    return replace(source, read=lambda indices: batch)


def _mixed(value: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f" or value.ndim == 0:
        return value
    weight = along_samples(share, value).astype(value.dtype)
    return np.asarray(value + weight * (other - value))
