"""Small inputs, pictures and samples that the tests of calibration data share."""

import numpy as np
from PIL import Image

from graph.inputs import InputSpec


def spec(*shape, dtype=np.float32, name="x"):
    return InputSpec(name, shape, np.dtype(dtype))


SMALL = [spec(None, 3, 8, 6)]


def flat(value, height=8, width=6):
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def samples(count, seed=0, shape=(3, 8, 6)):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def values(source, indices=None):
    """Return the first number of each sample."""
    batch = source.batch(np.arange(len(source)) if indices is None else indices)
    return [float(sample.ravel()[0]) for sample in batch["x"]]
