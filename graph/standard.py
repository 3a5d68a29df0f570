"""A model in ONNX's own operators with plain weights, so that the rest of the program meets each thing in one form."""

import onnx_ir as ir
from onnx_ir.passes import PassError, common

from graph.model import clone
from graph.stored import Stored, unpack
from graph.unfuse import unfuse


def standardise(model: ir.Model) -> tuple[ir.Model, tuple[Stored, ...]]:
    """Return a new model with the same meaning, and how the file stored the weights that are unpacked in it.

    The bodies of model-local functions stand where they were called; what ONNX Runtime fused is taken apart; constants
    are initializers, which are no longer listed as inputs (IR version 3 becomes 4 for that), and those in a narrow
    number format are float32.
    """
    new = _inlined(clone(model))
    new.ir_version = max(new.ir_version, 4)
    common.RemoveInitializersFromInputsPass()(new)
    unfuse(new)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(new)
    _share_again(new)
    return new, unpack(new)


def _share_again(model: ir.Model) -> None:
    """Let whoever reads a constant through an Identity read the constant itself.

    torch's exporter writes weights that branches share in this way; folded, each branch would have a copy of its own.
    """
    for node in list(model.graph):
        value, made = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type == "Identity" and value is not None and value.is_initializer() and not made.is_graph_output():
            made.replace_all_uses_with(value)
            model.graph.remove(node, safe=True)


def _inlined(model: ir.Model) -> ir.Model:
    """Put the bodies of functions in the place of their calls, as far as onnx-ir can; other calls stay."""
    if not model.functions:
        return model

    def fits(function: ir.Function) -> bool:
        # an output that is an input has no node to carry its name
        outputs, imports = set(function.outputs), function.opset_imports.items()
        return (
            all(model.opset_imports.get(domain, version) == version for domain, version in imports)
            and len(outputs) == len(function.outputs)
            and not outputs & set(function.inputs)
        )

    new = clone(model)
    try:
        common.InlinePass(fits)(new)
        common.RemoveUnusedFunctionsPass()(new)  # type: ignore[no-untyped-call]  # onnx-ir forgot it
    except (PassError, ValueError):  # recursion, or a graph as a parameter
        return model
    return new
