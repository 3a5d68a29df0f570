"""The torch bridge against ONNX Runtime: the same outputs, the same names, ties and gradients."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from bridge_cases import CASES, Feeds, case_model, model_of, noise, with_weights

from graph.bridge import TorchModel, onnx2torch_nodes, registry, to_torch
from graph.bridge.node import Declined, Node
from graph.bridge.reference import refer
from graph.errors import ModelError
from graph.model import load
from graph.runtime import session
from graph.simplify import simplify

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NEWEST = onnx.defs.onnx_opset_version()


def truth(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    return session(model, optimise=False).run(None, dict(feeds))


def computed(converted: TorchModel, feeds: Feeds) -> list[np.ndarray]:
    with torch.no_grad():
        return [
            np.asarray(v.numpy()) for v in converted.module(*[torch.from_numpy(feeds[n]) for n in converted.inputs])
        ]


def agree(model: ir.Model, feeds: Feeds, fallbacks: int = 0, at: Feeds | None = None) -> TorchModel:
    """Convert on `feeds`, then compare on `at` (or the same), end to end."""
    converted = to_torch(model, feeds)
    assert [f.reason for f in converted.fallbacks][fallbacks:] == []
    assert len(converted.fallbacks) == fallbacks
    feeds = at or feeds
    for got, want in zip(computed(converted, feeds), truth(model, feeds), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(want).max(initial=0)))
    assert converted.largest_difference < 1e-4
    return converted


SMALL_NET = """
small (float[N,3,9,9] x) => (float[N,M] y)
{ c = Conv <pads = [1,1,1,1]> (x, w, b)
  n = BatchNormalization (c, scale, shift, mean, var)
  r = Relu (n)
  p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
  s = Sigmoid (p)
  m = Mul (p, s)
  f = Flatten (m)
  y = Gemm (f, g) }
"""


def small_net(opset: int) -> ir.Model:
    weights = {"w": noise(4, 3, 3, 3), "b": noise(4), "scale": noise(4, seed=1), "shift": noise(4, seed=2)}
    weights |= {"mean": noise(4, seed=3), "var": noise(4, seed=4) ** 2 + 0.5, "g": noise(64, 5)}
    text = SMALL_NET
    if opset < 11:  # before, C was not optional
        text, weights["k"] = text.replace("(f, g)", "(f, g, k)"), noise(5)
    return with_weights(model_of(text, opset), weights)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_a_network_agrees_at_every_opset_without_a_fallback(opset: int) -> None:
    model = small_net(opset)
    try:
        session(model)
    except ModelError as error:
        if "is under development" not in str(error):
            raise
        pytest.skip(f"ONNX Runtime does not know opset {opset} yet")
    agree(model, {"x": noise(1, 3, 9, 9)}, at={"x": noise(3, 3, 9, 9)})


@pytest.mark.parametrize(("nodes", "shape", "opset"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_our_own_operators_agree_and_run_in_torch(nodes: str, shape: tuple[int, ...], opset: int) -> None:
    agree(case_model(nodes, shape, opset), {"x": noise(*shape)})


TIES = np.array([[0, 2, 0, 2, 0, -1], [0, 0, 0, 0, 0, 0]], np.float32)
INFINITE = np.array([[np.inf, -np.inf, 0, 1, -np.inf, 2]], np.float32)
LIKE = "float[N,6] x"


@pytest.mark.parametrize(
    ("inputs", "nodes", "feeds"),
    [
        # the first batch has none of what is special in these, so that the comparison cannot notice
        (LIKE, "k = Constant <value_ints=[4]> () v, y = TopK (x, k)", {"x": TIES}),
        (LIKE, "k = Constant <value_ints=[4]> () v, y = TopK <largest=0> (x, k)", {"x": TIES}),
        (LIKE, "y = ArgMax <axis=1> (x)", {"x": TIES}),
        (LIKE, "y = ArgMax <axis=1, select_last_index=1> (x)", {"x": TIES}),
        (LIKE, "y = IsInf (x)", {"x": INFINITE}),
        (LIKE, "y = IsInf <detect_negative=0> (x)", {"x": INFINITE}),
        (LIKE, "y = IsInf <detect_positive=0> (x)", {"x": INFINITE}),
        (LIKE, "y = IsInf <detect_positive=0, detect_negative=0> (x)", {"x": INFINITE}),
        (f"{LIKE}, int64[N,K] i", "y = GatherElements <axis=1> (x, i)", {"x": TIES, "i": np.array([[-1, 5, -6]] * 2)}),
        (f"{LIKE}, int64[N,K] i", "y = Gather <axis=1> (x, i)", {"x": TIES, "i": np.array([[-1, 5, -6]] * 2)}),
        (LIKE, "y = Round (x)", {"x": TIES + 0.5}),
    ],
)
def test_what_no_comparison_on_ordinary_values_would_notice(inputs: str, nodes: str, feeds: Feeds) -> None:
    ordinary = {"x": noise(2, 6), "i": np.array([[1, 0, 2]] * 2)}
    model = model_of(f"values ({inputs}) => (y) {{ {nodes} }}")
    agree(model, {name: ordinary[name] for name in feeds}, at=feeds)


def test_a_shared_initializer_is_one_tensor_and_its_gradient_is_the_sum() -> None:
    text = "tied (float[N,3] x) => (float[N,3] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, w) }"
    converted = agree(with_weights(model_of(text), {"w": noise(3, 3)}), {"x": noise(4, 3)})
    w = converted.parameters["w"]
    assert [name for name, _ in converted.module.named_parameters()] == ["w0"]
    assert converted.module.w0 is w
    converted.module(torch.from_numpy(noise(4, 3)))[0].sum().backward()
    x = torch.from_numpy(noise(4, 3))
    first, second = (w.detach().clone().requires_grad_() for _ in range(2))
    ((x @ first).relu() @ second).sum().backward()
    torch.testing.assert_close(w.grad, first.grad + second.grad)


def test_outputs_keep_their_order_and_may_be_inputs_or_weights() -> None:
    text = """many (float[N,4] x) => (float[N,2] q, float[N,4] x, float[3] w, float[N,4] r, float[N,2] p)
    { r = Relu (x) p, q = Split <axis = 1> (r) k = Identity (w) }"""
    converted = to_torch(with_weights(model_of(text, 13), {"w": noise(3)}), {"x": noise(2, 4)})
    x = noise(5, 4)
    q, same, w, r, p = computed(converted, {"x": x})
    relu = np.maximum(x, 0)
    for got, want in ((q, relu[:, 2:]), (same, x), (w, noise(3)), (r, relu), (p, relu[:, :2])):
        np.testing.assert_array_equal(got, want)


def test_steps_run_one_by_one_and_in_part() -> None:
    converted = to_torch(small_net(17), {"x": noise(1, 3, 9, 9)})
    assert [step.node for step in converted.steps] == list("cnrpsmfy")
    x = torch.from_numpy(noise(2, 3, 9, 9))
    with torch.no_grad():
        env = {"x": x}
        converted.run(env)
        torch.testing.assert_close(env["y"], converted.module(x)[0])
        later = {"r": env["r"], "scale": torch.zeros(4)}
        converted.run(later, converted.steps[3:])
        torch.testing.assert_close(later["y"], env["y"])
        own = {"x": x, "w": torch.zeros(4, 3, 3, 3), "b": torch.ones(4)}
        converted.run(own, converted.steps[:1])
        assert (own["c"] == 1).all(), "a value in env goes before the parameter of that name"
    assert not converted.module.training
    assert list(converted.parameters["w"].shape) == [4, 3, 3, 3]


def test_set_parameter_changes_the_result_and_refuses_what_would_not() -> None:
    converted = to_torch(small_net(17), {"x": noise(1, 3, 9, 9)})
    model, feeds = small_net(17), {"x": noise(2, 3, 9, 9)}
    converted.set_parameter("w", noise(4, 3, 3, 3, seed=7))
    model.graph.initializers["w"].const_value = ir.tensor(noise(4, 3, 3, 3, seed=7), name="w")
    np.testing.assert_allclose(computed(converted, feeds)[0], truth(model, feeds)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"w is .*\[4, 3, 3, 3\], not .*\[3, 3, 3\]"):
        converted.set_parameter("w", noise(3, 3, 3))
    with pytest.raises(ModelError, match="no initializer v"):
        converted.set_parameter("v", noise(3))
    shaped = "shaped (float[N,4] x) => (float[2,M] y) { s = Constant <value_ints=[2,-1]> () y = Reshape (x, s) }"
    with pytest.raises(ModelError, match=r"node y \(Reshape\) holds the value of s"):
        to_torch(model_of(shaped), {"x": noise(1, 4)}).set_parameter("s", np.array([2, 2]))


def test_an_unknown_operator_runs_in_onnx_runtime_at_any_batch() -> None:
    text = "odd (float[N,3] x) => (float[N,3] y) { h = Hardmax (x) r = Relu (h) y = Mul (r, x) }"
    converted = agree(model_of(text), {"x": noise(1, 3)}, fallbacks=1, at={"x": noise(5, 3)})
    (fallback,) = converted.fallbacks
    assert (fallback.node, fallback.op_type, fallback.difference) == ("h", "Hardmax", None)
    assert "onnx2torch has no Hardmax for opset 17" in fallback.reason
    assert [step.fallback for step in converted.steps] == [True, False, False]


SUBGRAPH = """outer (float[N,3] x, bool flag) => (float[N,3] y) {
  k = Relu (x)
  y = If (flag) <then_branch = yes () => (float[N,3] a) { a = Mul (k, w) },
                 else_branch = no () => (float[N,3] b) { b = Neg (x) }> }"""


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch_sees_the_outer_values(flag: bool) -> None:
    model = model_of(SUBGRAPH)
    w = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()[0].inputs[1]
    w.const_value = ir.tensor(noise(3), name="w")
    model.graph.initializers["w"] = w
    converted = to_torch(model, {"x": noise(1, 3), "flag": np.array(True)})
    assert converted.steps[-1].inputs == ("flag", "k", "w", "x")
    feeds = {"x": noise(4, 3, seed=1), "flag": np.array(flag)}
    np.testing.assert_allclose(computed(converted, feeds)[0], truth(model, feeds)[0], rtol=1e-6)


def test_sequences_and_strings_pass_between_nodes_of_onnx_runtime() -> None:
    text = """lists (float[N,4] x) => (float[N,4] y, int64[1] n) {
      s = SplitToSequence <axis = 1> (x)
      y = ConcatFromSequence <axis = 1> (s)
      t = Constant <value_strings = ["a", "b"]> ()
      u = StringConcat (t, t)
      n = Shape (u) }"""
    agree(model_of(text, 20), {"x": noise(2, 4)}, fallbacks=3)


def test_an_input_may_be_a_sequence() -> None:
    text = """lists (seq(float[N,4]) s, float[N,4] x) => (float[N,4] y) {
      t = SequenceInsert (s, x) k = Constant <value_int = -2> () y = SequenceAt (t, k) }"""
    feeds = {"s": [noise(2, 4), noise(3, 4, seed=1)], "x": noise(2, 4)}
    converted = to_torch(model_of(text), feeds)  # type: ignore[arg-type]  # a list of arrays
    assert [f.op_type for f in converted.fallbacks] == ["SequenceInsert", "SequenceAt"]
    (y,) = converted.module([torch.from_numpy(array) for array in feeds["s"]], torch.from_numpy(feeds["x"]))
    np.testing.assert_array_equal(y, feeds["s"][1])


def test_functions_of_the_model() -> None:
    text = """main (float[N,3,5,5] x) => (float[N,2,5,5] y) {
      c = Conv <pads = [1,1,1,1]> (x, w)
      y = local.twice (c) }
    <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }"""
    domains = ', "local" : 1'
    model = with_weights(model_of(text, 17, domains), {"w": noise(2, 3, 3, 3)})
    converted = agree(model, {"x": noise(1, 3, 5, 5)}, fallbacks=1, at={"x": noise(2, 3, 5, 5)})
    assert converted.fallbacks[0].op_type == "twice"


def test_weights_that_torch_cannot_hold_stay_in_onnx_runtime() -> None:
    text = "small (float[N,4] x) => (float[N,4] y) { d = DequantizeLinear (q, s) y = Add (x, d) }"
    weights = {"s": np.array(0.5, np.float32), "q": np.array([-8, 0, 3, 7])}
    model = with_weights(model_of(text, 21), weights)
    packed = onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [4], [-8, 0, 3, 7])
    model.graph.initializers["q"].const_value = ir.from_proto(packed)
    converted = agree(model, {"x": noise(2, 4)}, fallbacks=1)
    assert set(converted.parameters) == {"s"}


def test_random_operators_are_taken_as_they_are() -> None:
    text = "dice (float[N,4] x) => (float[N,4] y) { r = RandomNormalLike (x) y = Add (x, r) }"
    converted = to_torch(model_of(text), {"x": noise(2, 4)})
    assert [f.op_type for f in converted.fallbacks] == ["RandomNormalLike"]


def only(monkeypatch: pytest.MonkeyPatch, op_type: str, converter: registry.Converter) -> None:
    """Make this the only conversion of an operator."""
    monkeypatch.setitem(registry.CONVERTERS, ("", op_type), converter)
    monkeypatch.setattr("graph.bridge.convert.convert_foreign", declines)


def declines(node: Node) -> torch.nn.Module:
    raise Declined("no")


RELU = "one (float[N,4] x) => (float[N,4] y) { a = Neg (x) b = Relu (a) y = Neg (b) }"


def test_a_wrong_conversion_is_replaced_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "Relu", lambda node: lambda x: x.clamp(min=-0.01))
    monkeypatch.setitem(registry.CONVERTERS, ("", "Neg"), lambda node: torch.neg)
    converted = agree(model_of(RELU), {"x": noise(3, 4)}, fallbacks=1)
    assert converted.fallbacks[0].node == "b"
    assert converted.fallbacks[0].difference == pytest.approx(0.01 / np.maximum(-noise(2, 4), 0).max(), rel=0.5)
    assert not to_torch(model_of(RELU), {"x": noise(3, 4)}, verify=False).fallbacks


def test_a_conversion_that_holds_for_one_batch_only_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "Relu", lambda node: lambda x: x.reshape(1, 4).relu())
    monkeypatch.setitem(registry.CONVERTERS, ("", "Neg"), lambda node: torch.neg)
    agree(model_of(RELU), {"x": noise(1, 4)}, fallbacks=1, at={"x": noise(3, 4)})


def test_a_conversion_that_warns_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def loud(x: torch.Tensor) -> torch.Tensor:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return x.relu()

    only(monkeypatch, "Relu", lambda node: loud)
    monkeypatch.setitem(registry.CONVERTERS, ("", "Neg"), lambda node: torch.neg)
    agree(model_of(RELU), {"x": noise(1, 4)}, fallbacks=1)


def test_a_node_that_runs_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> torch.nn.Module:
        raise RuntimeError("no kernel")

    monkeypatch.setattr("graph.bridge.convert.run_in_runtime", fails)
    with pytest.raises(ModelError, match=r"node h \(Hardmax\) runs neither in torch nor alone .*no kernel"):
        to_torch(model_of("odd (float[N,3] x) => (float[N,3] h) { h = Hardmax (x) }"), {"x": noise(1, 3)})


def test_gradients_are_those_of_onnx_runtimes_function() -> None:
    model, feeds = small_net(17), {"x": noise(2, 3, 9, 9)}
    converted = to_torch(model, feeds)
    converted.module(torch.from_numpy(feeds["x"]))[0].sum().backward()
    direction, step = noise(64, 5, seed=9), 1e-2
    slope = float((converted.parameters["g"].grad * torch.from_numpy(direction)).sum())
    values = []
    for sign in (1, -1):
        model.graph.initializers["g"].const_value = ir.tensor(noise(64, 5) + sign * step * direction, name="g")
        values.append(float(truth(model, feeds)[0].sum()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)
    assert all(p.grad is not None for name, p in converted.parameters.items() if name not in ("mean", "var"))


def test_later_revisions_are_found_where_only_types_changed() -> None:
    known = {(domain, op, version) for domain, op, version in onnx2torch_nodes.registry()}
    operators = {op for domain, op, _ in known if domain == ""} - {"NonMaxSuppression", "RoiAlign"}
    ours = {op for domain, op in registry.CONVERTERS if domain == ""}
    for opset, at_least in ((18, 100), (22, 100)):
        found = {op for op in operators if onnx2torch_nodes.find_converter("", op, opset) or op in ours}
        assert len(found) >= at_least
        assert operators - found <= {"Equal", "IsInf", "ConstantOfShape"}
    # a revision that changed its meaning is not taken for the older one
    assert onnx2torch_nodes.find_converter("", "ReduceMean", 13)
    assert onnx2torch_nodes.find_converter("", "ReduceMean", 18) is None
    assert onnx2torch_nodes.find_converter("", "Slice", 9)
    assert onnx2torch_nodes.find_converter("com.microsoft", "Relu", 1) is None


def test_a_second_converter_for_an_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="Conv of domain '' has two"):
        registry.converts("Conv")(lambda node: torch.neg)


@pytest.mark.parametrize("feeds", [{}, {"x": noise(2, 3)}, {"x": noise(1, 4).astype(np.float64)}])
def test_feeds_that_do_not_fit_are_named(feeds: Feeds) -> None:
    with pytest.raises(ModelError, match=r"input x|x float32|x float64"):
        to_torch(model_of(RELU.replace("N,4", "1,4")), feeds)


@pytest.mark.slow
def test_torchvision_is_not_needed_and_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from graph.bridge.onnx2torch_nodes import find_converter
assert find_converter("", "Relu", 22)
assert find_converter("", "NonMaxSuppression", 11) is None
assert not [name for name in sys.modules if name.startswith("torchvision")]
try:
    import torchvision
except RuntimeError:
    print("clean")
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert (done.stdout, done.stderr) == ("clean\n", "")


def spread(model: ir.Model) -> dict[str, np.ndarray]:
    """Values in place of the inputs: 1 for a dynamic axis, or what the graph of shared names needs."""
    real = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    shapes = {v.name: [size if isinstance(size, int) else 1 for size in v.shape] for v in real}
    return {name: noise(*shape) for name, shape in shapes.items()}


# What the images of a network with free height and width are, where 1 is too small.
SIZES = {"ppocr_mobile_v2_cls": (1, 3, 48, 192), "ppocr_v3_det": (1, 3, 96, 96), "yunet_n_dynamic": (1, 3, 96, 96)}
SPEECH = {"silero_vad_v3_micro": {"input": (1, 1536)}, "silero_vad_16k_op15": {"input": (1, 512), "state": (2, 1, 128)}}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the networks of ../shared are not here")
def test_real_networks_run_in_torch_but_for_branches_and_recurrence() -> None:
    for path in sorted([*(SHARED / "zoo").glob("*.onnx"), *(SHARED / "networks").glob("*.onnx")]):
        model = simplify(load(path))
        if path.stem in SPEECH:
            feeds = {name: 0.1 * noise(*shape) for name, shape in SPEECH[path.stem].items()}
            feeds["sr"] = np.array(16000)
        elif path.stem in SIZES:
            feeds = {str(model.graph.inputs[0].name): noise(*SIZES[path.stem])}
        else:
            feeds = spread(model)
        converted = to_torch(model, feeds)
        assert {fallback.op_type for fallback in converted.fallbacks} <= {"If", "LSTM"}, path.stem
        assert converted.largest_difference < 1e-4, path.stem
        assert converted.output_difference < 1e-3, path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_graphs_in_the_onnx_wheel_run_in_torch(path: Path) -> None:
    model = load(path)
    converted = to_torch(model, spread(model))
    assert not converted.fallbacks
    assert converted.output_difference < 1e-4


@pytest.mark.slow
def test_every_case_of_the_onnx_operator_tests_agrees_or_falls_back() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute expected values of all kinds of extremes
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for case in collect_testcases(None) if case.model and "_expanded" not in case.name]
    tried = in_torch = 0
    for case in cases:
        given = zip(case.model.graph.input, case.data_sets[0][0], strict=False)
        feeds = {v.name: array if isinstance(array, list) or array is None else np.asarray(array) for v, array in given}
        try:
            model = ir.from_proto(case.model)
            refer(model, feeds)
        except ModelError:  # newer than this ONNX Runtime
            continue
        converted = to_torch(model, feeds)
        assert case.name in RANDOM or converted.output_difference < 1e-2, case.name
        tried, in_torch = tried + 1, in_torch + (not converted.fallbacks)
    assert tried > 900
    assert in_torch > 0.5 * tried


RANDOM = {"test_training_dropout_default", "test_training_dropout_default_mask", "test_training_dropout"}
