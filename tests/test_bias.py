"""Biases are given, and what the model computes does not change by a bit."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graph.bias import with_biases
from graph.model import load

SAMPLES = Path(__file__).parents[1] / "sample_models"
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {model.graph.inputs[0].name: x})]


def parse(text: str, weights: dict[str, tuple[int, ...]]) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for name, shape in weights.items():
        array = generator.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def biases(model: ir.Model) -> dict[str, str | None]:
    return {
        str(node.outputs[0].name): node.inputs[2].name if len(node.inputs) > 2 and node.inputs[2] is not None else None
        for node in model.graph
        if node.op_type in {"Conv", "ConvTranspose", "Gemm"}
    }


def everything() -> tuple[ir.Model, np.ndarray]:
    """Return a model with every kind of consumer, and with a bias that three nodes share."""
    text = f"""{HEADER} agraph (float[1,2,5,5] x) => (float[1,7] y) {{
        a = Conv (x, w1)
        b = Conv <group = 2> (a, w2, shared)
        c = ConvTranspose <group = 2> (b, w3)
        d = Conv <group = 4> (c, w4, shared)
        e = Conv (d, w5, shared)
        own = Conv (e, w5, b6)
        p = GlobalAveragePool (own)
        f = Flatten (p)
        g = Gemm (f, w7)
        h = Gemm <transB = 1> (g, w8)
        i = Gemm (h, w9, row)
        y = MatMul (i, w10)
    }}"""
    weights = {
        "w1": (4, 2, 1, 1),
        "w2": (4, 2, 2, 2),
        "shared": (4,),
        "w3": (4, 2, 2, 2),
        "w4": (4, 1, 2, 2),
        "w5": (4, 4, 1, 1),
        "b6": (4,),
        "w7": (4, 5),
        "w8": (6, 5),
        "w9": (6, 6),
        "row": (1, 6),
        "w10": (6, 7),
    }
    return parse(text, weights), np.random.default_rng(1).normal(size=(1, 2, 5, 5)).astype(np.float32)


def test_the_outputs_are_the_same_bits() -> None:
    model, x = everything()
    for before, after in zip(run(model, x), run(with_biases(model), x), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", ["digits_residual", "digits_mobile"])
def test_the_sample_models_give_the_same_bits(name: str) -> None:
    model = load(SAMPLES / f"{name}.onnx")
    x = np.random.default_rng(2).normal(size=(2, 1, 16, 16)).astype(np.float32)
    for before, after in zip(run(model, x), run(with_biases(model), x), strict=True):
        np.testing.assert_array_equal(after, before)


def test_every_node_has_a_bias_of_its_own() -> None:
    model, _ = everything()
    found = biases(with_biases(model))
    assert None not in found.values()
    assert len(set(found.values())) == len(found)
    assert found["own"] == "b6" and found["i"] == "row"  # those that had one of their own keep it


def test_the_biases_have_the_right_sizes() -> None:
    model, _ = everything()
    changed = with_biases(model)
    sizes = {
        node: tuple(changed.graph.initializers[name].const_value.shape)  # type: ignore[union-attr]  # all are given
        for node, name in biases(changed).items()
        if name is not None
    }
    expected = {"a": (4,), "b": (4,), "c": (4,), "d": (4,), "e": (4,), "own": (4,), "g": (5,), "h": (6,), "i": (1, 6)}
    assert sizes == expected


def test_the_model_that_came_in_is_not_changed() -> None:
    model, _ = everything()
    before = ir.to_proto(model).SerializeToString()
    with_biases(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_second_time_changes_nothing() -> None:
    once = with_biases(everything()[0])
    assert ir.to_proto(with_biases(once)).SerializeToString() == ir.to_proto(once).SerializeToString()


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    text = f"""{HEADER} agraph (float[1,2,1,1] a_bias) => (float[1,2,1,1] y) {{
        a = Conv (a_bias, w)
        a_bias_1 = Relu (a)
        y = Add (a, a_bias_1)
    }}"""
    model = parse(text, {"w": (2, 2, 1, 1)})
    changed = with_biases(model)
    assert biases(changed) == {"a": "a_bias_2"}
    x = np.ones((1, 2, 1, 1), np.float32)
    np.testing.assert_array_equal(run(changed, x)[0], run(model, x)[0])


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("y = Conv (x, v)", "its weight is computed"),
        ("y = Conv (x, w, c)", "its bias is computed"),
        ("y = com.microsoft.FusedConv (x, w)", "another domain's operator may mean another thing"),
    ],
)
def test_left_alone(node: str, why: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        agraph (float[1,2,1,1] x) => (float[1,2,1,1] y) {{ v = Identity (w) c = Identity (b) {node} }}"""
    model = parse(text, {"w": (2, 2, 1, 1), "b": (2,)})
    assert ir.to_proto(with_biases(model)).SerializeToString() == ir.to_proto(model).SerializeToString()


def test_half_precision_stays_half_precision() -> None:
    text = f"""{HEADER} agraph (float16[1,2,1,1] x) => (float16[1,3,1,1] y) <float16[3,2,1,1] w = {{1, 2, 3, 4, 5, 6}}>
        {{ y = Conv (x, w) }}"""
    changed = with_biases(ir.from_proto(onnx.parser.parse_model(text)))
    assert changed.graph.initializers["y_bias"].dtype == ir.DataType.FLOAT16
