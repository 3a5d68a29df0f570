"""Weights in narrow number formats: seen as floats, pruned, and written as they were."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import ROOT, build, random_plan

from compress.api import Options, prune
from graph.analysis import analyse
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load, weight_bytes
from graph.runtime import run, session
from graph.shrink import shrink
from graph.standard import standardise
from graph.stored import pack

CHAIN = """(float[N,3,6,6] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    r = Relu(a)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    y = Gemm(f, w2)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "w2": (8, 5)}
INT4 = np.dtype(ml_dtypes.int4)


def stored(dtype: object, *, axis: int | None = None, blocks: bool = False, opset: int = 21) -> ir.Model:
    """Return the chain with both weights behind a Cast (floats) or a DequantizeLinear (integers)."""
    model = build(CHAIN.replace("=> (float[N,5] y) {", "=> (float[N,5] y) <float[8,3,3,3] w1, float[8,5] w2> {"), opset)
    return behind(model, np.dtype(dtype), axis, blocks)


def behind(model: ir.Model, dtype: np.dtype, axis: int | None = None, blocks: bool = False) -> ir.Model:
    """Put every weight of a convolution or Gemm behind a node that makes it from numbers of another type."""
    graph = model.graph
    first = graph[0]
    for name in [str(node.inputs[1].name) for node in list(graph) if node.op_type in {"Conv", "Gemm"}]:
        value = graph.initializers.pop(name)
        weight = value.const_value.numpy()
        if np.dtype(dtype).kind == "f" or dtype == ml_dtypes.bfloat16:
            arrays, operator, attributes = [weight.astype(dtype)], "Cast", {"to": 1}
        else:
            arrays, attributes = quantised(weight, dtype, axis, blocks)
            operator = "DequantizeLinear"
        inputs = []
        for suffix, array in zip(("stored", "scale", "zero"), arrays, strict=False):
            tensor = ir.tensor(array, name=f"{name}_{suffix}")
            inputs.append(ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype)))
            inputs[-1].shape = ir.Shape(array.shape)
            graph.register_initializer(inputs[-1])
        node = ir.node(operator, inputs, attributes)
        node.outputs[0].name = name
        value.replace_all_uses_with(node.outputs[0])
        graph.insert_before(first, node)
    return model


def quantised(
    weight: np.ndarray, dtype: np.dtype, axis: int | None, blocks: bool
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Quantise over the whole range, so that the zero point of unsigned numbers lies anywhere."""
    limits = ml_dtypes.iinfo(dtype)
    if blocks:
        size = weight.shape[0] // 2
        scale = np.abs(weight.reshape(2, size, -1)).max(1).astype(np.float32).reshape(2, *weight.shape[1:]) / limits.max
        return [np.rint(weight / scale.repeat(size, 0)).astype(dtype), scale], {"axis": 0, "block_size": size}
    others = tuple(i for i in range(weight.ndim) if axis is None or i != axis)
    low, high = weight.min(others, keepdims=True), weight.max(others, keepdims=True)
    if limits.min < 0:
        scale, zero = np.maximum(-low, high) / int(limits.max), np.zeros_like(low)
    else:
        scale = (high - low) / int(limits.max)
        zero = np.rint(-low / scale)
    whole = np.clip(np.rint(weight / scale) + zero, int(limits.min), int(limits.max)).astype(dtype)
    shape = () if axis is None else (-1,)
    return [whole, scale.astype(np.float32).reshape(shape), zero.astype(dtype).reshape(shape)], (
        {} if axis is None else {"axis": axis}
    )


FORMS = {
    "float16": lambda: stored(np.float16),
    "bfloat16": lambda: stored(ml_dtypes.bfloat16),
    "int8": lambda: stored(np.int8, opset=11),
    "uint8": lambda: stored(np.uint8),
    "int8 by axis 0": lambda: stored(np.int8, axis=0, opset=13),
    "uint8 by axis 1": lambda: stored(np.uint8, axis=1),
    "int16": lambda: stored(np.int16, axis=0),
    "uint16": lambda: stored(np.uint16),
}
Make = Callable[[], ir.Model]


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(model, optimise=False), feeds)[0]


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_weights_are_seen_pruned_and_written_in_the_same_form(make: Make) -> None:
    model = make()
    feeds = example_inputs(model, batch=2)
    analysis = analyse(model)
    assert [len(group.channels) for group in analysis.channels.groups] == [8]
    assert analysis.original.params == 8 * 27 + 8 * 5
    plan = random_plan(analysis.channels, np.random.default_rng(0))
    check_law(analysis.model, analysis.channels, plan, feeds)
    small = shrink(analysis.model, analysis.channels, plan)
    packed, notes = pack(small, analysis.stored)
    assert notes == ()
    assert weight_bytes(packed) < weight_bytes(model)
    kinds = ("Cast", "DequantizeLinear")
    form = Counter(node.op_type for node in model.graph if node.op_type in kinds)
    assert Counter(node.op_type for node in packed.graph if node.op_type in kinds) == form
    assert {str(name) for name in model.graph.initializers} <= {str(name) for name in packed.graph.initializers}
    want = outputs(small, feeds)
    np.testing.assert_allclose(outputs(packed, feeds), want, rtol=0, atol=0.03 * np.abs(want).max())


@pytest.mark.parametrize("make", [*FORMS.values(), lambda: stored(INT4, blocks=True)], ids=[*FORMS, "int4 in blocks"])
def test_weights_that_did_not_change_get_their_old_numbers_back(make: Make) -> None:
    model = make()
    standard, records = standardise(model)
    assert Counter(node.op_type for node in standard.graph)["DequantizeLinear"] == 0
    assert len(records) == 2 and not set(model.graph.initializers) & set(standard.graph.initializers)
    feeds = example_inputs(model, batch=2)
    np.testing.assert_array_equal(outputs(standard, feeds), outputs(model, feeds))
    packed, notes = pack(standard, records)
    assert notes == ()
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(packed.graph.initializers[name].const_value.numpy(), value.const_value.numpy())
        assert packed.graph.initializers[name].dtype == value.dtype
    np.testing.assert_array_equal(outputs(packed, feeds), outputs(model, feeds))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_fitted_weights_are_rounded_to_the_nearest_step(dtype: type, axis: int | None) -> None:
    model = stored(dtype, axis=None if axis is None else axis % 2)
    standard, records = standardise(model)
    records = tuple(
        replace(each, node=ir.node("DequantizeLinear", [], {} if axis is None else {"axis": axis})) for each in records
    )
    fitted = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    fitted[3] = 0  # a channel of zeros has no scale
    standard.graph.initializers["w2"].const_value = ir.tensor(fitted)
    packed, _ = pack(standard, records)
    whole, scale, zero = (value.const_value.numpy() for value in packed_inputs(packed, "w2"))
    assert whole.dtype == dtype and zero.dtype == dtype
    across = {None: None, 0: 1, 1: 0, -1: 0}[axis]
    largest = np.abs(fitted).max(across, keepdims=across is not None)
    broadcast = scale if axis is None else np.expand_dims(scale, across)
    top = {1: 127, 2: 32767}[np.dtype(dtype).itemsize]
    np.testing.assert_allclose(broadcast, np.where(largest > 0, largest / top, 1), rtol=1e-6)
    assert (zero == (0 if np.dtype(dtype).kind == "i" else top + 1)).all()
    back = (whole.astype(np.float64) - zero.ravel()[0].astype(np.float64)) * broadcast
    assert (np.abs(back - fitted) <= 0.501 * np.broadcast_to(broadcast, fitted.shape)).all()


def packed_inputs(model: ir.Model, weight: str) -> list[ir.Value]:
    (node,) = [node for node in model.graph if node.outputs[0].name == weight]
    return [value for value in node.inputs if value is not None]


def changed(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Unpack, change the weights, and pack."""
    standard, records = standardise(model)
    for name in ("w1", "w2"):
        value = standard.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.1), name=name)
    return pack(standard, records)


def test_forms_that_cannot_be_written_again_are_noted() -> None:
    packed, notes = changed(stored(INT4, blocks=True))
    assert notes == ("2 weights that the file stores as int4 are written as float32 (the first: w1)",)
    assert packed.graph.initializers["w1"].dtype == ir.DataType.FLOAT
    outputs(packed, example_inputs(packed))


def test_halves_that_would_overflow_stay_float32() -> None:
    model = stored(np.float16)
    largest = model.graph.initializers["w2_stored"].const_value.numpy().copy()
    largest[0, 0] = 65000
    model.graph.initializers["w2_stored"].const_value = ir.tensor(largest)
    packed, notes = changed(model)
    assert notes == ("1 weight that the file stores as float16 is written as float32 (the first: w2)",)
    assert packed.graph.initializers["w1_stored"].dtype == ir.DataType.FLOAT16


def test_a_weight_that_became_part_of_another_is_noted() -> None:
    model = build("""(float[N,3] x) => (float[N,4] y) <float16[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
        wide = Cast<to=1>(w)
        t = Transpose(wide)
        y = MatMul(x, t)
    }""")
    analysis = analyse(model)
    packed, notes = pack(analysis.model, analysis.stored)
    assert notes == ("1 weight that the file stores as float16 is written as float32 (the first: wide)",)
    np.testing.assert_array_equal(outputs(packed, feeds := example_inputs(model)), outputs(model, feeds))


def test_double_precision_behind_a_cast_is_not_worth_keeping() -> None:
    standard, records = standardise(stored(np.float64))
    assert records == () and standard.graph.initializers["w1"].dtype == ir.DataType.FLOAT


def test_a_scale_that_two_weights_share() -> None:
    model = stored(np.int8)
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            node.replace_input_with(1, model.graph.initializers["w1_scale"])
    del model.graph.initializers["w2_scale"]
    standard, records = standardise(model)
    assert "w1_scale" not in standard.graph.initializers
    packed, _ = pack(standard, records)
    np.testing.assert_array_equal(outputs(packed, feeds := example_inputs(model)), outputs(model, feeds))


def test_weights_of_layers_that_run_on_integers_are_left_alone() -> None:
    model = build("""(float[N,3,6,6] x) => (float[N,4,6,6] y)
        <int8[4,3,1,1] q = {1,2,3,4,5,6,7,8,9,10,11,12}, float s = {0.1}, int8 z = {0}> {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        w = DequantizeLinear(q, s, z)
        y = Conv(xd, w)
    }""")
    standard, records = standardise(model)
    assert records == () and [node.op_type for node in standard.graph] == [node.op_type for node in model.graph]


def test_a_sample_model_from_end_to_end() -> None:
    data = str(ROOT / "sample_models/digits_calibration.npz")
    model = behind(load(ROOT / "sample_models/digits_residual.onnx"), np.dtype(np.int8), 0)
    result = prune(model, 0.5, data, Options(samples=32), latency=False)
    assert result.report.after.agreement is not None and result.report.after.agreement > 0.9
    assert result.report.before.file_bytes is not None and result.report.after.file_bytes is not None
    assert result.report.after.file_bytes < 0.7 * result.report.before.file_bytes
    assert result.report.after.params < result.report.before.params < 180_000
    kinds = {value.dtype for value in result.model.graph.initializers.values()}
    assert ir.DataType.INT8 in kinds
