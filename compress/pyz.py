"""Programs in one file that python3 runs, for machines on which there is only numpy and onnxruntime beside it."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import numpy as np


def packed(
    entry: str,
    modules: Sequence[str],
    request: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    files: Iterable[tuple[str, bytes]] = (),
) -> bytes:
    """Return the zip that runs `main` of the module `entry`, with all `modules` it needs (as files in compress/).

    In it are also request.json, the arrays as .npy and the files, by their names.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("__main__.py", f"from {entry} import main\n\nmain()\n")
        paths = [PurePosixPath("compress", module) for module in modules]
        for package in sorted({str(path.parent) for path in paths} | {"compress"}):
            zipped.writestr(f"{package}/__init__.py", "")
        for module, path in zip(modules, paths, strict=True):
            zipped.writestr(str(path), resources.files("compress").joinpath(module).read_bytes())
        zipped.writestr("request.json", json.dumps(request))
        for name, array in arrays.items():
            written = io.BytesIO()
            np.save(written, array, allow_pickle=False)
            zipped.writestr(f"{name}.npy", written.getvalue())
        for name, file in files:
            zipped.writestr(name, file)
    return content.getvalue()
