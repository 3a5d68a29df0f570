"""ONNX files in and out: whatever of the user's model we do not change survives, and nothing is left half-written."""

import os
import tempfile
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]  # protobuf ships no types

from graph.errors import ModelError, WriteError
from graph.guard import watched
from graph.sound import external_objection, objection

# protobuf refuses to serialise 2 GiB; stay below with room for names and nodes
INLINE_BYTES = 2**31 - 2**24


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file, with its external data, into an `onnx_ir.Model`.

    Reading and checking are onnx's own (its loader refuses links and paths that leave the model's folder); all
    weights are in memory afterwards, so that nothing refers to the incoming files any more.
    Raises `ModelError` in one sentence when the file is missing, a directory, empty, truncated or not valid ONNX.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path} is a directory, not an ONNX file")
    if not path.exists():
        raise ModelError(f"{path} does not exist")
    if not path.is_file():
        raise ModelError(f"{path} is no regular file; write the model to one")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty, not an ONNX file")
    proto = _read(path)
    if not proto.graph.node:
        raise ModelError(f"{path} holds no ONNX graph: it has no nodes")
    with watched():
        if complaint := objection(proto):
            raise ModelError(f"{path} is not a valid ONNX model: {complaint}")
        return _checked(proto, path)


def save(model: ir.Model, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write the model to `path` at once: a temporary file beside it is renamed when it is complete.

    Weights beyond protobuf's 2 GiB go to one sibling file `<path>.data`. Raises `WriteError` when the file exists
    (and `overwrite` is not set) or cannot be written; nothing is left behind then, nor on Ctrl-C.
    """
    path = Path(path)
    if path.is_dir():
        raise WriteError(f"{path} is a directory; name a file to write")
    data = path.with_name(f"{path.name}.data") if weight_bytes(model) > INLINE_BYTES else None
    for target in (path, data):
        if target is not None and target.exists() and not overwrite:
            raise WriteError(f"{target} exists already and is not overwritten")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder) / path.name
            ir.save(_undeclared(model), written, format="protobuf", external_data=None if data is None else data.name)
            if data is not None:
                os.replace(Path(folder) / data.name, data)
            os.replace(written, path)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def clone(model: ir.Model) -> ir.Model:
    """Return a copy whose graph can be edited freely; the tensors, which are never edited in place, are shared."""
    return model.clone()


def serialised(model: ir.Model) -> bytes:
    """Return the model as the bytes of one file, which end at protobuf's 2 GiB."""
    return bytes(ir.to_proto(model).SerializeToString())


def _undeclared(model: ir.Model) -> ir.Model:
    """Return a copy that does not state an initializer's type and shape beside the tensor, which has them."""
    new = clone(model)
    for value in new.graph.initializers.values():
        if not value.is_graph_input() and not value.is_graph_output():
            value.type = value.shape = None
    return new


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all initializers in bytes."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        if complaint := external_objection(proto, path.parent):
            raise ModelError(f"{path} cannot be read: {complaint}")
        onnx.load_external_data_for_model(proto, str(path.parent))
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or is truncated or damaged ({_line(error)})") from error
    except (OSError, ValueError, TypeError, MemoryError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} cannot be read: {_line(error)}") from error
    return proto


def _checked(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """Return a model that onnx.checker accepts, its nodes put in order: not all exporters do so."""
    try:
        if _is_large(proto):
            onnx.checker.check_model(str(path))
            return _decoded(ir.from_proto(proto))
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            if "topologically sorted" not in str(error):
                raise
            model = ir.from_proto(proto)
            model.graph.sort()
            onnx.checker.check_model(ir.to_proto(model))
            return _decoded(model)
        return _decoded(ir.from_proto(proto))
    except Exception as error:  # onnx_ir wraps what it meets in exceptions of many kinds
        raise ModelError(f"{path} is not a valid ONNX model: {_line(error)}") from error


def _decoded(model: ir.Model) -> ir.Model:
    """Hold initializers and constants as arrays, in place: of a message each look at a weight would be a copy."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = _array(value.const_value)
    for node in chain(model.graph.all_nodes(), *(each.all_nodes() for each in model.functions.values())):
        for attribute in tuple(node.attributes.values()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                array = _array(attribute.as_tensor())
                node.attributes.add(ir.Attr(attribute.name, attribute.type, array, doc_string=attribute.doc_string))
    return model


def _array(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    if not isinstance(tensor, ir.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
        return tensor
    doc, notes = tensor.doc_string, tensor.metadata_props
    return ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name, doc_string=doc, metadata_props=notes)


def _is_large(proto: onnx.ModelProto) -> bool:
    try:
        return bool(proto.ByteSize() >= INLINE_BYTES)
    except EncodeError:  # beyond 2 GiB protobuf does not even say how large it is
        return True


def _line(error: BaseException) -> str:
    """Return the first line of a message of someone else's, which may run over many."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
