"""Pictures, height × width × channels in 8 bits, and their way into one input of a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from calibrate.errors import DataError
from calibrate.preprocess import CROP_MARGIN, Layout, Preprocess
from graph.inputs import InputSpec

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name
CACHE_BYTES = 256 << 20  # pictures kept decoded between passes; the rest is read again
MEASURED_IMAGES = 64  # enough for a mean and a variance per channel

Draw = Callable[[int], np.ndarray]
"""Returns the picture of a sample: uint8 height × width × channels."""

Alter = Callable[[np.ndarray], np.ndarray]
"""Returns another picture of the same size."""


class Read(Protocol):
    """Returns the model's input for sample indices; `alter` changes each picture before."""

    def __call__(self, indices: np.ndarray, alter: Alter | None = None) -> np.ndarray:
        """Return a batch in the model's layout and dtype."""
        ...


@dataclass(frozen=True)
class ImageInput:
    """One input of the model that takes pictures; height and width are None where the model leaves them free."""

    name: str
    layout: Layout
    channels: int
    height: int | None
    width: int | None
    dtype: np.dtype


def image_input(spec: InputSpec, preprocess: Preprocess) -> ImageInput:
    """Read the input's shape as that of a batch of pictures.

    The layout is the preprocessing's, else the one whose channel axis has 1, 3 or 4 entries, else NCHW. A size
    given by the preprocessing fills what the model leaves free. Raises DataError where rank, channels or
    size do not fit.
    """
    shape = spec.shape
    if len(shape) != 4:
        raise DataError(f"input {spec.name} {show(shape)} takes no pictures: they need 4 axes; give arrays (.npz)")
    layout = preprocess.layout or _infer_layout(shape)
    _, channels, height, width = shape if layout == "NCHW" else (shape[0], shape[3], shape[1], shape[2])
    for given, wanted, side in zip(preprocess.size or (), (height, width), ("high", "wide"), strict=False):
        if wanted not in (None, given):
            raise DataError(f"pictures of {given} pixels {side} were asked for, but input {spec.name} wants {wanted}")
    if preprocess.size is not None:
        height, width = preprocess.size
    channels = 3 if channels is None else channels
    for name, numbers in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(numbers) not in (1, channels):
            raise DataError(
                f"preprocessing has {len(numbers)} numbers for {name}, but input {spec.name} {show(shape)} has"
                f" {channels} channel(s): give --{name} with 1 or {channels}, or --layout"
            )
    return ImageInput(spec.name, layout, channels, height, width, np.dtype(spec.dtype))


def _infer_layout(shape: tuple[int | None, ...]) -> Layout:
    return "NHWC" if shape[1] not in MODES and shape[3] in MODES else "NCHW"


def show(shape: tuple[int | None, ...]) -> str:
    """Write a shape as the messages do: N×3×?×?; N is a first axis that is free."""
    sides = ["?" if n is None else str(n) for n in shape]
    return "×".join(["N", *sides[1:]] if shape[:1] == (None,) else sides) or "scalar"


def open_image(file: str | BinaryIO, where: str) -> Image.Image:
    """Open a picture, reading no more than its header; DataError names `where` it lies if that fails."""
    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: no readable picture ({_reason(error)}): remove or replace it") from error


def fit_image(image: Image.Image, target: ImageInput, preprocess: Preprocess, where: str) -> np.ndarray:
    """Bring a picture to the colours and the size that the input wants: uint8 height × width × channels.

    A side that neither the model nor the preprocessing fixes stays as it is. Raises DataError, naming `where`
    the picture lies, if its data are broken or hold more than 8 bits.
    """
    if image.mode[0] in "IF":
        raise DataError(
            f"{where}: pixels of more than 8 bits (mode {image.mode}): save it with 8, or give arrays (.npz)"
        )
    if target.channels not in MODES:
        raise DataError(f"{where}: a picture has 1, 3 or 4 channels, input {target.name} wants {target.channels}")
    try:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        image = image.convert(MODES[target.channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: no readable picture ({_reason(error)}): remove or replace it") from error
    size = (target.width or image.width, target.height or image.height)
    if image.size != size:
        image = _resize(image, size, CROP_MARGIN if preprocess.fit == "crop" else None)
    return np.asarray(image).reshape(size[1], size[0], target.channels)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].partition(" <_io")[0] if str(error) else type(error).__name__


def _resize(image: Image.Image, size: tuple[int, int], margin: float | None) -> Image.Image:
    if margin is None:
        return image.resize(size, Image.Resampling.BILINEAR)
    ratio = margin * max(size[0] / image.width, size[1] / image.height)
    wide, high = (max(side, round(ratio * old)) for side, old in zip(size, image.size, strict=True))
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size[0], top + size[1]))


def normalise(images: np.ndarray, target: ImageInput, preprocess: Preprocess) -> np.ndarray:
    """Turn pictures (uint8 N×H×W×C) into the model's input: its layout and dtype, (pixel · scale − mean) / std.

    An integer dtype gets the values rounded and clipped to its range.
    """
    if preprocess.scale is None:
        raise ValueError("the scale is not settled: call settle() first")
    pixels = images[..., ::-1] if preprocess.bgr else images
    mean, std = (np.asarray(numbers, np.float32) for numbers in (preprocess.mean, preprocess.std))
    values = (pixels.astype(np.float32) * np.float32(preprocess.scale) - mean) / std
    if target.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    if np.issubdtype(target.dtype, np.integer):
        limits = np.iinfo(target.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.ascontiguousarray(values, target.dtype)


def settle(preprocess: Preprocess, target: ImageInput, count: int, draw: Draw) -> tuple[Preprocess, tuple[str, ...]]:
    """Fill in a scale that is not known from the pictures themselves, with a sentence for the report.

    Zero mean and unit variance per channel lie within a factor of about two of what `imagenet`, `cifar10` and
    `tf` give; a model trained on 0…255 or 0…1 is not met.
    """
    if preprocess.scale is not None:
        return preprocess, ()
    if np.issubdtype(target.dtype, np.integer):
        return replace(preprocess, scale=1.0), ()
    sample = np.unique(np.linspace(0, count - 1, MEASURED_IMAGES).astype(int))
    pixels = np.concatenate([draw(int(index)).reshape(-1, target.channels) for index in sample]) / 255
    if preprocess.bgr:
        pixels = pixels[:, ::-1]
    mean, std = pixels.mean(0), np.maximum(pixels.std(0), 1 / 255)
    note = (
        f"the preprocessing of input {target.name} is not known: pictures were standardised to zero mean and unit"
        " variance per channel; give --preprocess for better results"
    )
    return replace(preprocess, scale=1 / 255, mean=tuple(mean.tolist()), std=tuple(std.tolist())), (note,)


def batches(count: int, draw: Draw, target: ImageInput, preprocess: Preprocess) -> tuple[Read, tuple[str, ...]]:
    """Return a function from sample indices to the model's input, and sentences for the report.

    Pictures are drawn when asked for; as many as fit into `CACHE_BYTES` are kept for the next pass.
    """
    first = draw(0)
    cached = lru_cache(maxsize=max(1, CACHE_BYTES // first.nbytes))(draw)
    settled, notes = settle(preprocess, target, count, cached)

    def read(indices: np.ndarray, alter: Alter | None = None) -> np.ndarray:
        images = [cached(int(index)) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != first.shape:
                raise DataError(
                    f"sample {index} is a picture of {show(image.shape)}, the first one of {show(first.shape)}, and"
                    f" input {target.name} fixes no size: give --resize HEIGHTxWIDTH"
                )
        if alter is not None:
            images = [alter(image) for image in images]
        empty = np.empty((0, *first.shape), np.uint8)
        return normalise(np.stack(images) if images else empty, target, settled)

    return read, notes
