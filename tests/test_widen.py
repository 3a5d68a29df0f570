"""Models in half and double precision: features in float32, results in the model's own type."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import ROOT, build, random_plan

from compress.api import Options, prune
from graph.analysis import analyse
from graph.errors import LawError, ModelError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load, save
from graph.runtime import run, session
from graph.shrink import shrink
from graph.widen import widened, widened_feeds

DATA = str(ROOT / "sample_models/digits_calibration.npz")
HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def halved(model: ir.Model) -> ir.Model:
    """Return a model of floats in half precision, its inputs and outputs too."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return ir.from_proto(proto)


def sample(name: str) -> ir.Model:
    return load(ROOT / f"sample_models/digits_{name}.onnx")


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return run(session(model, optimise=False), feeds)


@pytest.mark.parametrize("name", ["mobile", "residual"])
def test_the_twin_computes_the_same_in_float32(name: str) -> None:
    single, half = sample(name), halved(sample(name))
    feeds = example_inputs(half, batch=2)
    twin = widened(half)
    (got,) = outputs(twin, widened_feeds(feeds))
    (low,), (high,) = outputs(half, feeds), outputs(single, widened_feeds(feeds))
    assert (got.dtype, low.dtype) == (np.float32, np.float16)
    scale = np.abs(high).max()
    np.testing.assert_allclose(got, high, rtol=0, atol=5e-3 * scale)  # the weights are rounded
    np.testing.assert_allclose(got, low, rtol=0, atol=5e-3 * scale)  # all between is


def test_types_that_are_stated_are_widened_too() -> None:
    model = build("""(float16[N,2] x, bool c) => (float16[N,2] y, float[N,2] z) <float16[2,2] w = {1,2,3,4}> {
        s = Shape(x)
        zeros = ConstantOfShape(s)
        a = MatMul(x, w)
        eye = EyeLike<dtype = 10>(w)
        b = MatMul(a, eye)
        h = If<then_branch = g1() => (float16[N,2] t) { k = Constant<value = float16 {2}>() t = Mul(b, k) },
               else_branch = g2() => (float16[N,2] e) { e = Identity(b) }>(c)
        z = Cast<to = 1>(h)
        n = Cast<to = 10>(z)
        y = Add(n, zeros)
    }""")
    model.graph[1].attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array([0.5], np.float16)))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    twin = widened(model)
    feeds = example_inputs(model, batch=3)
    for got, want in zip(outputs(twin, widened_feeds(feeds)), outputs(model, feeds), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-2)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert [value.name for value in twin.graph.outputs] == ["y", "z"]


def test_a_model_without_halves_is_its_own_twin() -> None:
    model = sample("mobile")
    assert widened(model) is model


def test_bfloat16_between_layers() -> None:
    """ONNX Runtime has no kernels for it on the CPU, except for Cast."""
    model = build("""(float[N,3] x) => (float[N,4] y) <float[3,6] w1, float[6,4] w2> {
        a = MatMul(x, w1)
        low = Cast<to=16>(a)
        r = Cast<to=1>(low)
        y = MatMul(r, w2)
    }""")
    feeds = {"x": np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)}
    result = prune(model, 0.7, feeds, Options(), latency=False)
    assert [node.op_type for node in result.model.graph] == ["MatMul", "Cast", "Cast", "MatMul"]
    assert result.model.graph[1].attributes["to"].as_int() == ir.DataType.BFLOAT16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(bfloat16[N,3] x) => (bfloat16[N,3] y) { y = Relu(x) }", "it has no Relu of opset 14 for bfloat16 numbers"),
        ("(float[N,3] x) => (bfloat16[N,3] y) { y = Cast<to=16>(x) }", "ONNX Runtime cannot run the model: .*bfloat16"),
    ],
)
def test_bfloat16_that_onnx_runtime_cannot_run_or_show(text: str, message: str) -> None:
    model = build(text)
    with pytest.raises(ModelError, match=message):
        run(session(model), {"x": np.zeros((1, 3), np.float32)})


def test_a_model_in_half_precision_from_end_to_end(tmp_path: Path) -> None:
    model = halved(sample("residual"))
    result = prune(model, 0.5, DATA, Options(samples=32), latency=False)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert result.report.after.agreement is not None and result.report.after.agreement > 0.9
    assert any(repair.ridge is not None for repair in result.report.repairs)
    floats = [value.dtype for value in result.model.graph.initializers.values() if value.dtype in {HALF, SINGLE}]
    assert set(floats) == {HALF}
    assert [value.dtype for value in (*result.model.graph.inputs, *result.model.graph.outputs)] == [HALF, HALF]
    save(result.model, tmp_path / "small.onnx")
    assert load(tmp_path / "small.onnx").graph.outputs[0].dtype == HALF


def test_the_law_is_as_strict_for_halves_as_for_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of some percent, which the rounding of halves would hide."""
    text = "(float[N,16] x) => (float[N,4] y) <float[16,300] w1, float[300,300] w2, float[300,4] w3>"
    model = halved(build(f"{text} {{ a = MatMul(x, w1) b = MatMul(a, w2) y = MatMul(b, w3) }}"))
    analysis = analyse(model)
    plan = random_plan(analysis.channels, np.random.default_rng(0))
    feeds = example_inputs(model, batch=64)
    assert check_law(analysis.model, analysis.channels, plan, feeds).relative_difference < 2e-6

    def faulty(*parts: Any) -> ir.Model:
        small = shrink(*parts)
        weight = small.graph.initializers["w3"]
        weight.const_value = ir.tensor((weight.const_value.numpy() * 1.02).astype(np.float16), name="w3")
        return small

    monkeypatch.setattr("graph.law.shrink", faulty)
    with pytest.raises(LawError, match="output y of the shrunk model differs"):
        check_law(analysis.model, analysis.channels, plan, feeds)


def test_double_precision_where_onnx_runtime_can() -> None:
    model = build("""(double[N,6] x) => (double[N,4] y) <float[6,16] w1, float[16,4] w2> {
        u = Cast<to=11>(w1)
        v = Cast<to=11>(w2)
        a = MatMul(x, u)
        r = Relu(a)
        y = MatMul(r, v)
    }""")
    result = prune(model, 0.6, {"x": np.random.default_rng(0).standard_normal((200, 6))}, Options(), latency=False)
    assert {value.dtype for value in result.model.graph.initializers.values()} == {ir.DataType.DOUBLE}
    assert all(repair.ridge is not None for repair in result.report.repairs[1:])
