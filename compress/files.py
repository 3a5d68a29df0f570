"""Files that are whole or not there."""

import os
import tempfile
from pathlib import Path

from compress.errors import OptionError


def same_file(first: Path, second: Path) -> bool:
    """Say whether two paths lead to one file, by links too, whether it exists or not."""
    if first.exists() and second.exists():
        return first.samefile(second)
    return os.path.realpath(first) == os.path.realpath(second)


def write_file(content: bytes, path: Path) -> None:
    """Write a temporary file beside `path` and rename it. Raises OptionError where that is not possible."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_bytes(content)
            os.replace(written, path)
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}") from error
