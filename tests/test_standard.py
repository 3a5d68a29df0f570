"""Functions are inlined and constants become initializers; what the model computes does not change by a bit."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import pytest
from small_graphs import build, random_plan, table

from compress.cli import main
from graph.analysis import analyse
from graph.errors import ModelError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load, save
from graph.runtime import run, session
from graph.shrink import shrink
from graph.standard import standardise

BLOCK = """
<domain: "mine", opset_import: ["" : {opset}]>
block <slope: float = 0.1> (x, w, b) => (y) {{
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    y = LeakyRelu<alpha: float = @slope>(c)
}}
<domain: "mine", opset_import: ["" : {opset}, "mine" : 1]>
twice (x, w, b) => (y) {{
    h = mine.block(x, w, b)
    y = mine.block<slope = 0.3>(h, w, b)
}}"""
CALLS = """(float[N,3,6,6] x) => (float[N,5,6,6] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[5,8,3,3] w3, float[5] b3> {
    a = mine.block(x, w1, b1)
    b = mine.twice(a, w2, b2)
    y = mine.block<slope = 0.2>(b, w3, b3)
}"""


def with_functions(calls: str, functions: str, opset: int = 17) -> ir.Model:
    """Read a graph and its functions; weights get random numbers."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "mine" : 1]>'
    proto = onnx.parser.parse_model(f"{header} agraph {calls}{functions}")
    rng = np.random.default_rng(0)
    for declared in list(proto.graph.value_info):
        shape = [dim.dim_value for dim in declared.type.tensor_type.shape.dim]
        array = (rng.standard_normal(shape) / 3).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, declared.name))
        proto.graph.value_info.remove(declared)
    return ir.from_proto(proto)


def outputs(model: ir.Model) -> list[np.ndarray]:
    return run(session(model, optimise=False), example_inputs(model, batch=2))


def same(left: ir.Model, right: ir.Model) -> None:
    for a, b in zip(outputs(left), outputs(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_inside_functions_is_pruned() -> None:
    model = with_functions(CALLS, BLOCK.format(opset=17))
    analysis = analyse(model)
    assert not analysis.model.functions
    assert [node.op_type for node in analysis.model.graph] == ["Conv", "LeakyRelu"] * 4
    assert table(analysis.channels) == ["node 8: w1.0 w2.0 w2.0 | b1.0 b2_c_2.0 b2.0 | w2.1 w2.1 w3.1"]
    assert analysis.original.macs == 36 * 9 * (3 * 8 + 2 * 8 * 8 + 8 * 5)
    plan = random_plan(analysis.channels, np.random.default_rng(0))
    check_law(analysis.model, analysis.channels, plan, example_inputs(model, batch=2))
    assert not shrink(analysis.model, analysis.channels, plan).functions
    same(model, standardise(model)[0])


def test_the_names_of_inputs_and_outputs_stay() -> None:
    model = with_functions(CALLS.replace("=> (", "=> (float[N,8,6,6] a, "), BLOCK.format(opset=17))
    plain, _ = standardise(model)
    assert [value.name for value in plain.graph.inputs] == ["x"]
    assert [value.name for value in plain.graph.outputs] == ["a", "y"]
    same(model, plain)


@pytest.mark.parametrize(
    ("calls", "functions", "reason"),
    [
        (CALLS, BLOCK.format(opset=16), "another opset than the model's"),
        (
            "(float[N] x) => (float[N] y, float[N] z) { y, z = mine.both(x) }",
            '<domain: "mine", opset_import: ["" : 17]> both (a) => (a, b) { b = Relu(a) }',
            "an output that is an input has no node to carry its name",
        ),
        (
            "(float[N] x) => (float[N] y, float[N] z) { y, z = mine.both(x) }",
            '<domain: "mine", opset_import: ["" : 17]> both (a) => (b, b) { b = Relu(a) }',
            "one value under two names",
        ),
    ],
    ids=["opset", "passed through", "twice"],
)
def test_functions_that_stay(calls: str, functions: str, reason: str) -> None:
    model = with_functions(calls, functions)
    plain, _ = standardise(model)
    assert [node.op_type for node in plain.graph] == [node.op_type for node in model.graph], reason
    assert set(plain.functions) == set(model.functions)
    assert plain.graph.inputs[0].name == "x"


def test_functions_of_onnxscript() -> None:
    """A model as the dynamo exporter writes it: functions in a domain of their own, called by functions."""
    op = onnxscript.opset18
    local = onnxscript.values.Opset("pkg.layers", 1)

    @onnxscript.script(local, default_opset=op)
    def linear(x, weight, bias):  # type: ignore[no-untyped-def]  # the decorator reads the source
        return op.Add(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), bias)

    @onnxscript.script(local, default_opset=op)
    def mlp(x, w1, b1, w2, b2):  # type: ignore[no-untyped-def]
        return linear(op.Relu(linear(x, w1, b1)), w2, b2)

    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "pkg.layers" : 1]> agraph (float[N,4] x) => (float[N,3] y) '
        "{ y = pkg.layers.mlp(x, w1, b1, w2, b2) }"
    )
    proto.functions.extend([linear.to_function_proto(), mlp.to_function_proto()])
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (6, 4), "b1": (6,), "w2": (3, 6), "b2": (3,)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    same(model, standardise(model)[0])
    assert [len(group.channels) for group in analyse(model).channels.groups] == [6]


@pytest.mark.parametrize("name", ["n1", ""])
def test_an_operator_that_nobody_knows(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_functions("(float[N] x) => (float[N] y) { r = Relu(x) y = mine.Mystery(r) }", "")
    model.graph[1].name = name
    save(model, tmp_path / "m.onnx")
    assert main(["prune", str(tmp_path / "m.onnx"), "--target-flops", "0.5"]) == 3
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    what = "neither it nor the model defines this operator of the domain 'mine'"
    assert f"ONNX Runtime cannot run the model: Mystery {name or 'y'}: {what}" in err


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        (
            "(double[N,1,4,4] x) => (double[N,1,4,4] y) <double[1,1,1,1] w = {1}> { y = Conv(x, w) }",
            17,
            "Conv y: it has no Conv of opset 11 for double numbers on the CPU",
        ),
        ("(float[N] x) => (float[N] y) { y = Relu(x) }", 27, "Current official support for domain ai.onnx is till"),
    ],
)
def test_what_onnx_runtime_has_no_kernel_for(text: str, opset: int, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        analyse(build(text, opset=opset))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


CONSTANTS = {
    "value": "w1 = Constant<value = float[2,3] {1,2,3,4,5,6}>()",
    "value_floats": "f = Constant<value_floats = [1.0,2.0,3.0,4.0,5.0,6.0]>() s = Constant<value_ints = [2,3]>() "
    "w1 = Reshape(f, s)",
    "identities": "i = Identity(w0) j = Identity(i) w1 = Identity(j)",
}


@pytest.mark.parametrize("weight", CONSTANTS)
def test_weights_however_they_come(weight: str) -> None:
    model = build(f"""(float[N,2] x) => (float[N,4] y) <float[2,3] w0 = {{1,2,3,4,5,6}}, float[3,4] w2> {{
        {CONSTANTS[weight].replace(") ", ")" + chr(10))}
        a = MatMul(x, w1)
        r = Relu(a)
        y = MatMul(r, w2)
    }}""")
    analysis = analyse(model)
    assert [node.op_type for node in analysis.model.graph] == ["MatMul", "Relu", "MatMul"]
    assert [len(group.channels) for group in analysis.channels.groups] == [3]
    same(model, analysis.model)


def test_weights_that_branches_share_through_an_identity_stay_shared() -> None:
    model = build("""(float[N,2] x, float[N,2] z) => (float[N,4] y, float[N,4] u) <float[2,3] w1, float[3,4] w2> {
        v1 = Identity(w1)
        v2 = Identity(w2)
        a = MatMul(x, w1)
        y = MatMul(a, w2)
        b = MatMul(z, v1)
        u = MatMul(b, v2)
    }""")
    analysis = analyse(model)
    assert table(analysis.channels) == ["a 3: w1.1 w1.1 |  | w2.0 w2.0"]
    same(model, analysis.model)


def test_weights_listed_as_inputs(tmp_path: Path) -> None:
    text = "(float[N,2] x) => (float[N,4] y) <float[2,3] w1, float[3,4] w2>"
    model = build(f"{text} {{ a = MatMul(x, w1) y = MatMul(a, w2) }}")
    model.ir_version = 3
    model.graph.inputs.extend(model.graph.initializers.values())
    save(model, tmp_path / "m.onnx")
    analysis = analyse(load(tmp_path / "m.onnx"))
    assert [value.name for value in analysis.model.graph.inputs] == ["x"]
    assert [len(group.channels) for group in analysis.channels.groups] == [3]


def test_initializers_inside_subgraphs_stay_where_they_are() -> None:
    model = build("""(float[N,2] x, bool c) => (float[N,4] y) <float[2,3] w1, float[3,4] w2> {
        a = MatMul(x, w1)
        r = Relu(a)
        b = If<then_branch = g1() => (float[N,3] t) <float[3] k = {1,2,3}> { t = Add(r, k) },
               else_branch = g2() => (float[N,3] e) { e = Identity(r) }>(c)
        y = MatMul(b, w2)
    }""")
    analysis = analyse(model)
    assert analysis.channels.groups == ()
    assert analysis.channels.frozen[0].op_type == "If"
    same(model, analysis.model)
