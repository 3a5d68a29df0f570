"""Why ONNX Runtime refuses a model, in a sentence that names the node."""

import re
from collections.abc import Callable

import onnx_ir as ir

_UNKNOWN = re.compile(r"([\w.]*):(\w+)\(-?\d+\) is not a registered function/op")
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'")
_SOURCE = re.compile(r"/onnxruntime(?:_src)?/\S+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? ")


def refusal(model: ir.Model, message: str) -> str:
    """Return ONNX Runtime's message in plain words where it is one of the usual ones, else without source paths."""
    if found := _UNKNOWN.search(message):
        domain, op_type = found.groups()
        node = _first(model, lambda node: (node.domain, node.op_type) == (domain, op_type))
        return f"{_described(node, op_type)}: neither it nor the model defines this operator of the domain {domain!r}"
    if found := _NO_KERNEL.search(message):
        op_type, version, name = found.groups()
        node = _first(model, lambda node: (node.op_type, node.name or "") == (op_type, name))
        dtype = node.inputs[0].dtype if node is not None and node.inputs and node.inputs[0] is not None else None
        kind = "" if dtype is None else f" {dtype.name.lower()}"
        return f"{_described(node, op_type)}: it has no {op_type} of opset {version} for{kind} numbers on the CPU"
    return _SOURCE.sub("", message)


def _first(model: ir.Model, is_it: Callable[[ir.Node], bool]) -> ir.Node | None:
    return next((node for node in model.graph.all_nodes() if is_it(node)), None)


def _described(node: ir.Node | None, op_type: str) -> str:
    return f"{op_type} inside a function" if node is None else f"{op_type} {node.name or node.outputs[0].name}"
