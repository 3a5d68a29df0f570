"""The user's own generator of batches, module:function, as a source."""

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.arrays import source_of_arrays
from calibrate.errors import DataError
from calibrate.source import Request, Source, opens
from graph.inputs import sample_axes

NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


@opens("module", lambda spec: isinstance(spec, str) and NAME.fullmatch(spec) is not None)
def open_module(request: Request) -> Source:
    """Call module:function without arguments and collect its batches, up to the number of samples.

    A batch is a dict by input name (and 'labels'), or one array for a model with one input, in any layout that
    an .npz may have. The module is imported with the working directory on the path; only a name that the
    user wrote gets here. Raises DataError for whatever goes wrong, the function's own exceptions included.
    """
    name = str(request.spec)
    parts: dict[str, list[np.ndarray]] = {}
    count = 0
    axes = sample_axes(request.inputs)
    for number, batch in enumerate(_batches(name)):
        named = batch if isinstance(batch, Mapping) else {"images": batch}
        if parts and set(named) != set(parts):
            raise DataError(f"{name}: batch {number} holds {sorted(named)}, the first one {sorted(parts)}")
        for key, array in named.items():
            parts.setdefault(str(key), []).append(np.asarray(array))
        count += max((part[-1].shape[axes.get(key) or 0] for key, part in parts.items() if part[-1].ndim), default=1)
        if request.samples is not None and count >= request.samples:
            break
    if not parts:
        raise DataError(f"{name}: the function gave no batches")
    return source_of_arrays(
        {key: _join(part, axes.get(key, 0), key, name) for key, part in parts.items()}, name, request
    )


def _join(parts: list[np.ndarray], axis: int | None, key: str, name: str) -> np.ndarray:
    if axis is None or parts[0].ndim == 0:
        return parts[0]
    try:
        return np.concatenate(parts, min(axis, parts[0].ndim - 1))
    except ValueError as error:
        raise DataError(f"{name}: the batches of {key!r} do not fit together ({error})") from error


def _batches(name: str) -> Iterator[object]:
    try:
        with working_directory_on_path():
            batches = imported(name)()
            if not isinstance(batches, Iterable):
                raise DataError(f"{name}: it returned {type(batches).__name__}: give a generator of batches")
            yield from batches
    except DataError:
        raise
    except Exception as error:  # the user's code may raise anything; one line has to say what
        raise DataError(f"{name}: {type(error).__name__}: {error}") from error


def imported(name: str) -> Any:
    """Import module:function, a name that the user wrote; whatever goes wrong in the module is raised."""
    module_name, function_name = name.split(":")
    return getattr(importlib.import_module(module_name), function_name)


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Let modules of the working directory be imported, as `python -m` would."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
