"""The law on networks that hypothesis builds at random, under random plans; and that it catches planted faults."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from network_growth import Network
from planted_faults import FAULTS, title
from random_networks import networks
from small_graphs import build, random_plan

from graph.analysis import analyse
from graph.channels import Channels
from graph.count import count
from graph.couple import couple
from graph.errors import LawError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.plan import Plan
from graph.registry import MENDS, RULES, Rule
from graph.runtime import run, session
from graph.shrink import shrink
from graph.trace import Trace, trace

TOLERANCE = 1e-4  # of the largest magnitude: float32 leaves some 1e-6 of these networks
Feeds = dict[str, np.ndarray]


def check_network(net: Network) -> None:
    """Check all that must hold of one network, as it is and made ready for pruning."""
    proto = net.model()
    onnx.checker.check_model(proto)
    model, feeds = ir.from_proto(proto), net.feeds(2)
    analysis = analyse(model, net.feeds(1))
    assert_close(run(session(analysis.model, optimise=False), feeds), run(session(model, optimise=False), feeds))
    check_pruning(model, couple(model, trace(model, net.feeds(1))), feeds)
    check_pruning(analysis.model, analysis.channels, feeds)


def check_pruning(model: ir.Model, channels: Channels, feeds: Feeds) -> None:
    """Check that keeping everything changes no bit, the law under random plans, and what they make of the model."""
    assert written(shrink(model, channels, Plan.everything(channels))) == written(model)
    before, strict = trace(model, feeds), passes_full_check(ir.to_proto(model))
    for plan in plans(channels, np.random.default_rng(0)):
        check_law(model, channels, plan, feeds, TOLERANCE)
        small = shrink(model, channels, plan)
        after = trace(small, feeds)
        assert_widths(model, small, channels, plan, before, after)
        assert [str(value) for value in small.graph.inputs] == [str(value) for value in model.graph.inputs]
        assert [str(value) for value in small.graph.outputs] == [str(value) for value in model.graph.outputs]
        assert count(small, after).macs <= count(model, before).macs
        assert passes_full_check(ir.to_proto(small)) or not strict


def plans(channels: Channels, rng: np.random.Generator) -> Iterator[Plan]:
    """Yield plans: one channel left of each group; some groups whole, some in part; some gone altogether."""
    if channels.groups:
        widths = {group.name: len(group.channels) for group in channels.groups}
        yield Plan({name: np.arange(width) == rng.integers(width) for name, width in widths.items()})
        yield Plan({name: mask for name, mask in random_plan(channels, rng).keep.items() if rng.random() < 0.7})
    if channels.removable:
        yield random_plan(channels, rng, kept=0.8, gone=0.7)


def assert_widths(
    model: ir.Model, small: ir.Model, channels: Channels, plan: Plan, before: Trace, after: Trace
) -> None:
    """Check that weights and values lost as many places along each axis as the plan removes labels there.

    What goes altogether, or leaves a constant, is another matter.
    """
    gone = list(plan.removed(channels))
    lost = {(axis.weight, axis.axis): int(np.isin(ids, gone).sum()) for axis, ids in channels.labels.items()}
    lost |= {(name, labels.axis): int(np.isin(labels.ids, gone).sum()) for name, labels in channels.values.items()}
    names = {name for name, _ in lost} & before.shapes.keys()
    if any(not mask.any() for mask in plan.keep.values()):
        names &= after.shapes.keys() - (small.graph.initializers.keys() - model.graph.initializers.keys())
    for name in names:
        sizes = tuple(size - lost.get((name, axis), 0) for axis, size in enumerate(before.shapes[name]))
        assert after.shapes[name] == sizes, name


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=TOLERANCE * max(1e-3, np.abs(right).max()))


def written(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def passes_full_check(proto: onnx.ModelProto) -> bool:
    """Whether onnx's checker accepts a model with its shapes inferred."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


# nothing is stored in the repository; a network takes longer to draw than hypothesis expects of an example
QUIET = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@settings(QUIET, max_examples=40)
@given(networks())
def test_the_law_on_random_networks(net: Network) -> None:
    check_network(net)


@pytest.mark.slow
@settings(QUIET, max_examples=250)
@given(networks(most=20))
def test_the_law_on_many_larger_random_networks(net: Network) -> None:
    check_network(net)


def plant(operator: str, wrong: Rule | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a wrong rule in the place of the right one, or take away what mends an operator."""
    if wrong is None:
        monkeypatch.delitem(MENDS, ("", operator))
    else:
        monkeypatch.setitem(RULES, ("", operator), wrong)


def violations(model: ir.Model, feeds: Feeds) -> int:
    """Return under how many of eight random plans the law is broken."""
    channels, rng, broken = couple(model, trace(model, feeds)), np.random.default_rng(0), 0
    for plan in (plan for _ in range(4) for plan in plans(channels, rng)):
        try:
            check_law(model, channels, plan, feeds)
        except LawError:
            broken += 1
    return broken


@pytest.mark.parametrize(("operator", "wrong", "text"), [pytest.param(*fault, id=title(fault)) for fault in FAULTS])
def test_the_law_catches_a_planted_fault(
    operator: str, wrong: Rule | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(text)
    feeds = example_inputs(model)
    assert not violations(model, feeds)
    plant(operator, wrong, monkeypatch)
    assert violations(model, feeds)


# of operators that most networks have
COMMON = [fault for fault in FAULTS if fault[0] in {"Concat", "Add", "Split", "BatchNormalization"}]


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "wrong", "text"), [pytest.param(*fault, id=title(fault)) for fault in COMMON])
def test_random_networks_find_a_planted_fault(
    operator: str, wrong: Rule | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among a few hundred networks there is one on which the law is broken: else `find` raises."""
    plant(operator, wrong, monkeypatch)

    def breaks(net: Network) -> bool:
        return violations(ir.from_proto(net.model()), net.feeds(1)) > 0

    find(networks(), breaks, settings=settings(QUIET, max_examples=300, phases=[Phase.generate]))
