"""Surgery: the law over every model there is, and what must not change."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import (
    LIGHT,
    ROOT,
    build,
    light_model,
    random_plan,
    real_inputs,
    shared_networks,
    shared_zoo,
    unpacked,
)

from graph.couple import couple
from graph.errors import LawError, ModelError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load
from graph.plan import Plan
from graph.runtime import run, session
from graph.shrink import mask, shrink
from graph.simplify import simplify
from graph.trace import trace

CHAIN = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,3,3] w1, float[8] b1, float[4,8,3,3] w2> {
    h = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(h)
    y = Conv<pads=[1,1,1,1]>(r, w2)
}"""
# more than ten seconds, or a hundred megabytes
LARGE = {f"light_{name}" for name in ("bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "vgg19", "zfnet512")}


def obey_the_law(model: ir.Model, path: Path, least_groups: int = 1) -> None:
    """Check the law for random plans, and that keeping everything is bit-identical."""
    simple = simplify(model)
    feeds = real_inputs(model, path, batch=1 if model.graph.num_nodes() > 300 else 2)
    channels = couple(simple, trace(simple, real_inputs(model, path)))
    assert len(channels.groups) >= least_groups
    rng = np.random.default_rng(0)
    for kept, gone in ((0.3, 0.0), (0.8, 0.5)):
        check_law(simple, channels, random_plan(channels, rng, kept, gone), feeds)
    whole = shrink(simple, channels, Plan.everything(channels))
    before, after = run(session(simple, optimise=False), feeds), run(session(whole, optimise=False), feeds)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem) for path in sorted(ROOT.glob("sample_models/*.onnx"))]
)
@pytest.mark.parametrize("keep_batchnorm", [False, True])
def test_law_on_our_models(path: Path, keep_batchnorm: bool) -> None:
    obey_the_law(simplify(load(path), keep_batchnorm), path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else [])
        for path in sorted(LIGHT.glob("*.onnx"))
    ],
)
def test_law_on_the_graphs_of_the_onnx_wheel(path: Path) -> None:
    obey_the_law(light_model(path), path, least_groups=5)


@pytest.mark.parametrize("path", shared_networks())
def test_law_on_real_networks(path: Path, tmp_path: Path) -> None:
    obey_the_law(load(unpacked(path, tmp_path)), path, least_groups=6)


@pytest.mark.slow
@pytest.mark.parametrize("path", shared_zoo())
def test_law_on_the_zoo(path: Path) -> None:
    obey_the_law(load(path), path, least_groups=0 if "silero" in path.stem else 2)


def test_every_weight_loses_its_channels() -> None:
    model = build(CHAIN)
    channels = couple(model, trace(model))
    (group,) = channels.groups
    kept = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    small = shrink(model, channels, Plan({group.name: kept}))
    before, after = model.graph.initializers, small.graph.initializers
    np.testing.assert_array_equal(after["w1"].const_value.numpy(), before["w1"].const_value.numpy()[kept])
    np.testing.assert_array_equal(after["b1"].const_value.numpy(), before["b1"].const_value.numpy()[kept])
    np.testing.assert_array_equal(after["w2"].const_value.numpy(), before["w2"].const_value.numpy()[:, kept])
    assert [list(after[name].shape) for name in ("w1", "b1", "w2")] == [[5, 3, 3, 3], [5], [4, 5, 3, 3]]


def test_the_mask_touches_consumers_only() -> None:
    model = build(CHAIN)
    channels = couple(model, trace(model))
    kept = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    masked = mask(model, channels, Plan({channels.groups[0].name: kept}))
    before, after = model.graph.initializers, masked.graph.initializers
    np.testing.assert_array_equal(after["w1"].const_value.numpy(), before["w1"].const_value.numpy())
    np.testing.assert_array_equal(
        after["w2"].const_value.numpy(), before["w2"].const_value.numpy() * kept[None, :, None, None]
    )


def test_the_model_given_is_not_changed() -> None:
    model = build(CHAIN)
    channels = couple(model, trace(model))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plan = random_plan(channels, np.random.default_rng(0))
    shrink(model, channels, plan)
    mask(model, channels, plan)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_inputs_outputs_and_metadata_stay() -> None:
    model = build(CHAIN)
    model.metadata_props["author"] = "somebody"
    model.doc_string, model.graph.doc_string, model.graph[0].doc_string = "m", "g", "n"
    channels = couple(model, trace(model))
    small = shrink(model, channels, random_plan(channels, np.random.default_rng(0)))
    assert str(small.graph.inputs[0]) == str(model.graph.inputs[0])
    assert str(small.graph.outputs[0]) == str(model.graph.outputs[0])
    assert small.metadata_props == {"author": "somebody"}
    assert (small.doc_string, small.graph.doc_string, small.graph[0].doc_string) == ("m", "g", "n")
    assert small.opset_imports == model.opset_imports


def test_declared_shapes_of_intermediate_values_follow() -> None:
    model = build(CHAIN)
    model.graph[0].outputs[0].shape = ir.Shape(["N", 8, 8, 8])
    channels = couple(model, trace(model))
    small = shrink(model, channels, Plan({channels.groups[0].name: np.arange(8) < 3}))
    assert list(small.graph[0].outputs[0].shape)[1:] == [3, 8, 8]


def test_a_constant_that_two_nodes_read_is_changed_for_one_only() -> None:
    """Both reshapes read `to`; only the first is of pruned channels."""
    model = build("""(float[N,3,4,4] x, float[N,6,4,4] z) => (float[N,5,16] y, float[N,6,16] u)
        <float[6,3,1,1] w1, float[5,6] w2, int64[3] to = {-1,6,16}> {
        a = Conv(x, w1)
        f = Reshape(a, to)
        y = MatMul(w2, f)
        u = Reshape(z, to)
    }""")
    channels = couple(model, trace(model))
    check_law(model, channels, Plan({channels.groups[0].name: np.arange(6) < 2}), example_inputs(model, batch=3))


def test_the_width_in_a_shape_of_something_else_stays_what_it_was() -> None:
    """The second reshape is of an input, by sizes that are read off pruned channels."""
    model = build("""(float[N,3,4,4] x, float[N,96] z) => (float[N,5,4,4] y, float[N,6,16] u)
        <float[6,3,1,1] w1, float[5,6,1,1] w2, int64[1] one = {1}, int64[1] rest = {-1}, int64[1] space = {16}> {
        a = Conv(x, w1)
        y = Conv(a, w2)
        shape = Shape(a)
        c = Gather(shape, one)
        to = Concat<axis=0>(rest, c, space)
        u = Reshape(z, to)
    }""")
    channels = couple(model, trace(model))
    check_law(model, channels, Plan({channels.groups[0].name: np.arange(6) < 2}), example_inputs(model, batch=3))


def test_a_slice_whose_computed_end_moves_without_need_is_mended() -> None:
    """Half of eight channels is sliced off; one of the other half goes, and half of seven would be three."""
    model = build("""(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[8,3,1,1] w1, float[5,4,1,1] w2, float[5,8,1,1] w3,
         int64[1] one = {1}, int64[1] two = {2}, int64[1] zero = {0}> {
        a = Conv(x, w1)
        shape = Shape(a)
        c = Gather(shape, one)
        half = Div(c, two)
        b = Slice(a, zero, half, one)
        d = Conv(b, w2)
        e = Conv(a, w3)
        y = Add(d, e)
    }""")
    channels = couple(model, trace(model))
    low, high = (group.name for group in channels.groups)
    plan = Plan({low: np.ones(4, bool), high: np.arange(4) < 3})
    check_law(model, channels, plan, example_inputs(model, batch=3))


def test_constants_that_nothing_reads_any_more_are_gone() -> None:
    model = build("""(float[N,3,4,4] x) => (float[N,5,16] y)
        <float[6,3,1,1] w1, float[5,6] w2, float[2] unread, int64[3] to = {0,6,16}> {
        a = Conv(x, w1)
        f = Reshape(a, to)
        y = MatMul(w2, f)
    }""")
    channels = couple(model, trace(model))
    small = shrink(model, channels, Plan({channels.groups[0].name: np.arange(6) < 2}))
    assert {name for name, value in small.graph.initializers.items() if not value.uses()} == {"unread"}


def test_a_computed_size_is_not_mended_where_it_is_right() -> None:
    model = build("""(float[N,3,4,4] x) => (float[N,6,16] y)
        <float[6,3,1,1] w1, float[5,6] w2, int64[1] one = {1}, int64[1] rest = {-1}, int64[1] space = {16}> {
        a = Conv(x, w1)
        shape = Shape(a)
        c = Gather(shape, one)
        to = Concat<axis=0>(rest, c, space)
        f = Reshape(a, to)
        y = MatMul(w2, f)
    }""")
    channels = couple(model, trace(model))
    small = shrink(model, channels, Plan({channels.groups[0].name: np.arange(6) < 2}))
    assert [node.op_type for node in small.graph] == [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("text", "keep", "left"),
    [
        pytest.param(
            """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[8,3,1,1] w1, float[5,6,1,1] w2, float[5,8,1,1] w3,
             int64[1] zero = {0}, int64[1] six = {6}, int64[1] one = {1}> {
            a = Conv(x, w1)
            b = Slice(a, zero, six, one)
            d = Conv(b, w2)
            e = Conv(a, w3)
            y = Add(d, e)
        }""",
            {"a": np.arange(6) < 4, "a#2": np.zeros(2, bool)},
            ["a", "d", "e", "y"],
            id="it cut what is gone",
        ),
        pytest.param(
            """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[8,3,1,1] w1, float[5,6,1,1] w2, float[5,8,1,1] w3,
             int64[2] from = {0,0}, int64[2] to = {6,4}, int64[2] along = {1,2}> {
            a = Conv(x, w1)
            b = Slice(a, from, to, along)
            d = Conv(b, w2)
            e = Conv(a, w3)
            y = Add(d, e)
        }""",
            {"a": np.arange(6) < 4, "a#2": np.zeros(2, bool)},
            ["a", "b", "d", "e", "y"],
            id="it would cut rows, too, of a larger input",
        ),
        pytest.param(
            """(float[N,3,4,4] x) => (float[N,5,4,4] y)
            <float[4,3,1,1] w1, float[6,3,1,1] w2, float[5,6,1,1] w3, int64[8] pads = {0,0,0,0,0,2,0,0}> {
            a = Conv(x, w1)
            p = Pad(a, pads)
            b = Conv(x, w2)
            s = Add(p, b)
            y = Conv(s, w3)
        }""",
            {"b": np.zeros(2, bool)},
            ["a", "b", "s", "y"],
            id="it added what is gone",
        ),
    ],
)
def test_what_does_nothing_any_more_is_gone(text: str, keep: dict[str, np.ndarray], left: list[str]) -> None:
    model = build(text)
    channels = couple(model, trace(model))
    plan = Plan(keep)
    check_law(model, channels, plan, example_inputs(model, batch=3))
    small = shrink(model, channels, plan)
    assert [node.outputs[0].name for node in small.graph] == left
    onnx.checker.check_model(ir.to_proto(small), full_check=True)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"h": np.zeros(8, bool)}, "keeps none of the 8 channels of group 'h'"),
        ({"h": np.ones(7, bool)}, "has 7 channels for group 'h', the model has 8"),
        ({"nobody": np.ones(8, bool)}, "a group 'nobody' that the model does not have"),
    ],
)
def test_plans_that_do_not_fit_are_refused(keep: dict[str, np.ndarray], message: str) -> None:
    model = build(CHAIN)
    with pytest.raises(ModelError, match=message):
        shrink(model, couple(model, trace(model)), Plan(keep))


def test_the_law_reports_nan_at_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(CHAIN)
    channels = couple(model, trace(model))
    plan = Plan({channels.groups[0].name: np.arange(8) < 5})
    feeds = example_inputs(model)
    check_law(model, channels, plan, feeds)
    poisoned = model.graph.initializers["b1"].const_value.numpy().copy()
    poisoned[7] = np.nan  # Relu passes it on, and 0 * NaN is NaN: the masked model has it, the shrunk one not
    model.graph.initializers["b1"].const_value = ir.tensor(poisoned)
    with pytest.raises(LawError, match="output y has NaN or infinities at different places"):
        check_law(model, channels, plan, feeds)


def test_a_plan_survives_json() -> None:
    model = build(CHAIN)
    channels = couple(model, trace(model))
    plan = random_plan(channels, np.random.default_rng(3))
    back = Plan.from_json(plan.to_json())
    assert back.keep.keys() == plan.keep.keys()
    assert all(np.array_equal(back.keep[name], plan.keep[name]) for name in plan.keep)
