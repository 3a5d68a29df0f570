"""The per-node converters of onnx2torch, without torchvision and for revisions newer than its last release.

onnx2torch registers a converter under the opset in which a revision of the operator appeared. Where a later
revision has the same inputs, outputs and attributes (only the list of types grew), the older converter is
taken; whether it is right is for the comparison with ONNX Runtime to say.
"""

import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec
from typing import Any

import onnx
import torch
from torch import nn

from graph.bridge.node import Declined, Node

# The two operators for which onnx2torch needs torchvision: they run in ONNX Runtime.
_NEED_TORCHVISION = frozenset({"NonMaxSuppression", "RoiAlign"})
_STUBS = ("torchvision", "torchvision.ops")
# Larger float constants are weights; they reach a module as arguments and are never read in its place.
_SMALL = 16


@contextmanager
def _stubbed_torchvision() -> Iterator[None]:
    """Put empty modules in the place of torchvision, which may be absent or unfit for this torch."""
    before = {name: sys.modules.get(name) for name in _STUBS}
    if before["torchvision"] is not None:
        yield
        return
    for name in _STUBS:
        stub = types.ModuleType(name)
        stub.__spec__ = ModuleSpec(name, None)
        stub.roi_align = None  # type: ignore[attr-defined]  # all that onnx2torch asks for while it is imported
        sys.modules[name] = stub
    try:
        yield
    finally:
        for name in _STUBS:
            sys.modules.pop(name, None)


@lru_cache(maxsize=1)
def registry() -> dict[tuple[str, str, int], Callable[..., Any]]:
    """Return onnx2torch's converters by domain, operator and revision."""
    with _stubbed_torchvision(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import says about other packages is not the user's concern
        module = importlib.import_module("onnx2torch.node_converters.registry")
        importlib.import_module("onnx2torch.node_converters")
    return {tuple(key): converter for key, converter in module._CONVERTER_REGISTRY.items()}


@lru_cache(maxsize=1)
def _history() -> dict[tuple[str, str], list[onnx.defs.OpSchema]]:
    """Return all revisions of each operator, oldest first."""
    history: dict[tuple[str, str], list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault((schema.domain, schema.name), []).append(schema)
    return {key: sorted(schemas, key=lambda schema: schema.since_version) for key, schemas in history.items()}


def _signature(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """Return what a caller sees of an operator apart from its types: inputs, outputs, attributes and defaults."""
    formals = tuple(tuple((item.name, item.option) for item in items) for items in (schema.inputs, schema.outputs))
    attributes = tuple(
        (name, item.type, item.required, item.default_value.SerializeToString())
        for name, item in sorted(schema.attributes.items())
    )
    return (*formals, attributes, schema.deprecated)


@lru_cache(maxsize=4096)
def find_converter(domain: str, op_type: str, opset: int) -> Callable[..., Any] | None:
    """Return onnx2torch's converter for an operator at an opset, going back while only types changed."""
    if op_type in _NEED_TORCHVISION:
        return None
    known = {version: made for (where, what, version), made in registry().items() if (where, what) == (domain, op_type)}
    if domain or (domain, op_type) not in _history():
        return known.get(opset)
    upper = opset + 1
    wanted = None
    for schema in reversed(_history()[domain, op_type]):
        if schema.since_version > opset:
            continue
        if wanted is not None and _signature(schema) != wanted:
            return None
        wanted = _signature(schema)
        # Some are registered under an opset between two revisions (Slice under 9).
        inside = [version for version in known if schema.since_version <= version < upper]
        if inside:
            return known[max(inside)]
        upper = schema.since_version
    return None


class Selected(nn.Module):
    """A module of onnx2torch that takes some of the node's inputs; the others went into its attributes."""

    def __init__(self, module: nn.Module, positions: tuple[int, ...], defaults: tuple[object, ...]) -> None:
        """Keep the module; `defaults` stand where an optional input is absent."""
        super().__init__()
        self.module = module
        self.positions = positions
        self.defaults = defaults

    def forward(self, *args: torch.Tensor | None) -> Any:
        """Call the module with the inputs that it takes."""
        given = [args[position] for position in self.positions]
        return self.module(*[self.defaults[i] if value is None else value for i, value in enumerate(given)])


def convert_foreign(node: Node) -> nn.Module:
    """Convert with onnx2torch; raises Declined where it has no converter or its converter fails."""
    domain = "" if node.proto.domain == "ai.onnx" else node.proto.domain
    converter = find_converter(domain, node.proto.op_type, node.opset)
    if converter is None:
        raise Declined(f"onnx2torch has no {node.proto.op_type} for opset {node.opset}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where results may differ: the comparison will tell
            module, mapping = converter(*_single_node_graph(node))
    except Exception as error:  # it raises what comes to hand for what it does not know; the fall-back takes over
        raise Declined(f"onnx2torch cannot convert this {node.proto.op_type}: {_brief(error)}") from error
    names = list(node.proto.input)
    positions: list[int] = []
    for name in mapping.inputs:
        positions.append(names.index(name, positions[-1] + 1 if name == "" and positions else 0))
    node.read.update(name for name in names if name in node.constants and name not in mapping.inputs)
    while positions and not names[positions[-1]]:
        positions.pop()
    if positions == list(range(len(names))) and all(names):
        return module  # type: ignore[no-any-return]  # onnx2torch is untyped
    return Selected(module, tuple(positions), _defaults(module, len(positions)))


def _defaults(module: nn.Module, count: int) -> tuple[object, ...]:
    parameters = list(inspect.signature(module.forward).parameters.values())
    values = [None if item.default is inspect.Parameter.empty else item.default for item in parameters]
    return tuple((values + [None] * count)[:count])


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _single_node_graph(node: Node) -> tuple[Any, Any]:
    """Return onnx2torch's node and graph objects for one node, its small constants and its inputs' ranks."""
    graph_class = importlib.import_module("onnx2torch.onnx_graph").OnnxGraph
    proto = onnx.GraphProto(node=[node.proto])
    for name in {name for name in node.proto.input if name}:
        value = node.constants.get(name)
        if value is not None and (value.dtype.kind in "iub" or value.size <= _SMALL):
            proto.initializer.append(onnx.numpy_helper.from_array(value, name))
        if name in node.ranks:
            shape = [None] * node.ranks[name]
            proto.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    graph = graph_class(proto)
    return next(iter(graph.nodes.values())), graph
