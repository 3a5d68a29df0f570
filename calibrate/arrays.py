"""Arrays as a source: .npz, .npy, or arrays in memory; model-ready values, or pictures in 8 bits.

Three layouts are understood:

    arrays by the model's input names                       taken as they are
    images (uint8 N×H×W×C, or values that fit the model)    and labels if known
    jpeg (uint8 bytes of all files), offsets (N + 1)        image i = jpeg[offsets[i]:offsets[i + 1]]; and labels

Labels are N class indices, or for a metric or loss of the user's any numbers with a first axis of N. With fewer
samples than the arrays hold, the first ones are taken.
"""

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from calibrate.errors import DataError
from calibrate.images import MODES, Draw, ImageInput, batches, fit_image, image_input, open_image, show
from calibrate.source import Request, Source, one_integer_each, only_input, opens, wanted_inputs
from graph.inputs import InputSpec, sample_axes

MAGIC = (b"PK", b"\x93NUMPY")  # how .npz and .npy begin; np.load takes anything else for a pickle

Arrays = Mapping[str, np.ndarray]
Read = Callable[[np.ndarray], dict[str, np.ndarray]]


@opens("file", lambda spec: isinstance(spec, Path) and os.path.isfile(spec))
def open_file(request: Request) -> Source:
    """Open an .npz or .npy file; nothing in it is unpickled. Raises DataError if it is neither or does not fit."""
    path = Path(str(request.spec))
    try:
        with path.open("rb") as stream:
            if not stream.peek(6).startswith(MAGIC):
                raise ValueError("it is neither")
            loaded = np.load(stream, allow_pickle=False)
            arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"images": loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: no readable .npz or .npy file ({reason}); pictures go into a folder") from error
    return source_of_arrays(arrays, str(path), request)


@opens("arrays", lambda spec: isinstance(spec, np.ndarray | Mapping))
def open_arrays(request: Request) -> Source:
    """Open arrays in memory: one for a model with one input, or several by name."""
    spec = request.spec
    named = spec if isinstance(spec, Mapping) else {"images": spec}
    return source_of_arrays(
        {str(name): np.asarray(array) for name, array in named.items()}, "the arrays given", request
    )


def source_of_arrays(arrays: Arrays, where: str, request: Request) -> Source:
    """Make a source of arrays in one of the layouts above; `where` they come from goes into the messages.

    Raises DataError for an array that is missing, of a wrong shape or dtype, empty, or not finite.
    """
    if request.labels_file is not None:
        raise DataError(f"{request.labels_file}: a file of labels goes with a folder; arrays carry theirs as 'labels'")
    inputs = request.inputs
    if all(spec.name in arrays for spec in inputs):
        by_name = {spec.name: arrays[spec.name] for spec in inputs}
    elif "images" in arrays:
        by_name = {only_input(inputs, f"{where}: 'images'").name: arrays["images"]}
    elif "jpeg" in arrays and "offsets" in arrays:
        return _source_of_jpeg(arrays, where, request)
    else:
        found = ", ".join(f"{name} {_show(array)}" for name, array in arrays.items()) or "nothing"
        raise DataError(f"{where}: found {found}; the model wants {wanted_inputs(inputs)} (or 'images')")
    if len(inputs) == 1 and _are_pictures(by_name[inputs[0].name], inputs[0]):
        return _source_of_pictures(by_name[inputs[0].name], arrays, where, request)
    return _source_of_values(by_name, arrays, where, request)


def _show(array: np.ndarray) -> str:
    return f"{array.dtype} {show(array.shape)}"


def _are_pictures(array: np.ndarray, spec: InputSpec) -> bool:
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return False
    return np.dtype(spec.dtype) != np.uint8 or not _shape_fits(array.shape, spec, 0)


def _shape_fits(shape: tuple[int, ...], spec: InputSpec, axis: int | None) -> bool:
    return len(shape) == len(spec.shape) and all(
        want in (None, have) or at == axis for at, (have, want) in enumerate(zip(shape, spec.shape, strict=True))
    )


def _labels(arrays: Arrays, count: int, where: str) -> np.ndarray | None:
    labels = arrays.get("labels")
    if labels is None:
        return None
    if labels.shape[:1] != (count,) or labels.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels are {_show(labels)}: give {count} entries, one per sample, in numbers")
    return labels.astype(np.int64) if one_integer_each(labels) else labels


def _taken(held: int, where: str, request: Request) -> int:
    if held == 0:
        raise DataError(f"{where}: no samples in it")
    return held if request.samples is None else min(held, request.samples)


def _source(
    read: Read, held: int, labels: np.ndarray | None, where: str, request: Request, notes: tuple[str, ...] = ()
) -> Source:
    taken = _taken(held, where, request)
    part = f"{taken}" if taken == held else f"the first {taken} of {held}"
    if labels is not None:
        notes += _note_if_sorted(labels, taken, where) if one_integer_each(labels) else ()
        labels = labels[:taken]
    return Source(taken, read, f"{part} samples of {where}", labels, notes=notes)


def _note_if_sorted(labels: np.ndarray, taken: int, where: str) -> tuple[str, ...]:
    """Say so if the first samples hold less than half of the classes that as many random ones would."""
    classes, found = len(np.unique(labels)), len(np.unique(labels[:taken]))
    expected = classes * (1 - (1 - 1 / classes) ** taken)
    if found >= expected / 2:
        return ()
    return (f"{where}: the first {taken} samples hold {found} of {classes} classes: it seems sorted; shuffle it",)


def _source_of_values(by_name: Arrays, arrays: Arrays, where: str, request: Request) -> Source:
    axes = sample_axes(request.inputs)
    for spec in request.inputs:
        _check_values(by_name[spec.name], spec, axes[spec.name], where)
    counts = {name: by_name[name].shape[axis] for name, axis in axes.items() if axis is not None}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: the inputs hold different numbers of samples: {counts}")
    held = next(iter(counts.values()), 1)
    taken = _taken(held, where, request)
    values = {}
    for spec in request.inputs:
        axis, array = axes[spec.name], by_name[spec.name]
        values[spec.name] = array if axis is None else array.take(np.arange(taken), axis)
        _check_finite(values[spec.name], axis, spec.name, where)
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in request.inputs}
    labels = _labels(arrays, held, where) if "labels" not in axes else None

    def read(indices: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: (array if axes[name] is None else array.take(indices, axes[name])).astype(dtypes[name], copy=False)
            for name, array in values.items()
        }

    return _source(read, held, labels, where, request)


def _check_values(array: np.ndarray, spec: InputSpec, axis: int | None, where: str) -> None:
    want = np.dtype(spec.dtype)
    kinds = (np.floating, np.integer)
    castable = array.dtype == want or any(np.issubdtype(array.dtype, k) and np.issubdtype(want, k) for k in kinds)
    if not castable or not _shape_fits(array.shape, spec, axis):
        raise DataError(
            f"{where}: found {_show(array)}, input {wanted_inputs((spec,))} is wanted"
            + ("; pictures are uint8 N×H×W×C" if len(spec.shape) == 4 else "")
        )
    if np.issubdtype(want, np.integer) and array.dtype != want and array.size:
        limits = np.iinfo(want)
        if array.min() < limits.min or array.max() > limits.max:
            raise DataError(f"{where}: values {array.min()}…{array.max()} do not fit input {wanted_inputs((spec,))}")


def _check_finite(array: np.ndarray, axis: int | None, name: str, where: str) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        return
    samples = [array] if axis is None else np.moveaxis(array, axis, 0)
    for index, sample in enumerate(samples):
        if not np.isfinite(sample).all():
            raise DataError(f"{where}: sample {index} of {name} holds NaN or infinity: remove or mend it")


def _source_of_pictures(images: np.ndarray, arrays: Arrays, where: str, request: Request) -> Source:
    spec = only_input(request.inputs, f"{where}: 'images'")
    target = image_input(spec, request.preprocess)
    if images.ndim == 3 and images.shape[2] in (3, 4):  # grey pictures that narrow would be a surprise
        raise DataError(f"{where}: found {_show(images)}, which looks like one picture: give N×H×W×C, here N is 1")
    pictures = images[..., None] if images.ndim == 3 else images
    channels = pictures.shape[3]
    if channels != target.channels and not {channels, target.channels} <= MODES.keys():
        raise DataError(f"{where}: found {_show(images)}, read as N×H×W×C; the model wants {wanted_inputs((spec,))}")
    same_size = target.height in (None, pictures.shape[1]) and target.width in (None, pictures.shape[2])

    def draw(index: int) -> np.ndarray:
        picture: np.ndarray = pictures[index]
        if channels == target.channels and same_size:
            return picture
        image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
        return fit_image(image, target, request.preprocess, f"{where}: sample {index}")

    return _source_of_draws(draw, len(pictures), target, arrays, where, request)


def _source_of_jpeg(arrays: Arrays, where: str, request: Request) -> Source:
    target = image_input(only_input(request.inputs, f"{where}: 'jpeg'"), request.preprocess)
    data, offsets = arrays["jpeg"], arrays["offsets"]
    if data.dtype != np.uint8 or data.ndim != 1 or offsets.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer):
        raise DataError(
            f"{where}: found jpeg {_show(data)}, offsets {_show(offsets)}: give uint8 bytes and N+1 integers"
        )
    bounds = offsets.astype(np.int64)
    if len(bounds) and (bounds[0] < 0 or bounds[-1] > len(data) or (np.diff(bounds) < 1).any()):
        raise DataError(f"{where}: offsets do not rise from 0 to the {len(data)} bytes of jpeg: the file is damaged")

    def draw(index: int) -> np.ndarray:
        name = f"{where}: sample {index}"
        with open_image(io.BytesIO(data[bounds[index] : bounds[index + 1]].tobytes()), name) as image:
            return fit_image(image, target, request.preprocess, name)

    held = max(0, len(bounds) - 1)
    return _source_of_draws(draw, held, target, arrays, where, request)


def _source_of_draws(draw: Draw, held: int, target: ImageInput, arrays: Arrays, where: str, request: Request) -> Source:
    labels = _labels(arrays, held, where)
    read, notes = batches(_taken(held, where, request), draw, target, request.preprocess)
    source = _source(lambda indices: {target.name: read(indices)}, held, labels, where, request, notes)
    return replace(source, read_altered=lambda indices, alter: {target.name: read(indices, alter)})
