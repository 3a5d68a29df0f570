"""What callers of a model rely on: it is valid ONNX, and its inputs and outputs are those that it always had."""

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from graph.errors import LawError
from graph.model import INLINE_BYTES, weight_bytes


def check_interface(original: ir.Model, small: ir.Model) -> None:
    """Raise `LawError` where `small` is refused by onnx.checker or states other inputs or outputs than `original`.

    Compared are names, types, and every size or name of a size, in their order; initializers are no inputs.
    """
    for kind, before, now in (
        ("inputs", _declared(original.graph.inputs), _declared(small.graph.inputs)),
        ("outputs", _declared(original.graph.outputs), _declared(small.graph.outputs)),
    ):
        if before != now:
            raise LawError(f"the {kind} changed: {', '.join(before)} became {', '.join(now)}")
    if weight_bytes(small) > INLINE_BYTES:
        return  # the checker takes no model that does not fit into one message
    try:
        onnx.checker.check_model(ir.to_proto(small))
    except onnx.checker.ValidationError as error:
        raise LawError(f"the new model is not valid ONNX: {str(error).splitlines()[0]}") from error


def _declared(values: Sequence[ir.Value]) -> list[str]:
    return [f"{value.name} {value.type} {value.shape}" for value in values if not value.is_initializer()]
