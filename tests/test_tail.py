"""The chain behind a consumer, on small models; its affine map against ONNX Runtime."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibrate.consumer import find_consumers
from compress.tail import Tail, find_tail

INF = np.inf
WEIGHTS = """float[2,2,1,1] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {0.5, -0.5},
    float[2] gamma = {2.0, -0.5}, float[2] beta = {1.0, 3.0}, float[2] mean = {0.25, -4.0}, float[2] var = {4.0, 0.25},
    float[2] zero = {0.0, 1.0}, float nought = {0.0}, float six = {6.0}, float[1,2,1,1] constant = {1.0, 2.0}"""


def model(nodes: str, outputs: str = "float[1,2,3,3] y", opset: int = 17) -> ir.Model:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        agraph (float[1,2,3,3] x) => ({outputs}) <{WEIGHTS}> {{ {nodes} }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def tail_of(found: ir.Model, node: str = "c") -> Tail:
    shapes = {str(value.name): (1, 2, 3, 3) for n in found.graph for value in n.outputs} | {"x": (1, 2, 3, 3)}
    shapes |= {str(name): tuple(value.const_value.shape) for name, value in found.graph.initializers.items()}
    return find_tail(found, next(c for c in find_consumers(found, shapes) if c.node == node))


CASES = {
    "the output of the graph": ("c = Conv (x, w, b)", ("c", None, -INF, INF)),
    "relu": ("c = Conv (x, w, b) y = Relu (c)", ("c", None, 0, INF)),
    "a shortcut": ("c = Conv (x, w, b) s = Add (c, x) y = Relu (s)", ("s", "x", 0, INF)),
    "a shortcut on the left": ("c = Conv (x, w, b) s = Add (x, c) y = Relu (s)", ("s", "x", 0, INF)),
    "a shortcut and no activation": ("c = Conv (x, w, b) s = Add (c, x) y = Neg (s)", ("s", "x", -INF, INF)),
    "through Identity": ("c = Conv (x, w, b) i = Identity (c) s = Add (i, x) y = Relu (s)", ("s", "x", 0, INF)),
    "Clip": ("c = Conv (x, w, b) y = Clip (c, nought, six)", ("c", None, 0, 6)),
    "Clip with one side": ("c = Conv (x, w, b) y = Clip (c, nought)", ("c", None, 0, INF)),
    "Clip with the other side": ("c = Conv (x, w, b) y = Clip (c, , six)", ("c", None, -INF, 6)),
    "Clip with a computed bound": (
        "c = Conv (x, w, b) m = ReduceMax <keepdims = 0> (x) y = Clip (c, nought, m)",
        ("c", None, -INF, INF),
    ),
    "an activation without flat sides": ("c = Conv (x, w, b) y = HardSwish (c)", ("c", None, -INF, INF)),
    "used twice": ("c = Conv (x, w, b) r = Relu (c) y = Add (r, c)", ("c", None, -INF, INF)),
    "used twice by the same kind": ("c = Conv (x, w, b) r = Relu (c) s = Relu (c) y = Add (r, s)", ("c", None, 0, INF)),
    "used by activations that differ": (
        "c = Conv (x, w, b) r = Relu (c) s = Clip (c, nought, six) y = Add (r, s)",
        ("c", None, -INF, INF),
    ),
    "the sum is used twice": (
        "c = Conv (x, w, b) s = Add (c, x) r = Relu (s) y = Add (r, s)",
        ("s", "x", -INF, INF),
    ),
    "only one shortcut": ("c = Conv (x, w, b) s = Add (c, x) t = Add (s, x) y = Relu (t)", ("s", "x", -INF, INF)),
    "added to itself": ("c = Conv (x, w, b) s = Add (c, c) y = Relu (s)", ("c", None, -INF, INF)),
    "an Add of a constant": ("c = Conv (x, w, b) s = Add (c, constant) y = Relu (s)", ("c", None, -INF, INF)),
    "a product": ("c = Conv (x, w, b) s = Mul (c, x) y = Relu (s)", ("c", None, -INF, INF)),
}


@pytest.mark.parametrize("name", CASES)
def test_chains(name: str) -> None:
    nodes, expected = CASES[name]
    found = tail_of(model(nodes, "float[1,2,3,3] c" if name == "the output of the graph" else "float[1,2,3,3] y"))
    assert (found.target, found.shortcut, found.low, found.high) == expected
    assert found.scale is None and found.shift is None


def test_an_output_of_the_graph_ends_the_chain() -> None:
    outputs = "float[1,2,3,3] c, float[1,2,3,3] y"
    found = tail_of(model("c = Conv (x, w, b) y = Relu (c)", outputs))
    assert found == Tail("c")  # somebody outside reads its negative values
    nodes = "c = Conv (x, w, b) s = Add (c, x) y = Relu (s)"
    assert tail_of(model(nodes, outputs)) == Tail("c")  # and here its own values, without the shortcut
    found = tail_of(model(nodes, outputs.replace("c", "s", 1)))
    assert (found.target, found.shortcut, found.low) == ("s", "x", -INF)


def test_clip_before_opset_11_has_its_bounds_in_attributes() -> None:
    found = tail_of(model("c = Conv (x, w, b) y = Clip <min = -1.0, max = 2.0> (c)", opset=10))
    assert (found.low, found.high) == (-1, 2)


NORMALISED = "c = Conv (x, w, b) n = BatchNormalization <epsilon = 0.125> (c, gamma, beta, mean, var)"


def test_the_affine_map_of_a_batchnorm_is_that_of_onnx_runtime() -> None:
    found = model(f"{NORMALISED} s = Add (n, x) y = Relu (s)")
    tail = tail_of(found)
    assert (tail.target, tail.shortcut, tail.low, tail.high) == ("s", "x", 0, INF)
    proto = ir.to_proto(found)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("c", "s"))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32)
    c, s = session.run(["c", "s"], {"x": x})
    assert tail.scale is not None and tail.shift is not None
    scale, shift = (values.reshape(1, 2, 1, 1) for values in (tail.scale, tail.shift))
    np.testing.assert_allclose(c * scale + shift + x, s, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (NORMALISED.replace("gamma", "zero") + " y = Relu (n)", "no value reaches a channel that is multiplied by 0"),
        (
            "c = Conv (x, w, b) s = Add (c, x) y = BatchNormalization (s, gamma, beta, mean, var)",
            "the shortcut passes through it as well",
        ),
    ],
)
def test_a_batchnorm_that_cannot_be_undone_ends_the_chain(nodes: str, why: str) -> None:
    tail = tail_of(model(nodes))
    assert tail.scale is None and tail.low == -INF
    assert tail.target == ("s" if "s = Add" in nodes else "c")
