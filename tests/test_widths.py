"""The widths a group may take, and the plan that widths and curves make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrate.eliminate import Curve
from compress.widths import allowed_widths, display_names, matches, may_go, plan_of
from graph.channels import Axis, ChannelGroup, Channels, Site

NAMES = {"conv1_out": "stage1/conv1", "conv2_out": "conv2_out"}


def group(width: int, name: str = "g") -> ChannelGroup:
    producers = tuple(Site(node, "Conv", Axis(f"{node}_w", 0)) for node in NAMES)
    return ChannelGroup(name, tuple(range(1, width + 1)), producers, (), ())


@pytest.mark.parametrize(
    ("full", "exclude", "ratios", "round_to", "expected"),
    [
        (5, (), {}, 1, [1, 2, 3, 4, 5]),
        (10, (), {}, 4, [4, 8, 10]),  # the full width is always there
        (8, (), {}, 4, [4, 8]),
        (3, (), {}, 4, [3]),
        (5, ("g",), {}, 1, [5]),
        (5, ("stage1/*",), {}, 1, [5]),
        (5, ("conv2_out",), {}, 1, [5]),
        (5, ("Conv2_out", "other"), {}, 1, [1, 2, 3, 4, 5]),
        (10, (), {"*conv1": 0.5}, 1, [1, 2, 3, 4, 5]),
        (10, (), {"*conv1": 0.3}, 1, [1, 2, 3]),  # 0.3 · 10 is 3 in spite of rounding
        (10, (), {"other": 0.1, "stage?/conv1": 0.5, "*": 0.2}, 1, [1, 2, 3, 4, 5]),  # the first that fits
        (16, (), {"*": 0.6}, 4, [4, 8]),
        (16, (), {"*": 0.1}, 4, [4]),  # never none
        (16, ("*",), {"*": 0.1}, 4, [16]),
    ],
)
def test_allowed_widths(
    full: int, exclude: Sequence[str], ratios: Mapping[str, float], round_to: int, expected: list[int]
) -> None:
    found = allowed_widths(group(full), NAMES, exclude=exclude, max_width_ratio=ratios, round_to=round_to)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("ratios", "round_to", "expected"),
    [
        ({}, 4, [0, 4, 8, 12, 16]),
        ({"*": 0.6}, 4, [0, 4, 8]),
        ({"*": 0.1}, 4, [0, 4]),  # to be narrow is not to be gone
        ({"*": 0.1}, 32, [0, 16]),
    ],
)
def test_widths_of_a_group_that_may_go(ratios: Mapping[str, float], round_to: int, expected: list[int]) -> None:
    found = allowed_widths(group(16), NAMES, max_width_ratio=ratios, round_to=round_to, removable=True)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ((), True),
        (("other",), True),
        (("g",), False),
        (("stage1/*",), False),  # a producer
        (("inner*",), False),  # what would go with it
        (("*reader",), False),  # what would be replaced by a constant
    ],
)
def test_nothing_goes_that_holds_an_excluded_layer(exclude: Sequence[str], expected: bool) -> None:
    outer = replace(group(4), consumers=(Site("read_out", "Conv", Axis("read_w", 1)),))
    inner = ChannelGroup("inner", (5, 6), (Site("inner_out", "Conv", Axis("inner_w", 0)),), (), ())
    names = {**NAMES, "read_out": "the reader", "inner_out": "inner"}
    together = {"g": frozenset(["inner"])}
    channels = Channels({}, {}, (inner, outer), (), lasting={"g": "", "inner": "why"}, together=together)
    assert may_go(outer, channels, names, exclude) == expected
    assert not may_go(inner, channels, names, ())


def test_a_node_is_known_by_its_name_and_by_its_output() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> agraph (float[1,2] x) => (float[1,2] y) {
            [first] a = Relu (x)
            y = Neg (a)
        }""")
    )
    assert display_names(model) == {"a": "first", "y": "y"}


def test_patterns_are_the_shells_and_case_counts() -> None:
    assert matches(group(2), "stage[12]/conv1", NAMES)
    assert not matches(group(2), "stage[34]/conv1", NAMES)
    assert not matches(group(2), "conv1", NAMES)
    assert not matches(group(2), "STAGE1/CONV1", NAMES)


def test_the_plan_keeps_what_the_curve_removes_last() -> None:
    curves = {"a": Curve(np.array([2, 0, 3, 1]), np.arange(5.0)), "b": Curve(np.array([0, 1]), np.arange(3.0))}
    plan = plan_of({"a": 2, "b": 2}, [group(4, "a"), group(2, "b"), group(3, "c")], curves)
    assert {name: mask.tolist() for name, mask in plan.keep.items()} == {
        "a": [False, True, False, True],
        "b": [True, True],
        "c": [True, True, True],  # no width was chosen for it
    }
