"""Groups that may go altogether: which, why not, any choice of them at once, and what is left of the graph."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import ROOT, build, random_plan
from test_widen import halved

from compress.costs import macs_model, params_model
from graph.analysis import analyse
from graph.channels import Channels
from graph.count import count
from graph.couple import couple
from graph.errors import ModelError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

STAYS = "the output y would be constant"
# the model, why each group must keep a channel ("" where it may go), the nodes left where all go that may
CASES = [
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,3,3] w1, float[8] b1, float[4,8,3,3] w2> {
        h = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(h)
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }""",
        {"h": STAYS},
        ["h", "r", "y"],
        id="nothing would be left",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[9,6,3,3] w2, float[6,9,3,3] w3, float[6] b3, float[4,6,3,3] w4> {
        a = Conv(x, w1)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, w2)
        q = Relu(b)
        c = Conv<pads=[1,1,1,1]>(q, w3, b3)
        s = Add(c, r)
        t = Relu(s)
        y = Conv<pads=[1,1,1,1]>(t, w4)
    }""",
        {"a": STAYS, "b": ""},
        ["a", "r", "s", "t", "y"],
        id="residual branch, its bias before an activation",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[9,6,3,3] w2, float[6,9,3,3] w3, float[4,6,3,3] w4> {
        a = Conv(x, w1)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, w2)
        q = Relu(b)
        c = Conv<pads=[1,1,1,1]>(q, w3)
        s = Add(c, r)
        t = Relu(s)
        y = Conv<pads=[1,1,1,1]>(t, w4)
    }""",
        {"a": STAYS, "b": ""},
        ["a", "s", "t", "y"],  # what the first Relu makes is known by the name of the sum
        id="residual branch without a bias",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[6,3,1,1] w1, float[6] b1, float[9,6,1,1] w2,
         float[9,1,3,3] w3, float[6,9,1,1] w4, float[6] b4, float[7,6,1,1] w5, float[6,7,1,1] w6, float[6] b6,
         float[4,6,3,3] w7> {
        a = Conv(x, w1, b1)
        b = Conv(a, w2)
        c = Conv<group=9, pads=[1,1,1,1]>(b, w3)
        q = Clip(c)
        d = Conv(q, w4, b4)
        s = Add(a, d)
        e = Conv(s, w5)
        r = Relu(e)
        f = Conv(r, w6, b6)
        t = Add(s, f)
        y = Conv<pads=[1,1,1,1]>(t, w7)
    }""",
        {"a": "Conv c could not be computed without it", "b": "", "e": ""},
        ["t", "y"],
        id="linear stream, biases go into the one before",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[6,3,1,1] w1, float[6] b1, float[9,6,1,1] w2,
         float[6,9,1,1] w3, float[6] b3, float[4,6,3,3] w4, float[4,6,1,1] w5> {
        a = Conv(x, w1, b1)
        b = Conv(a, w2)
        c = Conv(b, w3, b3)
        s = Add(a, c)
        d = Conv<pads=[1,1,1,1]>(s, w4)
        e = Conv(a, w5)
        y = Add(d, e)
    }""",
        {"a": STAYS, "b": ""},
        ["a", "s", "d", "e", "y"],
        id="what the bias would go into is read without it as well",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[6,3,1,1] w1, float[9,6,1,1] w2, float[5,9,1,1] w3,
         float[5] b3, float[9,5,1,1] w4, float[9] b4, float[6,9,1,1] w5, float[6] b5, float[4,6,3,3] w6> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        p = GlobalAveragePool(b)
        c = Conv(p, w3, b3)
        r = Relu(c)
        d = Conv(r, w4, b4)
        g = Sigmoid(d)
        e = Mul(b, g)
        f = Conv(e, w5, b5)
        s = Add(a, f)
        t = Relu(s)
        y = Conv<pads=[1,1,1,1]>(t, w6)
    }""",
        {"a": "GlobalAveragePool p could not be computed without it", "b": "", "c": ""},
        ["a", "s", "t", "y"],  # without a bias of its own the first cannot take the constant
        id="a gate, and the branch that it is in",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[5,3,1,1] w1, float[6,3,1,1] w2, float[4,11,3,3] w3> {
        a = Conv(x, w1)
        b = Conv(x, w2)
        r = Relu(b)
        c = Concat<axis=1>(a, r)
        y = Conv<pads=[1,1,1,1]>(c, w3)
    }""",
        {"a": "", "b": "nothing would be left of what it makes with a"},
        ["b", "r", "y"],
        id="one branch of a Concat",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[6,3,1,1] w2, float[7,6,3,3] w3, float[4,15,1,1] w4> {
        a = Conv(x, w1)
        b = Conv(x, w2)
        r = Relu(b)
        c = Conv<pads=[1,1,1,1]>(r, w3)
        d = Concat<axis=1>(x, c, a)
        y = Conv(d, w4)
    }""",
        {"a": "", "b": "Concat d could not be computed without it", "c": ""},
        ["y"],
        id="a Concat with the input",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[6,3,1,1] w2, float[4,5,1,1] w3, float[4,6,1,1] w4, float[4] b3> {
        a = Conv(x, w1)
        b = Conv(x, w2)
        c = Conv(a, w3, b3)
        d = Conv(b, w4)
        y = Add(c, d)
    }""",
        {"a": "b may go, and one of the two must keep one", "b": ""},
        ["a", "c", "y"],  # the sum keeps its name, since it is an output
        id="two branches of a sum",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[6,5,1,1] w2, float[4,6,1,1] w3, float[4,3,1,1] w4> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Conv(b, w3)
        d = Conv(x, w4)
        y = Add(c, d)
    }""",
        {"a": "", "b": ""},
        ["d", "y"],
        id="a constant goes through a convolution of size 1",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[6,5,1,1] w2, float[4,6,3,3] w3, float[4,3,1,1] w4> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Conv<pads=[1,1,1,1]>(b, w3)
        d = Conv(x, w4)
        y = Add(c, d)
    }""",
        {"a": "Conv c could not be computed without it", "b": ""},
        ["d", "y"],
        id="and not through another",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,h,w] y)
        <float[5,3,3,3] w1, float[4,5,1,1] w2, float[4,3,1,1] w3> {
        a = Conv<pads=[2,2,2,2]>(x, w1)
        b = Conv(a, w2)
        c = Conv(x, w3)
        m = Shape<end=2>(c)
        n = Shape<start=2>(a)
        z = Concat<axis=0>(m, n)
        d = Resize<mode="nearest">(c, , , z)
        y = Add(b, d)
    }""",
        {"a": "Shape n could not be computed without it"},
        ["a", "b", "c", "m", "n", "z", "d", "y"],
        id="its shape is read",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[5,3,1,1] w1, float[4,5,1,1] w2, float[4,3,1,1] w3> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        p = GlobalAveragePool(x)
        c = Conv(p, w3)
        y = Mul(b, c)
    }""",
        {"a": "Mul y could not be computed without it"},
        ["a", "b", "p", "c", "y"],
        id="what remains would be smaller",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[5,3,1,1] w1, float[4,5,1,1] w2,
         float[1,4,1,1] c, int64[4] full = {1,4,8,8}> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        e = Expand(c, full)
        y = Mul(b, e)
    }""",
        {"a": "Mul y could not be computed without it"},
        ["a", "b", "e", "y"],
        id="what remains would not have the batch",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[9,3,1,1] w1, float[4,5,1,1] w2, float[4,4,1,1] w3, int64[2] sizes = {5,4}> {
        a = Conv(x, w1)
        b, c = Split<axis=1>(a, sizes)
        d = Conv(b, w2)
        e = Conv(c, w3)
        y = Add(d, e)
    }""",
        {"a": "Split c could not be computed without it", "a#2": "Split b could not be computed without it"},
        ["a", "b", "d", "e", "y"],
        id="part of what is split",
    ),
    pytest.param(
        """(float[N,7] x) => (float[N,4] y) <float[7,5] w1, float[5] b1, float[5,4] w2, float[4] b2, float[6,7] w3,
         float[4,6] w4, float[4] b4, float[7,4] w5> {
        a = MatMul(x, w1)
        b = Add(b1, a)
        r = Relu(b)
        c = MatMul(r, w2)
        d = Add(c, b2)
        e = Gemm<transB=1>(x, w3)
        q = Relu(e)
        f = Gemm<transB=1, beta=0.5>(q, w4, b4)
        g = MatMul(x, w5)
        s = Add(d, g)
        t = Tanh(s)
        y = Add(t, f)
    }""",
        {"a": "", "e": ""},
        ["g", "s", "t", "y"],
        id="products",
    ),
]


def gone(channels: Channels, names: tuple[str, ...]) -> Plan:
    """Return the plan without the groups of these names, and with all but one channel of the others."""
    widths = {group.name: len(group.channels) for group in channels.groups}
    return Plan({name: np.arange(width) < (0 if name in names else width - 1) for name, width in widths.items()})


@pytest.mark.parametrize(("text", "why", "left"), CASES)
def test_what_may_go(text: str, why: dict[str, str], left: list[str]) -> None:
    model = build(text)
    channels = couple(model, trace(model))
    assert channels.lasting == why
    small = shrink(model, channels, gone(channels, tuple(channels.removable)))
    assert [node.outputs[0].name for node in small.graph] == left
    assert [str(value) for value in (*small.graph.inputs, *small.graph.outputs)] == [
        str(value) for value in (*model.graph.inputs, *model.graph.outputs)
    ]


@pytest.mark.parametrize(("text", "why", "left"), CASES)
def test_any_of_them_together(text: str, why: dict[str, str], left: list[str]) -> None:
    model = build(text)
    channels = couple(model, trace(model))
    names = sorted(channels.removable)
    for number in range(len(names) + 1):
        for chosen in itertools.combinations(names, number):
            plan = gone(channels, chosen)
            check_law(model, channels, plan, example_inputs(model, batch=3), tolerance=1e-5)
            onnx.checker.check_model(ir.to_proto(shrink(model, channels, plan)), full_check=True)


@pytest.mark.parametrize(("text", "why", "left"), CASES)
def test_the_others_are_refused(text: str, why: dict[str, str], left: list[str]) -> None:
    model = build(text)
    channels = couple(model, trace(model))
    for name in why.keys() - channels.removable:
        with pytest.raises(ModelError, match=f"keeps none of the . channels of group '{name}'; keep at least one: "):
            shrink(model, channels, gone(channels, (name,)))


def test_constants_in_half_precision() -> None:
    model = halved(
        build(next(str(case.values[0]) for case in CASES if case.id == "a gate, and the branch that it is in"))
    )
    channels = couple(model, trace(model))
    for chosen in (("b",), ("c",), ("b", "c")):
        plan = gone(channels, chosen)
        check_law(model, channels, plan, example_inputs(model, batch=3))
        small = shrink(model, channels, plan)
        assert {value.dtype for value in small.graph.initializers.values()} == {ir.DataType.FLOAT16}


def test_what_was_of_no_use_before_stays_where_it_can() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[4,5,1,1] w2, float[4,3,1,1] w3, float[2] unread> {
        a = Conv(x, w1)
        z = Shape(a)
        u = Relu(x)
        b = Conv(a, w2)
        c = Conv(x, w3)
        y = Add(b, c)
    }""")
    channels = couple(model, trace(model))
    small = shrink(model, channels, gone(channels, ("a",)))
    assert [node.outputs[0].name for node in small.graph] == ["u", "c", "y"]
    assert set(small.graph.initializers) == {"w3", "unread", "b"}


def test_a_constant_has_a_place_for_each_channel_that_is_left() -> None:
    """The stream of six channels loses one; the bias of the branch goes on as five numbers."""
    text = next(case.values[0] for case in CASES if case.id == "residual branch, its bias before an activation")
    model = build(str(text))
    channels = couple(model, trace(model))
    small = shrink(model, channels, gone(channels, ("b",)))
    bias = model.graph.initializers["b3"].const_value
    constant = small.graph.initializers["c"].const_value
    assert bias is not None and constant is not None
    np.testing.assert_array_equal(constant.numpy(), bias.numpy()[:5].reshape(1, 5, 1, 1))
    assert {"w2", "w3", "b3"}.isdisjoint(small.graph.initializers)


@pytest.mark.parametrize("path", sorted(ROOT.glob("sample_models/*.onnx")), ids=lambda path: path.stem)
def test_what_goes_costs_nothing(path: Path) -> None:
    """The costs that a search reckons with are those of the graph that comes out, if all of a branch is at 0."""
    analysis = analyse(load(path))
    channels, shapes = analysis.channels, analysis.trace.shapes
    macs, params = (make(channels, analysis.count, shapes) for make in (macs_model, params_model))
    generator = np.random.default_rng(0)
    for _ in range(6):
        plan = random_plan(channels, generator, 0.7, 0.6)
        widths = {name: int(mask.sum()) for name, mask in plan.keep.items()}
        small = shrink(analysis.model, channels, plan)
        counted = count(small, trace(small))
        for name in channels.removable:
            if not widths[name]:
                widths |= dict.fromkeys(channels.together.get(name, ()), 0)
        assert counted.macs == macs.total(widths)
        assert counted.params <= params.total({name: int(mask.sum()) for name, mask in plan.keep.items()})


def test_groups_inside_one_branch_go_together() -> None:
    model = build("""(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[6,3,1,1] w1, float[5,6,1,1] w2,
        float[7,5,3,3] w3, float[9,7,3,3] w4, float[6,9,1,1] w5, float[4,6,1,1] w6> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Conv<pads=[1,1,1,1]>(b, w3)
        d = Conv<pads=[1,1,1,1]>(c, w4)
        e = Conv(d, w5)
        s = Add(a, e)
        y = Conv(s, w6)
    }""")
    channels = couple(model, trace(model))
    assert channels.removable == {"c", "d"}  # what is left of b goes into a convolution with padding
    assert channels.together == {"c": {"b", "d"}, "d": {"b", "c"}}
