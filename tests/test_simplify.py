"""The simplified model computes the same, and what must not be folded is not."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import LIGHT, ROOT, build, light_model, real_inputs, shared_networks, shared_zoo, unpacked

from graph.inputs import example_inputs
from graph.model import load
from graph.runtime import run, session
from graph.simplify import simplify

CONV_BN = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[4,3,1,1] w, float[4] gamma, float[4] beta, float[4] mean, float[4] var> {
    a = Conv(x, w)
    y = BatchNormalization(a, gamma, beta, mean, var)
}"""


def operators(model: ir.Model) -> dict[str, int]:
    """Return how many nodes there are of each operator."""
    return dict(Counter(node.op_type for node in model.graph))


def check_same(model: ir.Model, simple: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    """Compare the outputs within what folding BatchNormalization rounds."""
    before, after = (run(session(each, optimise=False), feeds) for each in (model, simple))
    for left, right in zip(before, after, strict=True):
        # 1e-2: a Sigmoid near 0 is as coarse as float32 is near 0.5, 6e-8
        scale = max(float(np.abs(left).max()), 1e-2) if left.size else 1.0
        np.testing.assert_allclose(right, left, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("path", sorted(ROOT.glob("sample_models/*.onnx")), ids=lambda path: path.stem)
def test_our_models(path: Path) -> None:
    model = load(path)
    check_same(model, simplify(model), example_inputs(model, batch=3))


@pytest.mark.parametrize("name", ["light_densenet121", "light_inception_v2", "light_shufflenet", "light_squeezenet"])
def test_graphs_of_the_onnx_wheel(name: str) -> None:
    model = light_model(LIGHT / f"{name}.onnx")
    check_same(model, simplify(model), example_inputs(model))


@pytest.mark.parametrize("path", shared_networks())
def test_real_networks(path: Path, tmp_path: Path) -> None:
    model = load(unpacked(path, tmp_path))
    simple = simplify(model)
    check_same(model, simple, example_inputs(model, batch=2))
    assert "BatchNormalization" not in operators(simple)
    assert str(simple.graph.inputs[0]) == str(model.graph.inputs[0])


@pytest.mark.slow
@pytest.mark.parametrize("path", shared_zoo())
@pytest.mark.parametrize("keep_batchnorm", [False, True])
def test_the_zoo(path: Path, keep_batchnorm: bool) -> None:
    model = load(path)
    check_same(model, simplify(model, keep_batchnorm), real_inputs(model, path))


def test_batchnorm_is_fused_unless_it_is_to_stay() -> None:
    model = build(CONV_BN)
    assert operators(simplify(model)) == {"Conv": 1}
    assert operators(simplify(model, keep_batchnorm=True)) == {"Conv": 1, "BatchNormalization": 1}
    check_same(model, simplify(model), example_inputs(model, batch=2))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = Conv(x, w) y = BatchNormalization(a, gamma, beta, mean, var) z = Relu(a)", "the conv is read twice"),
        ("z = Conv(x, w) y = BatchNormalization(z, gamma, beta, mean, var)", "the conv is an output"),
        ("a = Conv(x, w) y = BatchNormalization(a, gamma, beta, mean, var) z = Conv(x, w)", "the weight is shared"),
        ("a = Conv(x, w) y, z, u = BatchNormalization<training_mode=1>(a, gamma, beta, mean, var)", "it trains"),
    ],
    ids=lambda text: text if " = " not in text else "",
)
def test_batchnorm_that_cannot_be_fused_stays(nodes: str, reason: str) -> None:
    shape = "4" if "training" in nodes else "N,4,8,8"
    model = build(f"""(float[N,3,8,8] x) => (float[N,4,8,8] y, float[{shape}] z)
        <float[4,3,1,1] w, float[4] gamma, float[4] beta, float[4] mean, float[4] var> {{
        {nodes.replace(") ", ")" + chr(10))}
    }}""")
    simple = simplify(model)
    assert operators(simple)["BatchNormalization"] == 1
    check_same(model, simple, example_inputs(model, batch=2))


@pytest.mark.parametrize(("attribute", "opset"), [("training_mode=1", 17), ("spatial=0", 8)])
def test_batchnorm_that_is_no_affine_map_per_channel_stays(attribute: str, opset: int) -> None:
    """The rule of onnxscript reads neither attribute."""
    model = build(CONV_BN.replace("BatchNormalization", f"BatchNormalization<{attribute}>"), opset=opset)
    assert operators(simplify(model)) == {"Conv": 1, "BatchNormalization": 1}


def test_weights_behind_layout_nodes_become_initializers() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[3,4,1,1] w, float[4] b, int64[1] ax = {0}> {
        wt = Transpose<perm=[1,0,2,3]>(w)
        wi = Identity(wt)
        bi = Identity(b)
        y = Conv(x, wi, bi)
    }""")
    simple = simplify(model)
    assert operators(simple) == {"Conv": 1}
    assert all(value.is_initializer() for value in simple.graph[0].inputs[1:])
    check_same(model, simple, example_inputs(model))


def test_a_large_tensor_is_not_made_out_of_a_small_one() -> None:
    model = build("""(float[N,3] x) => (float[N,M] y) <int64[2] size = {1000,200}, int64[1] ax = {1}> {
        big = ConstantOfShape(size)
        small = ReduceMax(big)
        y = Add(x, small)
    }""")
    assert operators(simplify(model))["ConstantOfShape"] == 1


def test_shared_vectors_are_given_to_each_of_their_users() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,3,8,8] y) <float[3,3,1,1] v, float[3,3,1,1] w, float[3] b> {
        a = Conv(x, v, b)
        y = Conv(a, w, b)
    }""")
    first, second = (node.inputs[2].name for node in simplify(model).graph)
    assert first != second


def test_declared_shapes_that_are_wrong_are_not_folded() -> None:
    """The exporter saw a batch of one and wrote it down; the model is for any."""
    model = build("""(float[N,3,8,8] x) => (float[N,192] y) <int64 zero = {0}, int64[1] ax = {0},
        int64[1] rest = {-1}> {
        a = Relu(x)
        shape = Shape(a)
        n = Gather(shape, zero)
        nn = Unsqueeze(n, ax)
        to = Concat<axis=0>(nn, rest)
        y = Reshape(a, to)
    }""")
    model.graph[0].outputs[0].shape = ir.Shape([1, 3, 8, 8])
    check_same(model, simplify(model), example_inputs(model, batch=3))


def test_a_weight_that_is_standardised_when_the_model_runs_is_folded() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[4,3,3,3] w, int64[3] flat = {1,4,-1}, int64[4] back = {4,3,3,3}, float[4] one, float[4] zero,
         float[4] mean0, float[4] var0, float[4] mean, float[4] var, float[4] gamma, float[4] beta> {
        f = Reshape(w, flat)
        s, m, v = BatchNormalization<training_mode=1>(f, one, zero, mean0, var0)
        k = Reshape(s, back)
        a = Conv<pads=[1,1,1,1]>(x, k)
        y = BatchNormalization(a, gamma, beta, mean, var)
    }""")
    simple = simplify(model)
    assert operators(simple) == {"Conv": 1}
    check_same(model, simple, example_inputs(model, batch=2))


def test_what_the_outputs_are_declared_to_be_stays() -> None:
    model = build("""(float[N,3,8,8] x) => (float[P,Q] y) <float[4,3,1,1] w> {
        a = Conv(x, w)
        y = Flatten(a)
    }""")
    (output,) = simplify(model).graph.outputs
    assert str(output.shape) == str(model.graph.outputs[0].shape) == "[P,Q]"


def test_initializers_are_no_longer_inputs() -> None:
    model = build(CONV_BN)
    model.ir_version = 3
    model.graph.inputs.extend(model.graph.initializers.values())
    simple = simplify(model)
    assert [value.name for value in simple.graph.inputs] == ["x"]
    assert simple.ir_version == 4
    check_same(model, simple, example_inputs(model))


def test_nothing_of_ours_is_written_into_the_users_metadata() -> None:
    model = build(CONV_BN)
    model.metadata_props["author"] = "somebody"
    simple = simplify(model)
    assert simple.metadata_props == {"author": "somebody"}
    assert all(not node.metadata_props for node in simple.graph)
    assert all(not value.metadata_props for value in simple.graph.initializers.values())


def test_the_model_given_is_not_changed() -> None:
    model = build(CONV_BN)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    simplify(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_weight_that_is_shared_through_identity_stays_one() -> None:
    model = build("""(float[N,3,8,8] a, float[N,3,8,8] b) => (float[N,4,8,8] y) <float[4,3,1,1] w> {
        p = Conv(a, w)
        v = Identity(w)
        q = Conv(b, v)
        y = Sub(p, q)
    }""")
    simple = simplify(model)
    first, second = (node.inputs[1] for node in simple.graph if node.op_type == "Conv")
    assert first is second
    check_same(model, simple, example_inputs(model, batch=2))
