"""Criteria against brute force: refits by numpy's least squares, and what every curve must hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_graphs import build

from calibrate.along import along
from calibrate.consumer import find_consumers
from calibrate.eliminate import Curve, Reader, eliminate, select
from calibrate.source import Source
from calibrate.statistics import collect
from compress.criteria import CRITERIA, Evidence, criterion, order_channels
from graph.analysis import analyse
from graph.bridge import to_torch

RIDGE = 1e-2
FORMS = ["matrix", "rows"]


class Rows:
    """A consumer with known rows: channels of `taps` columns, two columns of somebody else, and the bias."""

    def __init__(self, form: str, channels: int, taps: int, outputs: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        width = channels * taps + 2
        n = 300 if form == "matrix" else (width + 1) // 3
        mixed = generator.normal(size=(n, width)) @ generator.normal(size=(width, width))
        self.x = np.concatenate([mixed + generator.normal(size=width), np.ones((n, 1))], axis=1)
        self.w = generator.normal(size=(width + 1, outputs))
        self.columns = [np.arange(c * taps, (c + 1) * taps) for c in range(channels)]
        self.scale = 0.5

    def reader(self) -> Reader:
        xx = self.x if 2 * len(self.x) < self.x.shape[1] else self.x.T @ self.x
        return Reader(torch.from_numpy(xx), torch.from_numpy(self.w), self.columns, self.scale)

    def loss(self, gone: list[int]) -> float:
        """Refit without these channels by least squares; the ridge is rows more, and nothing but the bias is free."""
        ridge = np.sqrt(RIDGE * (self.x[:, :-1] ** 2).sum(0).mean()) * np.eye(self.x.shape[1])[:-1]
        rows = np.concatenate([self.x, ridge])
        kept = np.setdiff1d(np.arange(rows.shape[1]), [i for c in gone for i in self.columns[c]])
        target = rows @ self.w
        v = np.linalg.lstsq(rows[:, kept], target, rcond=None)[0]
        return float(self.scale * ((target - rows[:, kept] @ v) ** 2).sum())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("channels", "taps", "outputs"), [(6, 1, 3), (5, 4, 2), (2, 40, 7)])
def test_forward_selection_adds_what_all_trials_say(form: str, channels: int, taps: int, outputs: int) -> None:
    problems = [Rows(form, channels, taps, outputs, seed) for seed in (1, 2)]
    curve = select([problem.reader() for problem in problems], channels, RIDGE)
    gone = list(range(channels))
    for added in curve.order[::-1]:
        assert sum(p.loss(gone) for p in problems) == pytest.approx(curve.loss[len(gone)], rel=1e-8)
        trials = {c: sum(p.loss([g for g in gone if g != c]) for p in problems) for c in gone}
        assert added == min(trials, key=lambda c: trials[c])
        gone.remove(added)
    assert curve.loss[0] == 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("channels", "taps", "outputs"), [(6, 1, 3), (5, 4, 2), (70, 9, 3)])
def test_the_loss_along_an_order_is_that_of_least_squares(form: str, channels: int, taps: int, outputs: int) -> None:
    problems = [Rows(form, channels, taps, outputs, seed) for seed in (3, 4)]
    order = np.random.default_rng(channels).permutation(channels)
    curve = along([problem.reader() for problem in problems], order, RIDGE)
    np.testing.assert_array_equal(curve.order, order)
    for removed in {0, 1, 2, channels // 2, channels - 1, channels}:
        expected = sum(problem.loss(order[:removed].tolist()) for problem in problems)
        assert curve.loss[removed] == pytest.approx(expected, rel=1e-8, abs=1e-9 * curve.loss[-1])


@pytest.mark.parametrize("form", FORMS)
def test_backward_losses_are_those_along_their_order(form: str) -> None:
    readers = [Rows(form, 7, 3, 4, seed).reader() for seed in (5, 6)]
    curve = eliminate(readers, 7, RIDGE)
    np.testing.assert_allclose(along(readers, curve.order, RIDGE).loss, curve.loss, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_silent_channels_and_ties(form: str) -> None:
    """A channel that is always 0 goes first and for next to nothing; of two equal ones the first is added first."""
    problem = Rows(form, 5, 2, 3, 7)
    problem.x[:, problem.columns[3]] = 0
    problem.x[:, problem.columns[4]] = problem.x[:, problem.columns[1]]
    problem.w[problem.columns[4]] = problem.w[problem.columns[1]]
    problem.w[problem.columns[3]] *= 1e-6
    order = select([problem.reader()], 5, RIDGE).order.tolist()
    assert order[0] == 3 and order.index(4) < order.index(1)
    problem.x[:, :-1] = 0
    for curve in (select([problem.reader()], 5), along([problem.reader()], np.arange(5)[::-1])):
        assert curve.loss.tolist() == [0.0] * 6
    assert along([problem.reader()], np.arange(5)[::-1]).order.tolist() == [4, 3, 2, 1, 0]


def test_many_at_a_time_still_give_a_curve() -> None:
    readers = [Rows("matrix", 12, 2, 3, 8).reader()]
    curve = select(readers, 12, RIDGE, at_once=3)
    exact = along(readers, curve.order, RIDGE)
    assert sorted(curve.order) == list(range(12)) and curve.loss[12] == pytest.approx(exact.loss[12], rel=1e-9)
    assert curve.loss[8] == pytest.approx(exact.loss[8], rel=1e-9)  # 4 of 12 came in at once


NETWORK = """(float[N,3,6,6] x) => (float[N,5] y) <float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[6,8,1,1] w3,
    float[6] b3, float[6,6,3,3] w4, float[6,5] w5> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    d = Conv <group = 8, pads = [1,1,1,1]> (r, w2)
    c = Conv (d, w3, b3)
    e = Conv <pads = [1,1,1,1]> (c, w4)
    s = Add (c, e)
    t = Relu (s)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    y = MatMul (f, w5)
}"""


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    analysis = analyse(build(NETWORK))
    x = np.random.default_rng(0).normal(size=(30, 3, 6, 6)).astype(np.float32)
    source = Source(30, lambda indices: {"x": x[indices]}, "test images")
    model = to_torch(analysis.model, source.batch(np.arange(2)))
    consumers = {c.node: c for c in find_consumers(analysis.model, dict(analysis.trace.shapes))}
    moments = collect(model, list(consumers.values()), source, np.arange(30), chunk=8, seed=0)
    return Evidence(analysis.channels.groups, analysis.channels, consumers, moments, model, source, np.arange(30), 8)


def same(one: dict[str, Curve], other: dict[str, Curve]) -> bool:
    return all(np.array_equal(one[g].order, other[g].order) and np.array_equal(one[g].loss, other[g].loss) for g in one)


@pytest.mark.parametrize("name", CRITERIA)
def test_curves_of_every_criterion(name: str, evidence: Evidence) -> None:
    """All channels go once; the loss starts at 0, never falls, and ends alike; the same seed, the same curve."""
    curves = CRITERIA[name](evidence)
    reference = CRITERIA["cap"](evidence)
    assert curves.keys() == {group.name for group in evidence.groups} and len(curves) == 2
    for group in evidence.groups:
        curve = curves[group.name]
        assert sorted(curve.order.tolist()) == list(range(len(group.channels)))
        assert curve.loss[0] == 0.0 and (np.diff(curve.loss) >= 0).all()
        assert curve.loss[-1] == pytest.approx(reference[group.name].loss[-1], rel=1e-9) and curve.loss[-1] > 0
        assert len(curve.loss) == len(curve.order) + 1
    assert same(curves, CRITERIA[name](evidence))
    assert same(curves, CRITERIA[name](replace(evidence, seed=1))) == (name != "random")


def test_magnitudes_are_those_of_the_weights_that_make_the_channels(evidence: Evidence) -> None:
    """The depthwise convolution carries channels, it does not make them; two layers make the residual stream."""
    weights = {name: evidence.model.parameters[name].detach().double().numpy() for name in ("w1", "w3", "w4")}
    for name, power in (("magnitude-l1", 1), ("magnitude-l2", 2)):
        sums = {key: (np.abs(weight) ** power).sum((1, 2, 3)) for key, weight in weights.items()}
        expected = {8: sums["w1"], 6: sums["w3"] / sums["w3"].sum() + sums["w4"] / sums["w4"].sum()}
        for curve in CRITERIA[name](evidence).values():
            assert curve.order.tolist() == np.argsort(expected[len(curve.order)]).tolist()


def test_a_criterion_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'cap' is registered twice"):
        criterion("cap")(lambda evidence: {})


def test_what_a_criterion_leaves_out_goes_by_magnitude(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a least-squares loss where the consumer has statistics, else by the share of the weights alone."""
    first, second = evidence.groups
    monkeypatch.setitem(CRITERIA, "nothing", lambda evidence: {})
    curves, reasons = order_channels("nothing", evidence)
    assert same(curves, CRITERIA["magnitude-l2"](evidence))
    why = "nothing says nothing of their channels; channels are ranked by the size of their weights"
    assert reasons == {why: [first.name, second.name]}
    read = {site.node for site in second.consumers}
    unread = {node: m for node, m in evidence.moments.items() if node in read}
    curves, reasons = order_channels("cap", replace(evidence, moments=unread))
    why = "no consumer could be fitted; channels are ranked by the size of their weights"
    assert reasons == {why: [first.name]} and curves.keys() == {first.name, second.name}
    assert curves[first.name].loss[-1] == pytest.approx(1.0)
    assert order_channels("cap", evidence)[1] == {}
