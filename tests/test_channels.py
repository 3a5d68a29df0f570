"""Channels of a network that has lost some are those that coupling finds in it, under the labels of the original."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import build, random_plan
from training_nets import RESIDUAL

from graph.analysis import analyse
from graph.channels import Channels
from graph.couple import couple
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

JOINED = """(float[N,3,8,8] x) => (float[N,5] y) <
    float[6,3,3,3] w1, float[4,3,3,3] w2, float[10,1,3,3] depthwise, float[12,10,1,1] w3, float[5,12] w4, float[5] b4
> {
    a = Conv (x, w1)
    b = Conv (x, w2)
    c = Concat <axis = 1> (a, b)
    d = Conv <group = 10> (c, depthwise)
    r = Relu (d)
    e = Conv (r, w3)
    p = GlobalAveragePool (e)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w4, b4)
}"""


def places(channels: Channels) -> list[tuple[str, int, np.ndarray]]:
    weights = [(axis.weight, axis.axis, ids) for axis, ids in channels.labels.items()]
    return weights + [(name, each.axis or 0, each.ids) for name, each in channels.values.items()]


def check_renamed(ours: Channels, theirs: Channels) -> None:
    """Check that both have the same labels in the same places, but for their numbers."""
    found = {(name, axis): ids for name, axis, ids in places(ours)}
    expected = {(name, axis): ids for name, axis, ids in places(theirs)}
    assert found.keys() == expected.keys()
    for there, ids in expected.items():
        assert ids.shape == found[there].shape, there
    pairs = {pair for there, ids in expected.items() for pair in zip(found[there].tolist(), ids.tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert {name: each.shape for name, each in ours.values.items()} == {n: e.shape for n, e in theirs.values.items()}
    name = dict(pairs)
    for one, other in zip(ours.groups, theirs.groups, strict=True):
        assert one.name == other.name
        assert sorted(name[label] for label in one.channels) == list(other.channels)
        for role in ("producers", "followers", "consumers"):
            assert getattr(one, role) == getattr(other, role)


def wide(model: ir.Model, channels: Channels, seed: int) -> Plan:
    """Return a random plan that keeps two channels of each group at least: fewer are no group any more."""
    plan = random_plan(channels, np.random.default_rng(seed), 0.6)
    for mask in plan.keep.values():
        mask[:2] = True
    return plan


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", [RESIDUAL, JOINED])
def test_are_those_of_the_narrow_network(text: str, seed: int) -> None:
    analysis = analyse(build(text), keep_batchnorm=True)
    model, channels = analysis.model, analysis.channels
    plan = wide(model, channels, seed)
    small = shrink(model, channels, plan)
    assert plan.removed(channels)
    narrow = channels.without(plan.removed(channels))
    check_renamed(narrow, couple(small, trace(small)))
    assert (narrow.lasting, narrow.together) == (channels.lasting, channels.together)


def test_nothing_removed_is_the_same() -> None:
    channels = analyse(build(JOINED)).channels
    same = channels.without(frozenset())
    assert same.groups == channels.groups
    check_renamed(same, channels)


def test_a_group_that_is_gone_takes_its_weights_along() -> None:
    analysis = analyse(build(RESIDUAL), keep_batchnorm=True)
    channels = analysis.channels
    (group,) = (group for group in channels.groups if group.name == "c2")
    narrow = channels.without(frozenset(group.channels))
    assert [each.name for each in narrow.groups] == ["c1"]
    assert not {"w2", "b2", "w3", "scale2"} & {axis.weight for axis in narrow.labels}
    sites = (site for each in narrow.groups for site in (*each.producers, *each.followers, *each.consumers))
    assert not {"w2", "w3"} & {site.axis.weight for site in sites}
    assert narrow.lasting.keys() == {"c1"}
    served = replace(channels, together={"c1": frozenset({"c2", "c3"}), "c2": frozenset({"c1"})})
    assert served.without(frozenset(group.channels)).together == {}
    assert not {"c2", "n2", "r2"} & narrow.values.keys()
