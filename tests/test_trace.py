"""Shapes, dtypes and small integers from one run."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import build

from graph.errors import ModelError
from graph.trace import SMALL, trace

SHAPES = """(float[N,3,H,8] x) => (float[N,M] y) <int64 zero = {0}, int64[1] ax = {0}, int64[1] rest = {-1}> {
    shape = Shape(x)
    n = Gather(shape, zero)
    nn = Unsqueeze(n, ax)
    to = Concat<axis=0>(nn, rest)
    flag = Greater(x, x)
    y = Reshape(x, to)
}"""


def test_every_value_is_shown() -> None:
    model = build(SHAPES)
    seen = trace(model, {"x": np.zeros((2, 3, 5, 8), np.float32)})
    assert seen.shapes["y"] == (2, 120)
    assert seen.dtypes["y"] == np.float32
    assert seen.dtypes["flag"] == np.bool_
    assert seen.shapes["x"] == (2, 3, 5, 8)
    assert seen.shapes["rest"] == (1,)
    np.testing.assert_array_equal(seen.integers["shape"], [2, 3, 5, 8])
    np.testing.assert_array_equal(seen.integers["to"], [2, -1])


def test_large_integers_and_floats_are_not_kept() -> None:
    model = build("(float[N,3] x) => (int64[N,3] y) { y = Cast<to=7>(x) }")
    assert set(trace(model, {"x": np.zeros((2, 3), np.float32)}).integers) == {"y"}
    assert set(trace(model, {"x": np.zeros((SMALL, 3), np.float32)}).integers) == set()


def test_a_model_that_asks_for_terabytes_is_refused() -> None:
    model = build("""(float[1] x) => (float[N,M] y) <int64[2] size = {1000000,1000000}> {
        big = ConstantOfShape(size)
        y = Add(big, x)
    }""")
    with pytest.raises(ModelError, match=r"asks for 4,000,000,000,000 bytes, .* at ConstantOfShape"):
        trace(model)


def test_a_model_that_cannot_run_is_one_clear_error() -> None:
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")
    value = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])]),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("nowhere", 1)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model"):
        trace(ir.from_proto(proto))


def test_a_name_without_end_does_not_keep_the_error_waiting() -> None:
    node = onnx.helper.make_node("a" * 100_000, ["x"], ["y"], domain="nowhere")
    value = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])]),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("nowhere", 1)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model") as refused:
        trace(ir.from_proto(proto))
    assert len(str(refused.value)) < 10_000
