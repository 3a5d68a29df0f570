"""What ONNX Runtime's optimiser fused is taken apart, and computes the same."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from small_graphs import build, table

from graph.couple import couple
from graph.inputs import example_inputs
from graph.runtime import run, session
from graph.simplify import simplify
from graph.standard import standardise
from graph.trace import trace
from graph.unfuse import unfuse

CONV = "(float[N,3,5,5] x) => (float[N,4,5,5] y) <float[4,3,3,3] w, float[4] b, float lo = {-0.3}, float hi = {0.4}>"
GEMM = "(float[N,3] x) => (float[N,4] y) <float[3,4] w, float[4] b>"
PAIR = "(float[N,2,3] x, float[N,2,3] z) => (float[N,2,2] y) <float[3,4] w>"


def domains(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes() if node.domain not in {"", "ai.onnx"}]


def equal(left: ir.Model, right: ir.Model) -> None:
    feeds = example_inputs(left, batch=2)
    for a, b in zip(*(run(session(each, optimise=False), feeds) for each in (left, right)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "activation",
    [
        "Relu(a)",
        "Sigmoid(a)",
        "Tanh(a)",
        "LeakyRelu<alpha=0.2>(a)",
        "HardSigmoid<alpha=0.3, beta=0.4>(a)",
        "Clip(a, lo, hi)",
    ],
)
def test_what_onnx_runtime_fuses_into_a_conv(activation: str, tmp_path: Path) -> None:
    fused = optimised(build(f"{CONV} {{ a = Conv<pads=[1,1,1,1]>(x, w, b) y = {activation} }}"), tmp_path)
    assert domains(fused) == ["FusedConv"]
    plain, _ = standardise(fused)
    assert [node.op_type for node in plain.graph] == ["Conv", activation.split("(")[0].split("<")[0]]
    equal(fused, plain)


@pytest.mark.parametrize(
    "activation",
    [
        "Relu(a)",
        "LeakyRelu<alpha=0.2>(a)",
        "HardSigmoid<alpha=0.3, beta=0.4>(a)",
        "Elu<alpha=0.5>(a)",
        "Softplus(a)",
        "ThresholdedRelu<alpha=0.3>(a)",
        "Selu<alpha=1.5, gamma=1.2>(a)",
    ],
)
def test_what_onnx_runtime_fuses_into_a_gemm(activation: str, tmp_path: Path) -> None:
    fused = optimised(build(f"{GEMM} {{ a = Gemm<alpha=0.5, beta=2.0>(x, w, b) y = {activation} }}"), tmp_path)
    assert domains(fused) == ["FusedGemm"]
    plain, _ = standardise(fused)
    assert [node.op_type for node in plain.graph] == ["Gemm", activation.split("(")[0].split("<")[0]]
    equal(fused, plain)


def test_a_residual_block_with_the_sum_inside() -> None:
    fused = build("""(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w1, float[6] b1, float[6,6,1,1] w2, float[6] b2, float[5,6,1,1] w3> {
        a = com.microsoft.FusedConv<activation="Relu">(x, w1, b1)
        b = com.microsoft.FusedConv<activation="Relu">(a, w2, b2, a)
        y = Conv(b, w3)
    }""")
    simple = simplify(fused)
    equal(fused, simple)
    assert table(couple(simple, trace(simple))) == ["a_Conv 6: w1.0 w2.0 | b1.0 b2.0 | w2.1 w3.1"]


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        (f"{CONV} {{ y = com.microsoft.FusedConv<pads=[1,1,1,1]>(x, w, b) }}", ["Conv"]),
        (
            f'{CONV} {{ y = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Relu">(x, w) }}',
            ["Conv", "Relu"],
        ),
        (f"{PAIR} {{ y = com.microsoft.FusedMatMul<transB=1>(x, z) }}", ["Transpose", "MatMul"]),
        (f"{PAIR} {{ y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, z) }}", ["Transpose", "MatMul", "Mul"]),
        (
            "(float[N,3,2] x, float[N,3,4] z) => (float[N,2,4] y) { y = com.microsoft.FusedMatMul<transA=1>(x, z) }",
            ["Transpose", "MatMul"],
        ),
    ],
)
def test_forms_written_by_hand(text: str, operators: list[str]) -> None:
    fused = build(text)
    plain, _ = standardise(fused)
    assert [node.op_type for node in plain.graph] == operators
    equal(fused, plain)


def test_the_bounds_of_clip_are_attributes_before_opset_11() -> None:
    fused = build(
        f'{CONV} {{ y = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Clip", '
        "activation_params=[-0.5,0.5]>(x, w, b) }",
        opset=9,
    )
    plain, _ = standardise(fused)
    assert [node.op_type for node in plain.graph] == ["Conv", "Clip"]
    equal(fused, plain)


def test_a_weight_that_was_transposed_inside_is_pruned() -> None:
    fused = build("""(float[N,3] x) => (float[N,5] y) <float[6,3] w1, float[5,6] w2> {
        a = com.microsoft.FusedMatMul<transB=1>(x, w1)
        r = Relu(a)
        y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(r, w2)
    }""")
    simple = simplify(fused)
    equal(fused, simple)
    assert [len(group.channels) for group in couple(simple, trace(simple)).groups] == [6]


@pytest.mark.parametrize(
    "text",
    [
        f'{CONV} {{ y = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Mystery">(x, w) }}',
        f'{CONV} {{ y = com.microsoft.FusedConv<activation="LeakyRelu", activation_params=[0.1,0.2]>(x, w) }}',
        f'{GEMM} {{ y = com.microsoft.FusedGemm<activation="PRelu">(x, w, b) }}',
        f'{GEMM} {{ y = com.microsoft.FusedGemm<activation="Relu", activation_alpha=0.5>(x, w, b) }}',
        f"{PAIR} {{ y = com.microsoft.FusedMatMul<transBatchA=1>(x, z) }}",
        f"{PAIR} {{ u = com.microsoft.Gelu(z) y = com.microsoft.FusedMatMul<transB=1>(x, u) }}",
    ],
    ids=["activation", "numbers", "two inputs", "a number too many", "batch", "unknown rank"],
)
def test_forms_that_are_not_known_stay(text: str) -> None:
    assert domains(standardise(build(text))[0]) == domains(build(text))


def test_names_stay_and_none_is_given_twice() -> None:
    fused = build("""(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[4,3,1,1] w, float[4,4,1,1] y_conv, float[4] b> {
        c = com.microsoft.FusedConv<activation="Relu">(x, w)
        y = com.microsoft.FusedConv<activation="Relu">(c, y_conv)
    }""")
    fused.graph[0].name, fused.graph[1].name = "first", "second"
    plain, _ = standardise(fused)
    assert [node.name for node in plain.graph if node.op_type == "Conv"] == ["first", "second"]
    assert [node.outputs[0].name for node in plain.graph] == ["c_conv", "c", "y_conv_1", "y"]
    assert len({node.name for node in plain.graph}) == len(plain.graph)


def optimised(model: ir.Model, folder: Path) -> ir.Model:
    """Return what ONNX Runtime's optimiser makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return ir.load(folder / "optimised.onnx")


def test_a_node_with_an_output_too_many_is_left_alone() -> None:
    model = build("(float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] w> { y = com.microsoft.FusedConv(x, w) }")
    node = model.graph.node(0)
    node.resize_outputs(2)
    unfuse(model)
    assert [node.op_type for node in model.graph] == ["FusedConv"]
