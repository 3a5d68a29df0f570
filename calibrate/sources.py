"""Where calibration samples come from: one door to every kind of source."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from calibrate import arrays, folder, generated, module  # noqa: F401  # each enters its kind into the table
from calibrate.errors import DataError
from calibrate.preprocess import Preprocess
from calibrate.source import KINDS, Request, Source
from graph.inputs import InputSpec

__all__ = ["Source", "open_source", "split"]


def open_source(
    spec: str | Path | np.ndarray | Mapping[str, np.ndarray] | None,
    specs: Sequence[InputSpec],
    preprocess: Preprocess | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    labels_file: str | Path | None = None,
) -> Source:
    """Open calibration data for a model with these inputs.

    `spec` is a folder of pictures, an .npz or .npy file, "module:function" (which imports that module), an array or
    arrays by name, or None for generated samples. `preprocess` None standardises pictures, as
    `Preprocess()` says. `samples` is the most that are used (all; 384 generated), `labels_file` a csv file of
    `name,class` for a folder. Raises DataError, in one line, for data that cannot be read or do not fit.
    """
    if samples is not None and samples < 1:
        raise DataError(f"{samples} samples were asked for: give 1 or more")
    if isinstance(spec, str) and not spec:
        raise DataError("the data's path is empty: give a folder, a file or module:function, or nothing at all")
    if not specs:
        raise DataError("the model has no inputs: there is nothing to calibrate with")
    found: object = spec
    if isinstance(spec, str) and (not module.NAME.fullmatch(spec) or os.path.exists(spec)):
        found = Path(spec)
    labels = None if labels_file is None else Path(labels_file)
    request = Request(found, tuple(specs), preprocess or Preprocess(), samples, seed, labels)
    for accepts, opener in KINDS.values():
        if accepts(found):
            return opener(request)
    if isinstance(found, Path):
        raise DataError(
            f"{found}: no such file or folder: give a folder of pictures, an .npz or .npy, or module:function"
        )
    raise TypeError(f"data cannot be a {type(found).__name__}")


def split(count: int, parts: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Deal `count` samples out at random, one disjoint sorted index array for each fraction in `parts`.

    The fractions add up to at most 1. Each part gets its share rounded down; what rounding left over goes one by
    one to parts still empty, the first before the others, then to those that lack most of their share. So a
    single sample goes to the first part and the others are empty.
    """
    if min(parts, default=0) < 0 or sum(parts) > 1 + 1e-9:
        raise ValueError(f"parts have to be at least 0 and add up to at most 1, found {list(parts)}")
    exact = [count * part for part in parts]
    sizes = [math.floor(share + 1e-9) for share in exact]
    left = math.floor(sum(exact) + 1e-9) - sum(sizes)
    lacking = sorted(range(len(parts)), key=lambda at: (sizes[at] > 0, sizes[at] == 0 < at, sizes[at] - exact[at]))
    for place in lacking[:left]:
        sizes[place] += 1
    order = np.random.default_rng([seed, count]).permutation(count)
    ends = np.cumsum(sizes)
    return [np.sort(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
