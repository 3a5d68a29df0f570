"""The state of a training in one .safetensors file: arrays, and the course so far as JSON in the file's header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from compress.errors import OptionError
from compress.files import write_file

_VERSION = 1
_ABOUT = "compress train"  # one entry of the header, since those of several come in any order


def save(path: Path, arrays: Mapping[str, np.ndarray], course: Any) -> None:
    """Write arrays by name ("weights/…", "momentum/…") and a JSON value; the same give the same bytes.

    The file is whole at any moment. Raises OptionError where it cannot be written.
    """
    about = {"version": _VERSION, "crc32": _sum(arrays, course), "course": course}
    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    write_file(serialise(plain, metadata={_ABOUT: json.dumps(about)}), path)


def load(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Return what `save` wrote, arrays and course. Raises OptionError for a file that is missing, damaged or other."""
    if not path.is_file():
        raise OptionError(f"there is no checkpoint {path} to resume from")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            about = json.loads((file.metadata() or {})[_ABOUT])
            version, expected, course = about["version"], about["crc32"], about["course"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} is not a checkpoint of compress train, or is damaged: name another file") from error
    if version != _VERSION:
        raise OptionError(f"{path} is a checkpoint of version {version}, this program reads {_VERSION}: train anew")
    if _sum(arrays, course) != expected:
        raise OptionError(f"{path} is damaged: what is in it does not add up")
    return arrays, course


def _sum(arrays: Mapping[str, np.ndarray], course: Any) -> int:
    found = crc32(json.dumps(course).encode())
    for name, array in sorted(arrays.items()):
        found = crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        found = crc32(array.tobytes(), found)
    return found
