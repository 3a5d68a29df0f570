"""What a model must be fed: its real inputs, the sizes that it leaves free, and numbers that it runs on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product

import numpy as np
import onnx_ir as ir

from graph.errors import ModelError, ShapeError
from graph.guard import MOST_INPUT_BYTES
from graph.runtime import run_limited, session

# What a size that the model leaves free may be, the likeliest first: detectors want multiples of 32 or 64, heads
# behind a Flatten one size only, text lines a low height and a long width
SIDES = (224, 256, 320, 640, 128, 112, 96, 64, 48, 32, 28, 299, 416, 512)
LENGTHS = (512, 1024, 256, 128, 64, 32, 16, 8, 4, 2, 1, 4000, 1536, 16000, 48000, 80, 40)
DEPTHS = (16, 32, 64, 8, 112, 4)  # frames of a video and their sides
SAMPLING_RATE = 16000
MOST_TRIED = 48  # sizes


@dataclass(frozen=True)
class InputSpec:
    """One real input of a model: `None` in `shape` is a size that the model leaves free.

    `sizes` is a whole shape that the model is known to run with; empty where nobody has tried yet.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype
    sizes: tuple[int, ...] = ()

    def size(self, axis: int) -> int:
        """Return the size along an axis: what the model states, else what it is known to run with, else a guess."""
        stated = self.shape[axis]
        if stated is not None:
            return stated
        return self.sizes[axis] if self.sizes else _guesses(len(self.shape))[0]


def input_specs(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[InputSpec, ...]:
    """Return the inputs that a caller must feed: those that are not initializers as well.

    `shapes` states, by input name, sizes that the model leaves free; the number of samples stays free.
    Raises `ModelError` for an input that is no tensor of numbers, `ShapeError` for a shape that contradicts the model.
    """
    specs = tuple(_spec(value) for value in model.graph.inputs if not value.is_initializer())
    names = [spec.name for spec in specs]
    for name in shapes or {}:
        if name not in names:
            raise ShapeError(f"a shape was given for {name!r}, which is no input; the model has {', '.join(names)}")
    return tuple(_pinned(spec, (shapes or {}).get(spec.name)) for spec in specs)


def sample_axes(specs: Sequence[InputSpec]) -> dict[str, int | None]:
    """Return the axis of each input along which samples lie, by name; None for an input that all samples share.

    It is the first, but the second of three where only that is free: a recurrent state, layers × N × width. Scalars
    are shared. Where inputs state different numbers of samples, the first is right; another has its samples along
    its second axis if that has the same size (the state again), and is shared otherwise.
    """
    axes = {spec.name: _own_axis(spec) for spec in specs}
    stated = {spec.name: spec.shape[axis] for spec in specs if (axis := axes[spec.name]) is not None}
    if len(set(stated.values()) - {None}) < 2:
        return axes
    batch = next(iter(stated.values()))
    for spec in specs:
        if stated.get(spec.name) not in (None, batch):
            axes[spec.name] = 1 if len(spec.shape) == 3 and spec.shape[1] == batch else None
    return axes


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """Return the number of samples that the inputs state, None where they leave it free."""
    axes = sample_axes(specs)
    sizes = [spec.shape[axis] for spec in specs if (axis := axes[spec.name]) is not None]
    return next((size for size in sizes if size is not None), None)


def settle(model: ir.Model, specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the inputs with `sizes` that the model runs with, found by trying.

    An axis that a convolution reads as its channels has that many; other free sizes are the first of `SIDES` (rank
    4), `DEPTHS` (rank 5) or `LENGTHS` that ONNX Runtime accepts, one sample at a time. A model that leaves nothing
    free but the number of samples is not run. Raises `ModelError`, with the first complaint, where none is accepted.
    """
    channels = {spec.name: _channels(model, spec) for spec in specs}
    tried = list(_candidates(specs, channels))
    if len(tried) == 1:
        return tried[0]
    opened, first = session(model, optimise=False, limited=True), None
    for candidate in tried:
        try:
            run_limited(opened, example_feeds(candidate))
        except ModelError as error:
            first = first or error
        else:
            return candidate
    free = ", ".join(spec.name for spec in specs if None in spec.shape)
    raise ModelError(f"no size was found that the model runs with; give --shape for {free}: {first}") from first


def example_feeds(specs: Sequence[InputSpec], *, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs: standard normal floats, `stand_in` for integers and flags.

    Raises `ModelError` where an input is unreasonably large.
    """
    rng = np.random.default_rng(seed)
    feeds, axes = {}, sample_axes(specs)
    total = 0
    for spec in specs:
        axis = axes[spec.name]
        shape = tuple(
            batch if place == axis and size is None else spec.size(place) for place, size in enumerate(spec.shape)
        )
        total += _checked_bytes(spec, shape, total)
        if np.issubdtype(spec.dtype, np.integer) or spec.dtype.kind == "b":
            feeds[spec.name] = np.full(shape, stand_in(spec, specs), spec.dtype)
        else:
            feeds[spec.name] = rng.standard_normal(shape, np.float32).astype(spec.dtype, copy=False)
    return feeds


def example_inputs(
    model: ir.Model, *, shapes: Mapping[str, Sequence[int]] | None = None, batch: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random inputs of the sizes given, and where none are of sizes that the model runs with (see `settle`)."""
    return example_feeds(settle(model, input_specs(model, shapes)), batch=batch, seed=seed)


def stand_in(spec: InputSpec, specs: Sequence[InputSpec]) -> int:
    """Return what an input of integers or flags is filled with where nothing is known but its name.

    That is 16000 for a sampling rate, the length of the sequence for lengths, 1 for masks and flags, and 0 for the
    rest: valid as an index.
    """
    name = spec.name.lower()
    if name in ("sr", "sample_rate", "sampling_rate"):
        return SAMPLING_RATE
    if "length" in name:
        longest = max((other for other in specs if other is not spec), key=lambda other: len(other.shape), default=spec)
        free = [longest.size(axis) for axis, size in enumerate(longest.shape) if size is None and axis]
        return free[0] if free else 1
    return int(spec.dtype.kind == "b" or "mask" in name)


def takes_several(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether the model runs on these feeds of several samples: exporters promise a free batch and then fix it."""
    try:
        run_limited(session(model, optimise=False, limited=True), feeds)
    except ModelError:
        return False
    return True


def _spec(value: ir.Value) -> InputSpec:
    if value.dtype is None or value.dtype == ir.DataType.STRING or not isinstance(value.type, ir.TensorType):
        raise ModelError(
            f"input {value.name} is not a tensor of numbers but {value.type}; such inputs are not supported"
        )
    if value.shape is None:
        raise ModelError(f"input {value.name} has no declared rank; declare its shape in the model")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    spec = InputSpec(str(value.name), shape, np.dtype(value.dtype.numpy()))
    _checked_bytes(spec, [size or 1 for size in shape])
    return spec


def _checked_bytes(spec: InputSpec, shape: Sequence[int], others: int = 0) -> int:
    """Return the size of an input; raises ModelError where it is unreasonable, together with the `others`."""
    size = math.prod(shape) * spec.dtype.itemsize
    if others + size > MOST_INPUT_BYTES:
        written = "×".join(map(str, shape))
        raise ModelError(f"input {spec.name} of shape {written} takes {size:,} bytes, more than {MOST_INPUT_BYTES:,}")
    return size


def _own_axis(spec: InputSpec) -> int | None:
    shape = spec.shape
    if not shape:
        return None
    return 1 if len(shape) == 3 and shape[0] is not None and shape[1] is None and shape[2] is not None else 0


def _pinned(spec: InputSpec, given: Sequence[int] | None) -> InputSpec:
    if given is None:
        return spec
    if len(given) != len(spec.shape) or any(s not in (None, g) for s, g in zip(spec.shape, given, strict=True)):
        declared, wanted = ("×".join("?" if n is None else str(n) for n in shape) for shape in (spec.shape, given))
        raise ShapeError(f"input {spec.name} has the shape {declared}; it cannot be {wanted}")
    axis = _own_axis(spec)
    shape = tuple(s if place == axis else g for place, (s, g) in enumerate(zip(spec.shape, given, strict=True)))
    return replace(spec, shape=shape)


def _channels(model: ir.Model, spec: InputSpec) -> int | None:
    """Return the size of axis 1 as a convolution that reads the input states it."""
    value = next(value for value in model.graph.inputs if value.name == spec.name)
    for node, index in value.uses():
        weight = node.inputs[1] if node.op_type == "Conv" and index == 0 else None
        sizes = () if weight is None or weight.const_value is None else weight.const_value.shape.numpy()
        if len(sizes) == len(spec.shape) > 2:
            return int(sizes[1]) * node.attributes.get_int("group", 1)
    return None


def _guesses(rank: int) -> tuple[int, ...]:
    return {4: SIDES, 5: DEPTHS}.get(rank, LENGTHS)


def _candidates(specs: Sequence[InputSpec], channels: Mapping[str, int | None]) -> Iterator[tuple[InputSpec, ...]]:
    """Yield the inputs with whole `sizes`, those of one rank alike."""
    axes = {spec.name: _free_axes(spec, channels[spec.name]) for spec in specs}
    ranks = sorted({len(spec.shape) for spec in specs if axes[spec.name]})
    guesses = [_guesses(rank) for rank in ranks]
    # one likely size for each rank first, then mixtures, as far as patience goes
    orders = dict.fromkeys(chain(zip(*guesses, strict=False), product(*guesses))) if ranks else [()]
    for chosen in islice(orders, MOST_TRIED):
        side = dict(zip(ranks, chosen, strict=True))
        yield tuple(
            replace(
                spec,
                sizes=tuple(
                    side[len(spec.shape)]
                    if place in axes[spec.name]
                    else size or (1 if place == _own_axis(spec) else channels[spec.name] or 1)
                    for place, size in enumerate(spec.shape)
                ),
            )
            for spec in specs
        )


def _free_axes(spec: InputSpec, channels: int | None) -> tuple[int, ...]:
    known = {_own_axis(spec)} | ({1} if channels is not None else set())
    return tuple(place for place, size in enumerate(spec.shape) if size is None and place not in known)
