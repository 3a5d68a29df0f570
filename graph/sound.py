"""What onnx's loader and checker let pass, and no program that reads the model can live with."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import Message  # type: ignore[import-untyped]  # protobuf ships no types

MOST_NODES = 1_000_000  # after the calls of functions have been replaced by their bodies
_SHARED = 4  # how often, on average, the bytes of external data may be read: tied weights are stored once

# of the types below eight bits several elements share a byte
_BITS = {
    kind.value: 8 if kind == ir.DataType.STRING else kind.bitwidth
    for kind in ir.DataType
    if kind != ir.DataType.UNDEFINED
}
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")  # not in raw bytes

_Key = tuple[str, str, str]


def objection(model: onnx.ModelProto) -> str | None:
    """Return, in a sentence, what is wrong with a model; None for a sound one."""
    for message in _messages(model):
        if field := _undecodable(message):
            return f"a {field} in {message.DESCRIPTOR.name} is no text in UTF-8"
        if isinstance(message, onnx.TensorProto) and (complaint := _misfit(message)):
            return complaint
        if isinstance(message, onnx.GraphProto) and message.sparse_initializer:
            return f"initializer {message.sparse_initializer[0].values.name} is sparse, which is not supported"
    for node in _nodes(model.graph):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                return f"attribute {attribute.name} of {node.op_type} refers to a parameter, but is in no function"
    return _unfolding(model)


def external_objection(model: onnx.ModelProto, folder: Path) -> str | None:
    """Return, in a sentence, why the external data cannot be what they say: they ask for more than the files hold.

    Whether the files may be read at all is for onnx's loader to say.
    """
    wanted, held = 0, {}
    for message in _messages(model):
        if not isinstance(message, onnx.TensorProto) or message.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in message.external_data}
        location = folder / entries.get("location", "")
        if "\0" in str(location):
            return f"the location of the external data of {message.name} is no file name"
        if location not in held:
            held[location] = _held_bytes(location)
        length = entries.get("length", "")
        wanted += int(length) if length.isdecimal() else held[location]
    if wanted > _SHARED * sum(held.values()) + 2**24:
        return f"its tensors ask for {wanted:,} bytes of external data; the files hold {sum(held.values()):,}"
    return None


def _undecodable(message: Message) -> str | None:
    """Return the name of a field that is no text though it should be; the program meets names of it everywhere."""
    if isinstance(message, onnx.AttributeProto):
        try:
            for text in (message.s, *message.strings):
                text.decode()
        except UnicodeDecodeError:
            return "value"
    for field, value in message.ListFields():
        texts = () if field.type != field.TYPE_STRING else value if field.is_repeated else (value,)
        if any(isinstance(text, bytes) for text in texts):  # what protobuf cannot decode, it hands out as bytes
            return str(field.name)
    return None


def _misfit(tensor: onnx.TensorProto) -> str | None:
    """Object to more or fewer numbers than a tensor of this type and shape has; the checker lets some of it pass."""
    if tensor.data_type not in _BITS:
        return None  # for ONNX Runtime to say
    elements, bits = math.prod(tensor.dims), _BITS[tensor.data_type]
    if tensor.HasField("raw_data"):
        held, needed, what = len(tensor.raw_data), (elements * bits + 7) // 8, "bytes"
    elif bits < 8:
        return None  # several elements share a number, too, and how many depends on the type
    else:
        held, needed, what = sum(len(getattr(tensor, field)) for field in _FIELDS), elements, "numbers"
        needed *= 2 if tensor.data_type in _COMPLEX else 1
    if held == needed:
        return None
    shape = "×".join(map(str, tensor.dims[:8]))
    return f"tensor {tensor.name} of shape {shape} holds {held:,} {what} and not {needed:,}"


def _held_bytes(path: Path) -> int:
    """Return how many bytes of a file are really on the disk: a sparse file may claim any size."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    blocks = getattr(status, "st_blocks", None)  # not on Windows
    return status.st_size if blocks is None else min(status.st_size, 512 * blocks)


def _unfolding(model: onnx.ModelProto) -> str | None:
    """Object to functions that call themselves, or that call one another until there is no end of nodes."""
    bodies: dict[_Key, Counter[_Key]] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        bodies[key] = Counter(_called(function.node))
    order = TopologicalSorter({key: [each for each in body if each in bodies] for key, body in bodies.items()})
    unfolded: dict[_Key, int] = {}
    try:
        for key in order.static_order():
            unfolded[key] = _size(bodies[key], unfolded)
    except CycleError as error:
        return f"function {error.args[1][0][1]} calls itself"
    nodes = _size(Counter(_called(model.graph.node)), unfolded)
    if nodes > MOST_NODES:
        return f"its functions unfold into {nodes:,} nodes, more than {MOST_NODES:,}"
    return None


def _size(calls: Counter[_Key], unfolded: dict[_Key, int]) -> int:
    return sum(count * unfolded.get(key, 1) for key, count in calls.items())


def _called(nodes: Iterable[onnx.NodeProto]) -> Iterator[_Key]:
    return ((node.domain, node.op_type, node.overload) for each in nodes for node in _within(each))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for each in graph.node for node in _within(each))


def _within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a node and those of its subgraphs; protobuf reads only a hundred levels, so this may recurse."""
    yield node
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _nodes(graph)


def _messages(message: Any) -> Iterator[Message]:
    """Yield a message and all those inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                yield from _messages(each)
