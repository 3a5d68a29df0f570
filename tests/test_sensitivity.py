"""Sensitivities against an independent run: the masked model in ONNX Runtime, and refits by numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from small_graphs import build

from calibrate.consumer import Consumer, find_consumers
from calibrate.eliminate import Curve
from calibrate.moments import Moments
from calibrate.source import Source
from calibrate.statistics import collect
from compress.criteria import CRITERIA, Evidence
from compress.sensitivity import compensated, losses, measure
from graph.analysis import Analysis, analyse
from graph.bridge import TorchModel, to_torch
from graph.plan import Plan
from graph.shrink import mask

NETWORK = """(float[N,3,6,6] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[12,4,1,1] w3, float[12] b3, float[12,5] w4,
    float[6,8,3,3] w5, float[6] b5, float[8,6,1,1] w6, float[8] b6
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1,1,1,1]> (r, w2, b2)
    s = Add (c, r)
    t = Relu (s)
    e = Conv <pads = [1,1,1,1]> (t, w5, b5)
    q = Relu (e)
    k = Conv (q, w6, b6)
    v = Add (k, t)
    d = Conv <group = 2> (v, w3, b3)
    u = Relu (d)
    p = GlobalAveragePool (u)
    f = Flatten (p)
    y = MatMul (f, w4)
}"""


@dataclass(frozen=True)
class Case:
    analysis: Analysis
    model: TorchModel
    source: Source
    consumers: Mapping[str, Consumer]
    moments: Mapping[str, Moments]
    curves: Mapping[str, Curve]

    def measure(self, moments: Mapping[str, Moments], chunk: int = 4) -> dict[str, dict[int, float]]:
        channels = self.analysis.channels
        return measure(
            channels.groups,
            channels,
            self.curves,
            self.consumers,
            moments,
            self.model,
            self.source,
            np.arange(20, 30),
            chunk=chunk,
        )


def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 3, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def case() -> Case:
    analysis = analyse(build(NETWORK))
    source = Source(30, lambda indices: {"x": samples()[indices]}, "test images")
    model = to_torch(analysis.model, source.batch(np.arange(2)))
    consumers = {c.node: c for c in find_consumers(analysis.model, dict(analysis.trace.shapes))}
    moments = collect(model, list(consumers.values()), source, np.arange(20), chunk=8, seed=0)
    channels = analysis.channels
    evidence = Evidence(channels.groups, channels, consumers, moments, model, source, np.arange(20), 8)
    found = CRITERIA["cap"](evidence)
    return Case(analysis, model, source, consumers, moments, found)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


def test_every_group_is_measured_at_every_cut(case: Case) -> None:
    found = case.measure(case.moments)
    assert case.analysis.channels.removable == {"e"}
    for group in case.analysis.channels.groups:
        full = len(group.channels)
        left = {max(1, round(cut * full)) for cut in (0.75, 0.5, 0.25, 0.1)} | ({0} if group.name == "e" else set())
        assert set(found[group.name]) == {full - width for width in left}
    assert all(value > 0 for cuts in found.values() for value in cuts.values())


def test_without_statistics_it_is_the_divergence_of_the_masked_model(case: Case) -> None:
    """Consumers that cannot be fitted lose the columns and nothing else: that is the law's masked model."""
    analysis, x = case.analysis, samples()[20:]
    a = run(analysis.model, x)
    energy = ((a - a.mean(0)) ** 2).sum(1).mean()
    for name, cuts in case.measure({}).items():
        for removed, value in cuts.items():
            keep = np.ones(len(case.curves[name].order), bool)
            keep[case.curves[name].order[:removed]] = False
            b = run(mask(analysis.model, analysis.channels, Plan({name: keep})), x)
            assert value == pytest.approx(((a - b) ** 2).sum(1).mean() / energy, rel=1e-3), (name, removed)


def test_compensation_helps(case: Case) -> None:
    with_it, without = case.measure(case.moments), case.measure({})
    for name, cuts in with_it.items():
        assert sum(cuts.values()) < sum(without[name].values())


def test_without_any_channel_a_consumer_puts_out_its_mean() -> None:
    """The refit by numpy has one unknown per output: the bias, which becomes the mean of the output."""
    generator = np.random.default_rng(1)
    x = np.concatenate([generator.normal(1, size=(50, 6)), np.ones((50, 1))], axis=1)
    w = generator.normal(size=(7, 4))
    found = compensated(torch.from_numpy(w)[None], torch.from_numpy(x.T @ x)[None], torch.arange(6))[0].numpy()
    np.testing.assert_allclose(found[-1], (x @ w).mean(0))
    assert not found[:-1].any()


def test_the_weights_are_put_back(case: Case) -> None:
    before = {name: value.clone() for name, value in case.model.parameters.items()}
    case.measure(case.moments)
    assert all(torch.equal(value, before[name]) for name, value in case.model.parameters.items())


def test_chunks_do_not_matter(case: Case) -> None:
    parts, whole = case.measure(case.moments, chunk=3), case.measure(case.moments, chunk=10)
    for name, cuts in parts.items():
        assert cuts == pytest.approx(whole[name], rel=1e-4)


def test_the_refit_is_the_ridge_solution_of_its_formula() -> None:
    """W = argmin Σ |X·w − X[:, K]·W|² + λ·s·|W − w[K]|², by numpy."""
    generator = np.random.default_rng(1)
    x = np.concatenate([generator.normal(size=(50, 6)) @ generator.normal(size=(6, 6)), np.ones((50, 1))], axis=1)
    w = generator.normal(size=(7, 4))
    gone, kept = [1, 4], [0, 2, 3, 5, 6]
    found = compensated(torch.from_numpy(w)[None], torch.from_numpy(x.T @ x)[None], torch.tensor(gone))[0].numpy()
    part = x[:, kept]
    damping = 1e-3 * np.diag(part.T @ part)[:-1].mean() * np.diag([1.0, 1, 1, 1, 0])
    expected = np.linalg.solve(part.T @ part + damping, part.T @ (x @ w) + damping @ w[kept])
    np.testing.assert_allclose(found[kept], expected, rtol=1e-8)
    assert not found[gone].any()


def test_the_refit_of_inputs_that_are_always_0_is_the_slice() -> None:
    w = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    xx = torch.zeros(1, 4, 4, dtype=torch.float64)
    xx[0, -1, -1] = 9
    found = compensated(w, xx, torch.tensor([0]))
    assert torch.equal(found[:, 1:], w[:, 1:]) and not found[:, 0].any()


CURVE = Curve(np.arange(8), np.array([0.0, 0.0, 0.1, 0.2, 0.4, 0.4, 0.8, 1.6, 3.0]))


def test_the_loss_is_what_was_measured_where_it_was() -> None:
    measured = {2: 0.01, 4: 0.5, 6: 0.7}
    found = losses(CURVE, measured)
    assert {n: found[n] for n in measured} == pytest.approx(measured)


@pytest.mark.parametrize(
    "measured",
    [{}, {2: 0.1}, {2: 0.1, 4: 0.05}, {4: 0.5, 5: 0.6}, {2: 0.0, 4: 0.3}, {2: float("nan"), 6: 2.0}],
    ids=["none", "one", "falling", "two at one error", "no effect", "not a number"],
)
def test_losses_rise_from_nothing(measured: dict[int, float]) -> None:
    found = losses(CURVE, measured)
    assert len(found) == 9 and found[0] == 0
    assert np.isfinite(found).all() and (np.diff(found) >= 0).all()


def test_a_scaled_curve_stays_in_shape() -> None:
    """Measurements that are proportional to the curve give the curve in their unit, beyond the ends as well."""
    np.testing.assert_allclose(losses(CURVE, {3: 2.0, 6: 8.0})[1:], 10 * np.maximum(CURVE.loss[1:], 1e-12))


def test_without_measurements_the_curve_itself_is_the_loss() -> None:
    np.testing.assert_allclose(losses(CURVE, {}), CURVE.loss, atol=1e-11)


def test_no_effect_is_not_an_unknown_effect() -> None:
    """A group whose absence nobody notices must not be charged the errors of its consumers."""
    assert losses(CURVE, {2: 0.0, 4: -1e-17, 6: 0.0}).max() < 1e-10
