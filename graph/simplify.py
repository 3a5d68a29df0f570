"""A plainer graph with the same meaning: constants folded, Identity and dead nodes gone, BatchNormalization fused.

All of it is done by the passes of onnx-ir and onnxscript; this file only chooses them and bounds what they fold.
"""

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from graph.constants import add_initializer, replace_by_constant
from graph.runtime import run_node
from graph.standard import standardise

LARGEST_MADE = 2**16  # elements that an operator may make out of fewer when it is folded
LARGEST_FOLDED = 2**28  # elements of a constant that is made out of others of its size
LARGEST_COPIED = 2**16  # elements of a shared vector that is given to each of its users
# fmt: off - rows read better than a column
_GROWING = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "Tile",
        "Range",
        "OneHot",
        "EyeLike",
        "Pad",
        "Resize",
        "Upsample",
        "Einsum",
        "MatMul",
        "Gemm",
        "Conv",
        "ConvTranspose",
        "Compress",
        "NonZero",
        "Unique",
        "DequantizeLinear",
        "QuantizeLinear",
    }
)
# fmt: on
# inputs that hold one number per channel
_PER_CHANNEL = {
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "PRelu": (1,),
    "LayerNormalization": (1, 2),
    "Add": (0, 1),  # the bias of a MatMul
    "Mul": (0, 1),
}


def simplify(model: ir.Model, keep_batchnorm: bool = False) -> ir.Model:
    """Return a new model that computes the same with fewer nodes, all in standard form (see `standardise`).

    Weights end up as initializers where they reached their user through Identity, Reshape, Transpose …; a per-channel
    vector that several nodes share, as exporters do to save space, is given to each of them. With `keep_batchnorm` the
    BatchNormalization nodes stay.
    """
    new, _ = standardise(model)
    noted = _notes(new)
    declared = [(value.type, None if value.shape is None else value.shape.copy()) for value in new.graph.outputs]
    _infer_shapes_afresh(new)
    _fold(new)
    _fold_standardised_weights(new)
    _fold(new)  # what is folded shows the shapes that the second round folds with
    if not keep_batchnorm and not any(map(_is_unusual_batchnorm, new.graph)):
        RewritePass(
            [
                fuse_batchnorm_into_conv_rule,
                fuse_batchnorm_into_conv_transpose_rule,
                fuse_batchnorm_into_gemm_rule,
            ]
        )(new)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(new)
    _give_each_user_its_own(new)
    common.RemoveUnusedNodesPass()(new)
    _drop_notes(new, noted)
    for value, (kind, shape) in zip(new.graph.outputs, declared, strict=True):
        value.type, value.shape = kind, shape  # as the user declared them, whatever was inferred
    return new


def forget_inferred(model: ir.Model, original: ir.Model) -> None:
    """Take away, in place, the types and shapes of values that the user's model does not declare: they cost room."""
    declared = {value.name for node in original.graph for value in node.outputs if value.shape is not None}
    for node in model.graph:
        for value in node.outputs:
            if value.name not in declared and not value.is_graph_output():
                value.type = value.shape = None


def _infer_shapes_afresh(model: ir.Model) -> None:
    """Forget the declared shapes of intermediate values, which may be stale, so that nothing is folded by them."""
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)


def _fold(model: ir.Model) -> None:
    # `_may_fold` bounds what is made; the limit would keep large weights that two nodes read from being folded
    fold_constants(model, should_fold=_may_fold, output_size_limit=LARGEST_FOLDED)


def _fold_standardised_weights(model: ir.Model) -> None:
    """Fold each BatchNormalization of a constant, which is how weight standardisation is exported.

    onnxscript folds by onnx's reference, which has no training mode.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    for node in list(model.graph):
        first, *others = node.outputs
        used = any(value.uses() or value.is_graph_output() for value in others)
        if node.op_type != "BatchNormalization" or used or first.is_graph_output():
            continue
        feeds = {str(v.name): v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None}
        if len(feeds) == len(set(node.inputs)):
            replace_by_constant(model.graph, node, run_node(node, feeds, opset)[0])


def _may_fold(node: ir.Node) -> bool | None:
    """Fold any operator on constants, whatever their size, unless it makes a lot out of little."""
    made = _made_elements(node)
    if made is not None:
        return made <= LARGEST_MADE
    if node.op_type in _GROWING or (node.op_type == "BatchNormalization" and len(node.outputs) > 1):
        return False
    arrays = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value is not None]
    try:
        broadcast = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    except ValueError:
        return True  # not elementwise, so it makes no more than it reads
    return broadcast <= max(LARGEST_MADE, 4 * max((array.size for array in arrays), default=0))


def _made_elements(node: ir.Node) -> int | None:
    """Return how many elements an operator with a stated output shape makes, or None where that is not stated."""
    index = {"ConstantOfShape": 0, "Expand": 1}.get(node.op_type)
    value = None if index is None else node.inputs[index]
    if value is None or value.const_value is None:
        return None
    sizes: list[int] = value.const_value.numpy().ravel().tolist()
    return math.prod(sizes)


def _is_unusual_batchnorm(node: ir.Node) -> bool:
    """Whether onnxscript's rule, which reads neither attribute, would take this node for what it is not."""
    return node.op_type == "BatchNormalization" and (
        node.attributes.get_int("training_mode", 0) == 1 or node.attributes.get_int("spatial", 1) == 0
    )


def _give_each_user_its_own(model: ir.Model) -> None:
    """Copy the per-channel vectors that several nodes share.

    Exporters store equal tensors once (all-zero means, all-one scales). Sharing them would tie the channels of
    layers that have nothing to do with one another.
    """
    for node in model.graph:
        for index in _PER_CHANNEL.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or not value.is_initializer() or len(value.uses()) < 2 or value.const_value is None:
                continue
            if 1 < value.const_value.size == max(value.const_value.shape.numpy()) <= LARGEST_COPIED:
                node.replace_input_with(index, _copy(model.graph, value, f"{value.name}_{node.outputs[0].name}"))


def _copy(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    assert value.const_value is not None
    return add_initializer(graph, name, value.const_value.numpy())


def _notes(model: ir.Model) -> set[str]:
    return {key for owner in _owners(model) for key in owner.metadata_props}


def _drop_notes(model: ir.Model, noted: set[str]) -> None:
    """Take away the metadata that the passes wrote, keeping the user's."""
    for owner in _owners(model):
        for key in [key for key in owner.metadata_props if key not in noted]:
            del owner.metadata_props[key]


def _owners(model: ir.Model) -> Iterator[ir.Node | ir.Value | ir.Graph | ir.Model]:
    for node in model.graph.all_nodes():
        yield node
        yield from node.outputs
    yield from model.graph.initializers.values()
    yield model.graph
    yield model
