"""Rows times matrix is what ONNX Runtime computes, for every kind of consumer and geometry."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from calibrate.consumer import find_consumers

CONVS = {
    "plain": ("Conv", (4, 3, 3, 3), "pads=[1,1,1,1]", (2, 3, 7, 8)),
    "strided, asymmetric pads": ("Conv", (4, 3, 3, 2), "strides=[2,1], pads=[0,1,2,0]", (2, 3, 7, 8)),
    "dilated": ("Conv", (4, 3, 3, 3), "dilations=[2,3], pads=[2,3,2,3]", (2, 3, 7, 8)),
    "same upper": ("Conv", (4, 3, 4, 4), 'auto_pad="SAME_UPPER", strides=[2,2]', (2, 3, 7, 8)),
    "same lower": ("Conv", (4, 3, 4, 4), 'auto_pad="SAME_LOWER"', (2, 3, 7, 8)),
    "valid": ("Conv", (4, 3, 3, 3), 'auto_pad="VALID"', (2, 3, 7, 8)),
    "grouped": ("Conv", (6, 2, 3, 3), "group=2", (2, 4, 7, 8)),
    "depthwise": ("Conv", (6, 1, 3, 3), "group=3, pads=[1,1,1,1]", (2, 3, 7, 8)),
    "one axis": ("Conv", (4, 3, 5), "strides=[2], pads=[2,2]", (2, 3, 11)),
    "three axes": ("Conv", (4, 3, 2, 3, 2), "strides=[1,2,1]", (2, 3, 4, 5, 6)),
    "transposed": ("ConvTranspose", (3, 4, 3, 3), "strides=[2,2], pads=[1,1,1,1]", (2, 3, 5, 6)),
    "transposed, output padding": (
        "ConvTranspose",
        (3, 4, 3, 3),
        "strides=[2,3], pads=[1,0,1,1], output_padding=[1,1], dilations=[1,2]",
        (2, 3, 5, 6),
    ),
    "transposed, grouped": ("ConvTranspose", (4, 2, 3, 3), "strides=[2,2], group=2", (2, 4, 5, 6)),
    "transposed, same upper": ("ConvTranspose", (3, 4, 3, 3), 'strides=[2,2], auto_pad="SAME_UPPER"', (2, 3, 5, 6)),
    "transposed, output shape": ("ConvTranspose", (3, 4, 3, 3), "strides=[2,2], output_shape=[10,12]", (2, 3, 5, 6)),
}


def reproduce(text: str, weights: dict[str, np.ndarray], x: np.ndarray) -> None:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    shapes = {"x": x.shape, "y": y.shape, "z": y.shape} | {name: value.shape for name, value in weights.items()}
    (consumer,) = find_consumers(ir.from_proto(proto), shapes)
    expected = torch.from_numpy(y).double()
    positions = consumer.positions(expected, 10**9, torch.Generator())
    weight, bias = (torch.from_numpy(weights[name]) if name else None for name in (consumer.weight, consumer.bias))
    assert weight is not None
    matrix = consumer.matrix(weight, bias)
    rows = consumer.rows(torch.from_numpy(x).double(), y.shape, positions)
    torch.testing.assert_close(rows @ matrix, consumer.targets(expected, positions), rtol=1e-4, atol=1e-4)
    if not (consumer.window and consumer.window.transposed and consumer.groups > 1):
        entries = torch.arange(weight.shape[consumer.input_axis])[::2]
        few = consumer.rows(consumer.inputs(torch.from_numpy(x).double(), entries), y.shape, positions)
        torch.testing.assert_close(few, rows[:, :, [*consumer.columns(entries.numpy()), -1]])
    restored = consumer.tensors(matrix, weight)
    torch.testing.assert_close(restored[0], weight)
    if bias is not None:
        torch.testing.assert_close(restored[1], bias.flatten())


@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name: str) -> None:
    op_type, shape, attributes, x_shape = CONVS[name]
    outputs = shape[0] if op_type == "Conv" else shape[1] * (2 if "group=2" in attributes else 1)
    generator = np.random.default_rng(0)
    rank = len(x_shape)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[{",".join(map(str, x_shape))}] x) => (float[{",".join(["A", "B", "C", "D", "E"][:rank])}] y)
        {{ y = {op_type} <{attributes}> (x, w, b) }}"""
    weights = {
        "w": generator.normal(size=shape).astype(np.float32),
        "b": generator.normal(size=outputs).astype(np.float32),
    }
    reproduce(text, weights, generator.normal(size=x_shape).astype(np.float32))


@pytest.mark.parametrize(
    ("nodes", "w", "b"),
    [
        ("y = Gemm (x, w, b)", (5, 3), (3,)),
        ("y = Gemm <transB=1, alpha=0.5> (x, w, b)", (3, 5), (3,)),
        ("y = MatMul (x, w)", (5, 3), None),
        ("z = MatMul (x, w) y = Add (z, b)", (5, 3), (3,)),
        ("z = MatMul (x, w) y = Add (b, z)", (5, 3), (1, 3)),
    ],
)
def test_products(nodes: str, w: tuple[int, ...], b: tuple[int, ...] | None) -> None:
    generator = np.random.default_rng(1)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> agraph (float[4,5] x) => (float[A,B] y) {{ {nodes} }}"""
    weights = {"w": generator.normal(size=w).astype(np.float32)}
    if b is not None:
        weights["b"] = generator.normal(size=b).astype(np.float32)
    reproduce(text, weights, generator.normal(size=(4, 5)).astype(np.float32))


def test_positions_are_sampled_without_repetition() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> agraph (float[1,1,9,9] x) => (float[A,B,C,D] y)
        <float[1,1,1,1] w = {1.0}> { y = Conv (x, w) }"""
    shapes = {"x": (1, 1, 9, 9), "w": (1, 1, 1, 1), "y": (1, 1, 9, 9)}
    (consumer,) = find_consumers(ir.from_proto(onnx.parser.parse_model(text)), shapes)
    positions = consumer.positions(torch.zeros(1, 1, 9, 9), 20, torch.Generator().manual_seed(0))
    assert len(positions) == len(set(positions.tolist())) == 20
