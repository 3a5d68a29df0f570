"""Which channels hang together, on graphs small enough to check by eye, and the law on each of them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coupling_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from pattern_cases import BY_OPSET, NORMALISATIONS, PATTERNS, SELECTIONS, TRANSFORMERS
from small_graphs import build, random_plan, table

from graph.channels import Labels
from graph.couple import _by_places, couple
from graph.errors import LawError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.partition import Partition
from graph.plan import Plan
from graph.registry import RULES, rule
from graph.runtime import run, session
from graph.shrink import shrink
from graph.trace import trace
from graph.walk import Walk

PLANS = ((0.2, 0.0), (0.5, 0.5), (0.8, 1.0))  # the shares of channels kept, and of removable groups gone
ALL = [*CASES, *PATTERNS, *TRANSFORMERS, *NORMALISATIONS, *SELECTIONS]


@pytest.mark.parametrize(("text", "groups", "declined"), ALL)
def test_groups(text: str, groups: list[str], declined: list[str]) -> None:
    model = build(text)
    channels = couple(model, trace(model))
    assert table(channels) == groups
    assert [frozen.op_type for frozen in channels.frozen] == declined


@pytest.mark.parametrize(("text", "groups", "declined"), ALL)
def test_law(text: str, groups: list[str], declined: list[str]) -> None:
    model = build(text)
    channels, rng = couple(model, trace(model)), np.random.default_rng(0)
    feeds = example_inputs(model, batch=2)
    for kept, gone in PLANS:
        check_law(model, channels, random_plan(channels, rng, kept, gone), feeds, tolerance=1e-5)
    whole = shrink(model, channels, Plan.everything(channels))
    for left, right in zip(run(session(whole), feeds), run(session(model), feeds), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("opset", "text", "groups"),
    [
        pytest.param(
            9,
            """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w1, float[8,4,1,1] w2, float[4,8,1,1] w3> {
            a = Conv(x, w1)
            p = Pad<pads=[0,2,0,0,0,2,0,0]>(a)
            b = Conv(a, w2)
            s = Add(p, b)
            y = Conv(s, w3)
        }""",
            ["a 4: w1.0 w2.0 |  | w2.1 w3.1", "b 4: w2.0 |  | w3.1"],
            id="Pad by attribute",
        ),
        pytest.param(
            9,
            """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[9,3,1,1] w1, float[4,5,1,1] w2, float[4,4,1,1] w3> {
            a = Conv(x, w1)
            b = Slice<axes=[1], starts=[0], ends=[5]>(a)
            c = Slice<axes=[1], starts=[5], ends=[9223372036854775807]>(a)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
            ["a 5: w1.0 |  | w2.1", "a#2 4: w1.0 |  | w3.1"],
            id="Slice by attribute",
        ),
        pytest.param(
            11,
            """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[9,3,1,1] w1, float[4,5,1,1] w2, float[4,4,1,1] w3> {
            a = Conv(x, w1)
            b, c = Split<axis=1, split=[5,4]>(a)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
            ["a 5: w1.0 |  | w2.1", "a#2 4: w1.0 |  | w3.1"],
            id="Split by attribute",
        ),
        pytest.param(
            18,
            """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3> {
            a = Conv(x, w1)
            b, c = Split<axis=1, num_outputs=2>(a)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
            ["a 4: w1.0 |  | w2.1", "a#2 4: w1.0 |  | w3.1"],
            id="Split by number",
        ),
        pytest.param(
            11,
            """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
            a = Conv(x, w1)
            s = Softmax<axis=2>(a)
            y = Conv(s, w2)
        }""",
            ["a 6: w1.0 |  | w2.1"],
            id="Softmax from axis 2 on",
        ),
        pytest.param(
            11,
            """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
            a = Conv(x, w1)
            s = Softmax(a)
            y = Conv(s, w2)
        }""",
            [],
            id="Softmax from axis 1 on",
        ),
    ],
)
def test_old_and_new_opsets(opset: int, text: str, groups: list[str]) -> None:
    model = build(text, opset=opset)
    channels, rng = couple(model, trace(model)), np.random.default_rng(0)
    assert table(channels) == groups
    for kept, gone in PLANS:
        check_law(
            model, channels, random_plan(channels, rng, kept, gone), example_inputs(model, batch=2), tolerance=1e-5
        )


@pytest.mark.parametrize(("opset", "text", "groups", "reasons"), BY_OPSET)
def test_reasons(opset: int, text: str, groups: list[str], reasons: list[str]) -> None:
    model = build(text, opset=opset)
    channels, rng = couple(model, trace(model)), np.random.default_rng(0)
    assert table(channels) == groups
    assert [f"{frozen.op_type}: {frozen.reason}" for frozen in channels.frozen] == reasons
    for kept, gone in PLANS:
        check_law(
            model, channels, random_plan(channels, rng, kept, gone), example_inputs(model, batch=2), tolerance=1e-5
        )


BASE = (1, 8, 4, 6)
MOVES = [
    ("y = Reshape(x, to)", "int64[5] to = {1,2,4,4,6}", (1, 2, 4, 4, 6)),
    ("y = Reshape(x, to)", "int64[2] to = {1,192}", (1, 192)),
    ("y = Reshape(x, to)", "int64[3] to = {4,12,4}", (4, 12, 4)),
    ("y = Reshape(x, to)", "int64[3] to = {2,4,24}", (2, 4, 24)),
    ("y = Reshape(x, to)", "int64[2] to = {16,12}", (16, 12)),
    ("y = Reshape(x, to)", "int64[2] to = {6,32}", (6, 32)),
    ("y = Reshape(x, to)", "int64[4] to = {8,2,4,3}", (8, 2, 4, 3)),
    ("y = Reshape(x, to)", "int64[1] to = {192}", (192,)),
    ("y = Transpose<perm=[3,1,0,2]>(x)", "", (6, 8, 1, 4)),
    (
        "y = Slice(x, from, to, axes, by)",
        "int64[2] from = {1,5}, int64[2] to = {9,-9}, int64[2] axes = {1,3}, int64[2] by = {3,-2}",
        (1, 3, 4, 3),
    ),
    ("y = Gather<axis=1>(x, i)", "int64[2,4] i = {0,1,2,3,4,5,6,7}", (1, 2, 4, 4, 6)),
    ("y = Slice(x, from, to)", "int64[2] from = {0,-5}, int64[2] to = {1,7}", (1, 4, 4, 6)),
    ("y = Gather<axis=1>(x, i)", "int64[3] i = {7,-8,7}", (1, 3, 4, 6)),
    ("y = Gather<axis=2>(x, i)", "int64[2,2] i = {0,1,2,0}", (1, 8, 2, 2, 6)),
    ("y = Tile(x, t)", "int64[4] t = {1,2,1,3}", (1, 16, 4, 18)),
    ("y = Expand(x, t)", "int64[5] t = {2,1,8,4,6}", (2, 1, 8, 4, 6)),
    ("y = Unsqueeze(x, t)", "int64[1] t = {1}", (1, 1, 8, 4, 6)),
    ("y = Squeeze(x, t)", "int64[1] t = {0}", (8, 4, 6)),
    ("y = Flatten<axis=2>(x)", "", (8, 24)),
    ("y = SpaceToDepth<blocksize=2>(x)", "", (1, 32, 2, 3)),
    ('y = DepthToSpace<blocksize=2, mode="DCR">(x)', "", (1, 2, 8, 12)),
    ('y = DepthToSpace<blocksize=2, mode="CRD">(x)', "", (1, 2, 8, 12)),
]


@pytest.mark.parametrize(("node", "constants", "shape"), MOVES)
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_movement_is_the_operator_run_on_labels(node: str, constants: str, shape: tuple[int, ...], axis: int) -> None:
    """Every label lands where the operator itself takes it, or is tied with what is there."""
    declared = ",".join(map(str, shape))
    weights = f"<{constants}>" if constants else ""
    model = build(f"(float[1,8,4,6] x) => (float[{declared}] y) {weights} {{ {node} }}")
    walk = Walk(model, trace(model))
    ids = walk.fresh(BASE[axis])
    walk.values["x"] = Labels(BASE, axis, ids)
    walk.step(model.graph[0])
    made = walk.labels(model.graph.outputs[0])
    placed = _spread(ids, axis, BASE).astype(np.float32)
    (moved,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": placed})
    found = np.zeros(shape, np.int64) if made.axis is None else _spread(made.ids, made.axis, shape)
    np.testing.assert_array_equal(walk.partition.find(moved.astype(np.int64)), found)


def _spread(ids: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(ids.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8))
def test_labels_are_told_apart_by_where_they_occur(places: list[list[int]]) -> None:
    """The oracle compares the places of every two labels."""
    members, number = _by_places([np.array(place, np.int64) for place in places])
    occurs = {label: [label in place for place in places] for label in range(1, 10)}
    seen = [label for label in occurs if any(occurs[label])]
    assert sorted(label for labels in members for label in labels) == seen
    together = {(a, b) for labels in members for a in labels for b in labels}
    assert together == {(a, b) for a in seen for b in seen if occurs[a] == occurs[b]}
    assert all(number[label] == group for group, labels in enumerate(members) for label in labels)
    assert all(number[label] == -1 for label in range(len(number)) if label not in seen)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60), st.integers(1, 7))
def test_partition_agrees_with_relabelling(pairs: list[tuple[int, int]], batch: int) -> None:
    """The oracle relabels everything at every union."""
    partition, naive = Partition(), list(range(31))
    partition.fresh(30)
    for start in range(0, len(pairs), batch):
        some = pairs[start : start + batch]
        partition.union(np.array([a for a, _ in some]), np.array([b for _, b in some]))
        for a, b in some:
            low, high = sorted((naive[a], naive[b]))
            naive = [low if label == high else label for label in naive]
    assert partition.find(np.arange(31)).tolist() == naive


def test_a_second_rule_for_an_operator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Conv .* is registered twice"):
        rule("Conv")(RULES[("", "Relu")])


def test_every_rule_names_an_operator_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    # operators that ONNX Runtime has, or newer versions of ONNX
    ours = {"SimplifiedLayerNormalization", "Swish", "RMSNormalization"}
    assert {name for domain, name in RULES if domain == ""} - known <= ours


def test_what_a_subgraph_captures_is_fixed() -> None:
    model = build("""(float[N,3,4,4] x, bool c) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        b = If (c) <
            then_branch = one () => (float[N,6,4,4] t) { t = Relu(a) },
            else_branch = two () => (float[N,6,4,4] e) { e = Abs(a) }
        >
        y = Conv(b, w2)
    }""")
    channels = couple(model, trace(model))
    assert channels.groups == ()
    assert [frozen.op_type for frozen in channels.frozen] == ["If"]


def test_a_weight_that_a_subgraph_captures_is_fixed() -> None:
    model = build("""(float[N,3,4,4] x, bool c) => (float[N,5,4,4] y, float[6,3,1,1] z)
        <float[6,3,1,1] w1, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        y = Conv(a, w2)
        z = If (c) <
            then_branch = one () => (float[6,3,1,1] t) { t = Relu(w1) },
            else_branch = two () => (float[6,3,1,1] e) { e = Abs(w1) }
        >
    }""")
    assert couple(model, trace(model)).groups == ()


@pytest.mark.parametrize("broken", ["Concat", "Add"])
def test_the_law_catches_a_wrong_rule(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES[("", broken)]

    def wrong(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
        if broken == "Add":  # forgets to tie what is added
            return walk.outputs(node, 1, walk.labels(node.inputs[0]).ids)
        (labels,) = right(node, walk)
        return (Labels(labels.shape, labels.axis, labels.ids[::-1].copy()),)

    monkeypatch.setitem(RULES, ("", broken), wrong)
    model = build(f"""(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6,3,1,1] w2, float[4,{6 if broken == "Add" else 12},1,1] w3> {{
        a = Conv(x, w1)
        b = Conv(x, w2)
        c = {"Add" if broken == "Add" else "Concat<axis=1>"}(a, b)
        y = Conv(c, w3)
    }}""")
    channels = couple(model, trace(model))
    keep = {group.name: np.arange(len(group.channels)) > 1 for group in channels.groups}
    with pytest.raises(LawError, match=r"output y|does not run"):
        check_law(model, channels, Plan(keep), example_inputs(model))
