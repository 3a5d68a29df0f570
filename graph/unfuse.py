"""Operators that ONNX Runtime's optimiser fused are taken apart again into ONNX's own, with the same meaning.

    FusedConv      act(Conv(x, w, b) + z)
    FusedGemm      act(Gemm(a, b, c))
    FusedMatMul    alpha · A B, where A and B are transposed on their last two axes as the attributes say

ONNX Runtime fuses them again when it loads the model.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.tape import Tape

from graph.names import Names
from graph.registry import operator

# what FusedConv lists as activation_params, in that order
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}


def unfuse(model: ir.Model) -> None:
    """Replace, in place, what the optimiser fused; a form that is not known stays as it is."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is None:
        return
    names = Names(model)
    for node in list(model.graph.all_nodes()):
        parts, tape = _PARTS.get(operator(node)) if _is_whole(node) else None, Tape()
        result = None if parts is None else parts(node, tape, version)
        if result is not None:
            _replace(node, tape, result, names)


def _is_whole(node: ir.Node) -> bool:
    """Whether a node reads and makes what it should: no checker knows these operators."""
    most = {"FusedConv": 4, "FusedGemm": 3}.get(node.op_type, 2)
    return len(node.outputs) == 1 and 2 <= len(node.inputs) <= most and None not in node.inputs[:2]


def _replace(node: ir.Node, tape: Tape, result: ir.Value, names: Names) -> None:
    made = list(tape.nodes)
    for new in made:
        is_core = new.op_type in {"Conv", "Gemm", "MatMul"}
        new.name = node.name if is_core and node.name else names.free(f"{node.outputs[0].name}_{new.op_type}")
        if new.outputs[0] is not result:
            new.outputs[0].name = names.free(f"{node.outputs[0].name}_{new.op_type.lower()}")
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, [result])


def _conv(node: ir.Node, tape: Tape, version: int) -> ir.Value | None:
    activation = node.attributes.get_string("activation", "")
    numbers = node.attributes.get_floats("activation_params", [])
    given = dict(zip(_PARAMETERS.get(activation, ()), numbers, strict=False))
    if not _is_known(activation, given, version) or len(numbers) != len(given):
        return None
    y = tape.op("Conv", node.inputs[:3], _but(node, "activation", "activation_params"))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        y = tape.op("Add", [y, node.inputs[3]])
    return _activated(y, activation, given, tape, version, _dtype(node))


def _gemm(node: ir.Node, tape: Tape, version: int) -> ir.Value | None:
    activation = node.attributes.get_string("activation", "")
    prefix = "activation_"
    given = {name.removeprefix(prefix): node.attributes.get_float(name) for name in node.attributes if prefix in name}
    if not _is_known(activation, given, version):
        return None
    y = tape.op("Gemm", node.inputs, _but(node, "activation", *(prefix + name for name in given)))
    return _activated(y, activation, given, tape, version, _dtype(node))


def _matmul(node: ir.Node, tape: Tape, version: int) -> ir.Value | None:
    del version
    if any(node.attributes.get_int(name, 0) == 1 for name in ("transBatchA", "transBatchB")):
        return None
    operands = []
    for value, name in zip(node.inputs, ("transA", "transB"), strict=True):
        if value is not None and node.attributes.get_int(name, 0) == 1:
            rank = None if value.shape is None else len(value.shape)
            if rank is None or rank < 2:
                return None
            value = tape.op("Transpose", [value], {"perm": [*range(rank - 2), rank - 1, rank - 2]})
        operands.append(value)
    y = tape.op("MatMul", operands)
    alpha = node.attributes.get_float("alpha", 1.0)
    return y if alpha == 1.0 else tape.op("Mul", [y, _number(alpha, tape, _dtype(node))])


_PARTS: dict[tuple[str, str], Callable[[ir.Node, Tape, int], ir.Value | None]] = {
    ("com.microsoft", "FusedConv"): _conv,
    ("com.microsoft", "FusedGemm"): _gemm,
    ("com.microsoft", "FusedMatMul"): _matmul,
}


def _is_known(activation: str, given: Iterable[str], version: int) -> bool:
    """Whether ONNX has the activation, and it takes one input and the numbers given."""
    if not activation or activation == "Clip":
        return True
    if not onnx.defs.has(activation, version):
        return False
    schema = onnx.defs.get_schema(activation, version)
    return schema.min_input == 1 and set(given) <= set(schema.attributes)


def _activated(
    y: ir.Value, activation: str, given: dict[str, float], tape: Tape, version: int, dtype: ir.DataType
) -> ir.Value:
    if not activation:
        return y
    if activation == "Clip" and version >= 11:  # its bounds are inputs since
        return tape.op("Clip", [y, *(_number(given[name], tape, dtype) if name in given else None for name in _CLIP)])
    return tape.op(activation, [y], given)


_CLIP = _PARAMETERS["Clip"]


def _number(value: float, tape: Tape, dtype: ir.DataType) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.array(value, dtype.numpy()))})


def _dtype(node: ir.Node) -> ir.DataType:
    known = (value.dtype for value in (*node.inputs, *node.outputs) if value is not None)
    return next((dtype for dtype in known if dtype is not None), ir.DataType.FLOAT)


def _but(node: ir.Node, *names: str) -> dict[str, ir.Attr]:
    return {name: attribute for name, attribute in node.attributes.items() if name not in names}
