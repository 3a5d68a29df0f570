"""Models that were already converted for running: quantised, or laid out for one kind of processor."""

import onnx_ir as ir

from graph.registry import operator

MIXING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# fmt: off - rows read better than a column
_ON_INTEGERS = frozenset(
    {
        ("", "ConvInteger"),
        ("", "MatMulInteger"),
        ("", "QLinearConv"),
        ("", "QLinearMatMul"),
        ("com.microsoft", "DynamicQuantizeMatMul"),
        ("com.microsoft", "MatMulIntegerToFloat"),
        ("com.microsoft", "QGemm"),
        ("com.microsoft", "QLinearConv"),
    }
)
# fmt: on
_LAYOUT = "com.microsoft.nchwc"


def converted(model: ir.Model) -> str | None:
    """Return a sentence where layers of the model run on integers or in a processor's own layout, else None."""
    nodes = list(model.graph.all_nodes())
    if found := [node for node in nodes if _runs_on_integers(node)]:
        return (
            f"the model is already quantised ({_listed(found, 'on integers')}): prune the float model, then "
            "quantise what comes of it"
        )
    if found := [node for node in nodes if node.domain == _LAYOUT]:
        return (
            f"ONNX Runtime laid the model out for one kind of processor ({_listed(found, f'of {_LAYOUT}')}): prune "
            "the model that it was made from"
        )
    return None


def _runs_on_integers(node: ir.Node) -> bool:
    if operator(node) in _ON_INTEGERS:
        return True
    return operator(node)[0] == "" and node.op_type in MIXING and _is_dequantised(node.inputs[0])


def _is_dequantised(value: ir.Value | None) -> bool:
    """Whether a value is an activation that comes from integers."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear" and not _is_constant(producer.inputs[0])


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and (value.is_initializer() or ir.convenience.get_const_tensor(value) is not None)


def _listed(nodes: list[ir.Node], how: str) -> str:
    first = nodes[0]
    counted = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{counted} {how}, the first {first.op_type} {first.name or first.outputs[0].name}"
