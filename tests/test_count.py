"""MACs and parameters against numbers worked out by hand and by brute force."""

import math
from pathlib import Path

import pytest
from small_graphs import SHARED, build

from graph.count import Count, count
from graph.inputs import example_inputs
from graph.model import load
from graph.trace import trace


def counted(text: str, batch: int = 1) -> Count:
    model = build(text)
    return count(model, trace(model, example_inputs(model, batch=batch)))


@pytest.mark.parametrize(
    ("text", "macs", "params"),
    [
        pytest.param(
            """(float[N,3,8,8] x) => (float[N,4,3,3] y) <float[4,3,3,3] w, float[4] b> {
            y = Conv<strides=[2,2]>(x, w, b)
        }""",
            3 * 3 * (4 * 3 * 3 * 3),
            4 * 3 * 3 * 3 + 4,
            id="Conv: output places",
        ),
        pytest.param(
            """(float[N,6,8,8] x) => (float[N,6,8,8] y) <float[6,1,3,3] w> {
            y = Conv<group=6, pads=[1,1,1,1]>(x, w)
        }""",
            8 * 8 * 6 * 9,
            54,
            id="depthwise: the weight has one input channel",
        ),
        pytest.param(
            """(float[N,3,8,8] x) => (float[N,5,16,16] y) <float[3,5,2,2] w> {
            y = ConvTranspose<strides=[2,2]>(x, w)
        }""",
            8 * 8 * 3 * 5 * 4,
            60,
            id="ConvTranspose: input places",
        ),
        pytest.param(
            "(float[N,7] x) => (float[N,5] y) <float[5,7] w, float[5] b> { y = Gemm<transB=1>(x, w, b) }",
            35,
            40,
            id="Gemm: rows",
        ),
        pytest.param(
            "(float[N,9,7] x) => (float[N,9,5] y) <float[7,5] w> { y = MatMul(x, w) }", 9 * 35, 35, id="MatMul: rows"
        ),
        pytest.param(
            "(float[N,2,9,7] x, float[N,2,7,5] z) => (float[N,2,9,5] y) { y = MatMul(x, z) }",
            2 * 9 * 7 * 5,
            0,
            id="MatMul of activations",
        ),
        pytest.param(
            """(float[N,2,9,7] x, float[N,2,5,7] z) => (float[N,9,2,5] y) {
            y = Einsum<equation="bhid, bhjd -> bihj">(x, z)
        }""",
            2 * 9 * 7 * 5,
            0,
            id="Einsum of activations",
        ),
        pytest.param(
            """(float[N,9,7] x) => (float[N,9,5] y) <float[7,5] w> { y = Einsum<equation="nij,jk->nik">(x, w) }""",
            9 * 35,
            35,
            id="Einsum with a weight",
        ),
        pytest.param("(float[N,9] x) => (float[N,9] y) { y = Relu(x) }", 0, 0, id="elementwise"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_by_hand(text: str, macs: int, params: int, batch: int) -> None:
    found = counted(text, batch)
    assert (found.macs, found.params) == (batch * macs, params)
    assert found.uncounted == {}


def test_macs_are_positions_times_weight() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,10] y) <float[6,3,3,3] w1, float[6,1,3,3] d, float[10,6] w2> {
        a = Conv<strides=[2,2]>(x, w1)
        b = Conv<group=6, pads=[1,1,1,1]>(a, d)
        c = GlobalAveragePool(b)
        f = Flatten(c)
        y = Gemm<transB=1>(f, w2)
    }""")
    nodes = count(model, trace(model)).nodes
    assert [(node.node, node.op_type, node.weight) for node in nodes] == [
        ("a", "Conv", "w1"),
        ("b", "Conv", "d"),
        ("y", "Gemm", "w2"),
    ]
    for node in nodes:
        assert node.macs == node.positions * math.prod(model.graph.initializers[node.weight].shape)


def test_it_says_what_it_did_not_count() -> None:
    found = counted("""(float[N,4,4] x, bool c) => (float[N,4,4] y) {
        e = Einsum<equation="...ij,...jk->...ik">(x, x)
        y = If (c) <
            then_branch = one () => (float[N,4,4] t) { t = Relu(e) },
            else_branch = two () => (float[N,4,4] u) { u = MatMul(e, e) }
        >
    }""")
    assert found.uncounted == {"Einsum": 1, "If": 1}


def test_floats_in_constant_nodes_are_parameters() -> None:
    found = counted("""(float[N,2] x) => (float[N,2] y) <int64[2] ignored = {1,2}> {
        c = Constant<value = float[2] {1.0, 2.0}>()
        y = Add(x, c)
    }""")
    assert found.params == 2


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet56_cifar10_bn", 125.5), ("resnet20_cifar10_folded", 40.6), ("resnet8_cifar10_mlperf", 12.5)],
)
def test_published_figures(name: str, millions: float) -> None:
    path: Path = SHARED / "networks" / f"{name}.onnx"
    if not path.exists():
        pytest.skip("../shared/data/networks is absent")
    model = load(path)
    assert round(count(model, trace(model)).macs / 1e6, 1) == millions
