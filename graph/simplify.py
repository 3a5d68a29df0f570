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

from graph.model import clone

LARGEST_MADE = 2**16  # elements that an operator may make out of fewer when it is folded
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
    "FusedConv": (2,),
    "Gemm": (2,),
    "PRelu": (1,),
}


def simplify(model: ir.Model, keep_batchnorm: bool = False) -> ir.Model:
    """Return a new model that computes the same with fewer nodes.

    Weights end up as initializers where they were Constant nodes or reached their user through Identity, Reshape,
    Transpose …; an initializer is no longer listed as an input (which takes IR version 4, so version 3 is raised);
    a per-channel vector that several nodes share, as exporters do to save space, is given to each of them.
    With `keep_batchnorm` the BatchNormalization nodes stay.
    """
    new = clone(model)
    noted = _notes(new)
    if new.ir_version < 4:
        new.ir_version = 4
    common.RemoveInitializersFromInputsPass()(new)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(new)
    _infer_shapes_afresh(new)
    for _ in range(2):  # what is folded shows the shapes that the second round folds with
        fold_constants(new, should_fold=_may_fold)
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
    return new


def _infer_shapes_afresh(model: ir.Model) -> None:
    """Forget the declared shapes of intermediate values, which may be stale, so that nothing is folded by them."""
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)


def _may_fold(node: ir.Node) -> bool | None:
    """Fold any operator on constants, whatever their size, unless it makes a lot out of little."""
    made = _made_elements(node)
    if made is not None:
        return made <= LARGEST_MADE
    if node.op_type in _GROWING:
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
            if 1 < value.const_value.size <= LARGEST_COPIED:
                node.replace_input_with(index, _copy(model.graph, value, f"{value.name}_{node.outputs[0].name}"))


def _copy(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    assert value.const_value is not None
    tensor = ir.tensor(value.const_value.numpy(), dtype=value.dtype, name=name)
    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=tensor)
    graph.register_initializer(copy)
    return copy


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
