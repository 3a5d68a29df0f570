"""Models that were already converted for running are told apart, and declined in one sentence."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from small_graphs import build

from compress.cli import main
from graph.analysis import analyse
from graph.converted import converted
from graph.model import load, save

NET = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,5] w3, float[5] b3> {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, w2, b2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm(f, w3, b3)
}"""
QUANTISED = "the model is already quantised"


class Samples(CalibrationDataReader):
    """A few random images, as the quantiser wants them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(2)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.fixture
def net(tmp_path: Path) -> Path:
    save(build(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def quantise(net: Path, how: str) -> Path:
    target = net.with_name("quantised.onnx")
    if how == "dynamic":
        quantize_dynamic(net, target)
    else:
        quantize_static(net, target, Samples(), quant_format=QuantFormat[how], per_channel=how == "QDQ")
    return target


@pytest.mark.parametrize(
    ("how", "count", "first"), [("QDQ", 3, "Conv"), ("QOperator", 3, "QLinearConv"), ("dynamic", 3, "ConvInteger")]
)
def test_quantised_models(how: str, count: int, first: str, net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = quantise(net, how)
    assert main(["prune", str(path), "--target-flops", "0.5", "--samples", "16"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not path.with_name("quantised-pruned.onnx").exists()
    assert err.startswith(f"compress: {QUANTISED} ({count} nodes on integers, the first {first} ")
    assert err.endswith(": prune the float model, then quantise what comes of it\n")
    assert main(["inspect", str(path), "--json", str(net.with_name("i.json"))]) == 0
    assert err.removeprefix("compress: ") in capsys.readouterr().out
    assert json.loads(net.with_name("i.json").read_text())["converted"] in err


def test_products_that_are_quantised_leave_float_convolutions_to_prune(net: Path) -> None:
    target = net.with_name("quantised.onnx")
    quantize_dynamic(net, target, op_types_to_quantize=["MatMul"])  # a Gemm goes as a MatMul
    analysis = analyse(load(target))
    assert len(analysis.channels.groups) == 1  # the first convolution; the second one is read by integers
    assert analysis.converted is not None and "(1 node on integers, the first MatMulInteger" in analysis.converted


def test_a_float_model_that_hands_out_integers_is_pruned() -> None:
    model = build(
        NET.replace("float[N,5] y", "uint8[N,5] y").replace("y = Gemm", "g = Gemm")[:-1]
        + """
        scale = Constant<value_float=0.1>()
        zero = Constant<value = uint8 {128}>()
        y = QuantizeLinear(g, scale, zero)
    }"""
    )
    analysis = analyse(model)
    assert analysis.converted is None and len(analysis.channels.groups) == 2


def test_weights_alone_in_bytes_are_no_quantised_model() -> None:
    model = build("""(float[N,3] x) => (float[N,4] y) <int8[3,4] q = {1,2,3,4,5,6,7,8,9,10,11,12}, float s = {0.1}> {
        w = DequantizeLinear(q, s)
        y = MatMul(x, w)
    }""")
    assert converted(model) is None
    left = build("""(float[4,N] x) => (float[3,N] y) <int8[3,4] q = {1,2,3,4,5,6,7,8,9,10,11,12}, float s = {0.1}> {
        w = DequantizeLinear(q, s)
        y = MatMul(w, x)
    }""")
    assert converted(left) is None


def test_a_model_laid_out_for_one_kind_of_processor() -> None:
    model = build(NET)
    for node in list(model.graph)[:3]:
        if node.op_type == "Conv":
            node.domain = "com.microsoft.nchwc"
    found = converted(model)
    assert found is not None and "(2 nodes of com.microsoft.nchwc, the first Conv a)" in found
    assert found.endswith("prune the model that it was made from")


def test_onnx_runtimes_own_layout_is_left_alone(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is laid out depends on the processor at hand; where nothing is, there is nothing to see."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(net.with_name("laid-out.onnx"))
    ort.InferenceSession(str(net), options, providers=["CPUExecutionProvider"])
    domains = {node.domain for node in onnx.load(net.with_name("laid-out.onnx")).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("ONNX Runtime has no layout of its own on this processor")
    assert main(["prune", str(net.with_name("laid-out.onnx")), "--target-flops", "0.5"]) == 3
    assert "ONNX Runtime laid the model out for one kind of processor" in capsys.readouterr().err
