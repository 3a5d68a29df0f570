"""A model on 8-bit integers, by ONNX Runtime's own static quantiser, as it is recommended for CPUs.

QuantizeLinear and DequantizeLinear stand around every layer (the QDQ form), which ONNX Runtime fuses into kernels on
integers. Weights are signed bytes with a scale for each output channel; activations are unsigned bytes, whose ranges
are the smallest and the largest value seen on the calibration samples. (Signed activations would be slower than floats
on x86.) x86 processors without VNNI add products of bytes in 16 bits, which overflow: there weights keep 7 bits.

What comes after the last layers with weights (softmax, boxes and scores put together …) stays in floats: there is no
time to gain, and one scale for boxes in pixels and scores below 1 would leave nothing of the scores.
"""

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from calibrate.errors import DataError
from calibrate.source import Source, chunked
from compress.measure import batch_size
from compress.onboard import cpu_flags
from graph.converted import MIXING, converted
from graph.errors import ModelError
from graph.interface import check_interface
from graph.model import INLINE_BYTES, clone, weight_bytes
from graph.names import Names
from graph.runtime import message, run, session
from graph.simplify import forget_inferred, simplify
from graph.standard import standardise

OPSET = 13  # the first in which a scale may be per channel
IR_VERSION = 7  # that goes with it
_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
_WITH_VNNI = {"avx512_vnni", "avx_vnni"}


@dataclass(frozen=True)
class Int8:
    """A model on integers: of `layers` with weights so many `on_integers`, calibrated on so many `samples`.

    `reduced` says that weights have 7 bits, for a processor without VNNI.
    """

    model: ir.Model
    layers: int
    on_integers: int
    samples: int
    reduced: bool

    def sentence(self) -> str:
        """Say how it was made."""
        return (
            f"{self.on_integers} of {self.layers} layers with weights, ranges of {self.samples} samples, weights "
            f"of {7 if self.reduced else 8} bits per channel, activations of 8"
        )


def quantise(model: ir.Model, source: Source, rows: np.ndarray, batch: int | None = None) -> Int8:
    """Return the model on integers, with the interface of `model`, which is not changed.

    It is simplified first, so BatchNormalization is folded. `rows` are the samples that the ranges are taken on, in
    batches of `batch`, or as many as seem reasonable. Raises ModelError for a model that is quantised already, that
    ONNX Runtime's quantiser does not take, or in which it finds no layer to quantise; DataError for samples that
    cannot be read.
    """
    standard, _ = standardise(model)
    if (complaint := converted(standard)) is not None:
        raise ModelError(complaint)
    if (size := weight_bytes(standard)) > INLINE_BYTES:
        raise ModelError(f"weights of {size:,} bytes: what is quantised must fit into one file of {INLINE_BYTES:,}")
    reduced = needs_reduced_range(platform.machine(), cpu_flags())
    try:
        ready = _ready(simplify(standard))
        made = _through_the_quantiser(ready, _Feeds(source, rows, batch or batch_size(source)), reduced)
        new = _as_the_original(ir.from_proto(made), model)
    except (ModelError, DataError, OSError):
        raise
    except Exception as error:  # it is made of asserts and of whatever its helpers raise
        raise ModelError(
            f"ONNX Runtime's quantiser does not take the model ({type(error).__name__}: {message(error)})"
        ) from error
    layers = [node for node in new.graph if _mixes(node)]
    on_integers = sum(map(_on_integers, layers))
    if not on_integers:
        raise ModelError(f"ONNX Runtime's quantiser found nothing to quantise in the model: {_nothing(layers)}")
    check_interface(model, new)
    try:
        run(session(new), source.batch(rows[: batch or 1]))
    except ModelError as error:
        raise ModelError(f"what ONNX Runtime's quantiser made of the model does not run: {error}") from error
    return Int8(new, len(layers), on_integers, len(rows), reduced)


def needs_reduced_range(machine: str, flags: Sequence[str]) -> bool:
    """Whether bytes multiplied on this processor may overflow: x86 without VNNI, or not known to have it."""
    return machine.lower() in _X86 and not _WITH_VNNI & set(flags)


class _Feeds(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """The samples in batches, as the quantiser asks for them."""

    def __init__(self, source: Source, rows: np.ndarray, size: int) -> None:
        self._batches = (source.batch(part) for part in chunked(rows, size))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _ready(model: ir.Model) -> ir.Model:
    """Return the model in an opset with scales per channel, every node under a name of its own."""
    version = model.opset_imports.get("", OPSET)
    if version < OPSET:
        model = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), OPSET))
    names, seen = Names(model), set()
    for node in model.graph:
        if not node.name or node.name in seen:
            node.name = names.free(node.name or f"{node.op_type}_{node.outputs[0].name}")
        seen.add(node.name)
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _through_the_quantiser(model: ir.Model, feeds: _Feeds, reduced: bool) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        inferred, made = Path(folder) / "inferred.onnx", Path(folder) / "made.onnx"
        # its optimiser would write operators of ONNX Runtime's own, and `simplify` has done that work
        quant_pre_process(ir.to_proto(model), inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            made,
            feeds,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_left_in_floats(model),
        )
        return onnx.load(made)


def _left_in_floats(model: ir.Model) -> list[str]:
    """Return the names of the nodes that no layer with weights comes after, and of layers without a kernel."""
    read_by_layers: set[ir.Value | None] = set()
    left = []
    for node in reversed(model.graph):
        layer = _mixes(node)
        if layer or any(value in read_by_layers for value in node.outputs):
            read_by_layers.update(node.inputs)
            if not (layer and _lacks_kernel(node)):
                continue
        left.append(str(node.name))
    return left


def _lacks_kernel(node: ir.Node) -> bool:
    """Whether it is a MatMul whose constant would get a scale for each place on an axis that is not the columns'."""
    if node.op_type != "MatMul":
        return False
    first, second = (
        value.const_value if value is not None and value.is_initializer() else None for value in node.inputs
    )
    return first is not None or (second is not None and len(second.shape) != 2)


def _mixes(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in MIXING


def _on_integers(node: ir.Node) -> bool:
    """Whether all that the layer multiplies comes from integers: ONNX Runtime has kernels for nothing less."""
    made_by = (None if value is None else value.producer() for value in node.inputs[:2])
    return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in made_by)


def _as_the_original(new: ir.Model, original: ir.Model) -> ir.Model:
    """Return it with all that the original says of itself, and without what the quantiser and shape inference added."""
    for kind in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(new, kind, getattr(original, kind))
    new.graph.name, new.graph.doc_string = original.graph.name, original.graph.doc_string
    for owner, before in ((new, original), (new.graph, original.graph)):
        owner.metadata_props.clear()
        owner.metadata_props.update(before.metadata_props)
    for value, declared in zip(new.graph.outputs, clone(original).graph.outputs, strict=True):
        value.type, value.shape = declared.type, declared.shape
    forget_inferred(new, original)
    new.graph.sort()  # the quantiser puts nodes where they do not always belong
    return new


def _nothing(layers: Sequence[ir.Node]) -> str:
    if not layers:
        return "it has no layer with weights"
    first = layers[0]
    return f"{len(layers)} layers with weights stay as they are, the first {first.op_type} {first.name}"
