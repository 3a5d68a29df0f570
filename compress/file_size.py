"""The form in which a model is written, and how many bytes that takes on disk."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from graph.model import save
from graph.simplify import forget_inferred
from graph.stored import Stored, pack


def finished(model: ir.Model, stored: Sequence[Stored], original: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a copy as it is to be written, weights stored as in the original, and notes where that cannot be."""
    new, notes = pack(model, stored)
    forget_inferred(new, original)
    return new, notes


def file_bytes(path: Path) -> int:
    """Return the size of a model file and of the files with external data that it names."""
    proto = onnx.load(path, load_external_data=False)
    external = {
        entry.value
        for tensor in proto.graph.initializer
        if onnx.external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in external)))


def written_bytes(model: ir.Model) -> int:
    """Return how large the file of a model is, by writing it to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        return file_bytes(path)
