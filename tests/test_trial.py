"""Trials against independent runs: the masked model in ONNX Runtime, and fits by numpy."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from small_graphs import build

from calibrate.consumer import Consumer, find_consumers
from calibrate.eliminate import Curve
from calibrate.forward import feed
from calibrate.moments import Moments
from calibrate.preprocess import PRESETS
from calibrate.source import Source
from calibrate.statistics import collect
from compress.api import Options
from compress.cut import choose, cut
from compress.prepare import examine, prepare
from compress.progress import Timed, silent
from compress.ranking import searched_images
from compress.searches import Effort
from compress.sensitivity import measure
from compress.small_fit import RIDGE, find_aims, refitted
from compress.targets import Target
from compress.trial import Trials
from compress.widths import plan_of
from graph.analysis import Analysis, analyse
from graph.bridge import Portable, TorchModel, to_torch
from graph.channels import Axis
from graph.shrink import mask, shrink

SAMPLES = Path(__file__).parents[1] / "sample_models"
NETWORK = """(float[N,3,6,6] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[12,8,1,1] w3, float[12] b3,
    float[10,12,1,1] w4, float[10] b4, float[12,5] w5, float[12,10,1,1] w6, float[12] b6
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1,1,1,1]> (r, w2, b2)
    s = Add (c, r)
    t = Relu (s)
    d = Conv (t, w3, b3)
    u = Relu (d)
    e = Conv (u, w4, b4)
    v = Relu (e)
    g = Conv (v, w6, b6)
    h = Add (g, u)
    p = GlobalAveragePool (h)
    f = Flatten (p)
    y = MatMul (f, w5)
}"""
TWO_OUTPUTS = """(float[N,3,6,6] x) => (float[N,4] y, float[N,3] z) <
    float[8,3,3,3] w1, float[8] b1, float[8,4] w2, float[8,3] w3
> {
    a = Conv (x, w1, b1)
    r = Relu (a)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = MatMul (f, w2)
    z = MatMul (f, w3)
}"""
JUDGED = np.arange(40, 60)


@dataclass(frozen=True)
class Case:
    analysis: Analysis
    model: TorchModel
    source: Source
    consumers: Mapping[str, Consumer]
    moments: Mapping[str, Moments]
    curves: Mapping[str, Curve]

    def trials(self, *, fit: int = 0, chunk: int = 8) -> Trials:
        analysis = self.analysis
        return Trials(
            Portable(analysis.model, self.source.batch(np.arange(4)), self.model),
            analysis.channels,
            self.curves,
            self.consumers,
            self.moments,
            self.source,
            JUDGED,
            fit=np.arange(fit),
            shapes=analysis.trace.shapes,
            chunk=chunk,
        )

    def widths(self, seed: int) -> dict[str, int]:
        generator = np.random.default_rng(seed)
        channels = self.analysis.channels
        least = {group.name: int(group.name not in channels.removable) for group in channels.groups}
        return {g.name: int(generator.integers(least[g.name], len(g.channels) + 1)) for g in channels.groups}


def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 3, 6, 6)).astype(np.float32)


def case_of(text: str) -> Case:
    analysis = analyse(build(text))
    source = Source(60, lambda indices: {"x": samples()[indices]}, "test images")
    model = to_torch(analysis.model, source.batch(np.arange(4)))
    consumers = {c.node: c for c in find_consumers(analysis.model, dict(analysis.trace.shapes))}
    moments = collect(model, list(consumers.values()), source, np.arange(40), chunk=4, seed=0)
    curves = {
        group.name: Curve(np.random.default_rng(i).permutation(len(group.channels)), np.zeros(len(group.channels) + 1))
        for i, group in enumerate(analysis.channels.groups)
    }
    return Case(analysis, model, source, consumers, moments, curves)


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(NETWORK)


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value, np.float64) for value in session.run(None, {session.get_inputs()[0].name: x})]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    energy = ((a - a.mean(0)) ** 2).sum(1).mean()
    return float(((a - b) ** 2).sum(1).mean() / energy)


def test_without_statistics_it_is_the_model_with_all_groups_cut(case: Case) -> None:
    analysis, x = case.analysis, samples()[JUDGED]
    (a,) = run(analysis.model, x)
    tried = replace(case, moments={}).trials()
    for seed in range(4):
        widths = case.widths(seed)
        plan = plan_of(widths, analysis.channels.groups, case.curves)
        for form in (mask, shrink):
            (b,) = run(form(analysis.model, analysis.channels, plan), x)
            assert tried(widths) == pytest.approx(apart(a, b), rel=1e-3)


def test_one_group_alone_is_what_sensitivity_measures(case: Case) -> None:
    channels = case.analysis.channels
    given = (channels, case.curves, case.consumers, case.moments, case.model, case.source, JUDGED)
    measured = measure(channels.groups, *given, chunk=8)
    tried = case.trials()
    for group in channels.groups:
        for removed, value in measured[group.name].items():
            assert tried({group.name: len(group.channels) - removed}) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("fit", [0, 16])
def test_a_trial_does_not_depend_on_those_before_it(case: Case, fit: int) -> None:
    """Whatever is remembered: in any order, and with one group moved at a time, up to its full width and back."""
    base = case.widths(1)
    choices = [case.widths(0), base]
    for group in case.analysis.channels.groups:
        choices += [{**base, group.name: width} for width in (1, len(group.channels), 3)]
    fresh = [case.trials(fit=fit)(widths) for widths in choices]
    tried, backwards = case.trials(fit=fit), case.trials(fit=fit)
    assert [tried(widths) for widths in choices] == fresh
    assert [backwards(widths) for widths in reversed(choices)] == fresh[::-1]
    assert len(set(fresh)) > len(choices) / 2


@pytest.mark.parametrize("fit", [0, 16])
def test_it_is_the_same_in_another_process(case: Case, fit: int) -> None:
    tried = case.trials(fit=fit)
    again = pickle.loads(pickle.dumps(tried))
    assert [again(case.widths(seed)) for seed in range(3)] == [tried(case.widths(seed)) for seed in range(3)]


@pytest.mark.parametrize("fit", [0, 16])
def test_chunks_do_not_matter(case: Case, fit: int) -> None:
    for seed in range(2):
        found = [case.trials(fit=fit, chunk=chunk)(case.widths(seed)) for chunk in (4, 20)]
        assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("fit", [0, 16])
def test_nothing_cut_is_nothing_changed(case: Case, fit: int) -> None:
    tried, full = case.trials(fit=fit), {group.name: len(group.channels) for group in case.analysis.channels.groups}
    for widths in ({}, full):
        assert tried(widths) == 0


def test_a_fit_on_what_arrives_brings_outputs_nearer(case: Case) -> None:
    plain, symmetric, fitted = replace(case, moments={}).trials(), case.trials(), case.trials(fit=40)
    found = [[tried(case.widths(seed)) for seed in range(4)] for tried in (plain, symmetric, fitted)]
    assert np.mean(found[0]) > np.mean(found[1]) > np.mean(found[2])


def test_the_weights_are_put_back(case: Case) -> None:
    before = {name: value.clone() for name, value in case.model.parameters.items()}
    case.trials(fit=8)(case.widths(0))
    assert all(torch.equal(value, before[name]) for name, value in case.model.parameters.items())


def test_several_outputs_count_alike() -> None:
    case = replace(case_of(TWO_OUTPUTS), moments={})
    analysis, x, widths = case.analysis, samples()[JUDGED], case.widths(3)
    cut = mask(analysis.model, analysis.channels, plan_of(widths, analysis.channels.groups, case.curves))
    found = case.trials()(widths)
    pairs = zip(run(analysis.model, x), run(cut, x), strict=True)
    assert found == pytest.approx(sum(apart(a, b) for a, b in pairs), rel=1e-3)


def test_outputs_that_are_no_numbers_are_infinitely_far(case: Case) -> None:
    weights = case.model.parameters
    before = weights["w5"].clone()
    tried = case.trials()
    try:
        with torch.no_grad():
            weights["w5"].fill_(float("nan"))
        assert tried(case.widths(0)) == float("inf")
    finally:
        with torch.no_grad():
            weights["w5"].copy_(before)


def test_a_fixed_batch_is_fed_whole() -> None:
    case = case_of(NETWORK.replace("float[N,", "float[4,"))
    free = case_of(NETWORK)
    for seed in range(2):
        found = case.trials(fit=16, chunk=4)(case.widths(seed))
        assert found == pytest.approx(free.trials(fit=16, chunk=4)(case.widths(seed)), rel=1e-4)


def test_without_any_channel_the_fit_is_the_mean(case: Case) -> None:
    """The bias of the conv in front of the Add becomes the mean of what the original sum has and the shortcut lacks."""
    analysis, model = case.analysis, case.model
    with torch.inference_mode():
        starts = [feed(model, case.source, np.arange(6))]
        aims = find_aims(analysis.model, model, analysis.channels, analysis.trace.shapes, starts)
        position, aim = next((i, aim) for i, aim in aims.items() if aim.consumer.weight == "w6")
        before, now = dict(starts[0]), dict(starts[0])
        model.run(before)
        model.run(now, model.steps[:position])
        now["u"] = 0.7 * now["u"] + 0.1
        now["w6"] = torch.zeros_like(model.parameters["w6"])
        found = refitted(aim, [now], analysis.channels.labels[Axis("w6", 1)], model)
        wanted = (before["h"] - now["u"]).flatten(2)[:, :, aim.positions].mean((0, 2))
    assert not found["w6"].any()
    torch.testing.assert_close(found["b6"], wanted, rtol=1e-4, atol=1e-5)


def test_the_fit_is_the_ridge_solution_of_its_formula(case: Case) -> None:
    """W = argmin Σ |t − s − Wᵀx|² + λ·s·|W − W₀|², by numpy, for the conv in front of the Add."""
    analysis, model = case.analysis, case.model
    with torch.inference_mode():
        starts = [feed(model, case.source, part) for part in (np.arange(6), np.arange(6, 12))]
        aims = find_aims(analysis.model, model, analysis.channels, analysis.trace.shapes, starts)
        position, aim = next((i, aim) for i, aim in aims.items() if aim.consumer.weight == "w2")
        gone = analysis.channels.labels[Axis("w2", 1)][[2, 5]]
        envs = []
        for start in starts:
            env = dict(start)
            model.run(env, model.steps[:position])
            env[aim.consumer.x] = 0.7 * env[aim.consumer.x] + 0.1
            env["w2"] = model.parameters["w2"].clone()
            env["w2"][:, [2, 5]] = 0
            envs.append(env)
        found = refitted(aim, envs, gone, model)
        originals = []
        for start in starts:
            env = dict(start)
            model.run(env, [step for step in model.steps if step.node in {"a", "r", "c", "s"}])
            originals.append(env["s"].numpy())
    x = np.concatenate([env[aim.consumer.x].numpy() for env in envs]).astype(np.float64)
    t = np.concatenate(originals).astype(np.float64)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    padded[:, [2, 5]] = 0
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # N C 6 6 3 3
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), 36, 72)[:, aim.positions]
    rows = np.concatenate([rows.reshape(-1, 72), np.ones((rows.shape[0] * rows.shape[1], 1))], axis=1)
    shortcut = x if aim.tail.shortcut == aim.consumer.x else None
    assert shortcut is not None
    wanted = (t - shortcut).transpose(0, 2, 3, 1).reshape(len(x), 36, 8)[:, aim.positions].reshape(-1, 8)
    w0 = np.concatenate([envs[0]["w2"].numpy().reshape(8, 72).T, model.parameters["b2"].detach().numpy()[None]])
    squares = np.diag(rows.T @ rows)[:-1]
    damping = RIDGE * squares[squares > 0].mean() * np.diag([1.0] * 72 + [0])  # of the columns that are there
    expected = np.linalg.solve(rows.T @ rows + damping, rows.T @ wanted + damping @ w0)
    np.testing.assert_allclose(found["w2"].numpy().reshape(8, 72).T, expected[:-1], atol=1e-4)
    np.testing.assert_allclose(found["b2"].numpy(), expected[-1], atol=1e-4)
    assert not found["w2"][:, [2, 5]].any()


@pytest.mark.parametrize("compensation", ["none", "symmetric"])
def test_a_search_tries_networks_as_they_will_be_repaired(compensation: str) -> None:
    """What a trial says is what ONNX Runtime makes of the network that comes out."""
    options = Options(PRESETS["unit"], samples=40, search="bisect", compensation=compensation)
    timed = Timed(silent)
    examined = examine(SAMPLES / "digits_residual.onnx", str(SAMPLES / "digits_calibration.npz"), options, timed)
    prepared = prepare(examined, timed)
    pruned = cut(prepared, examined.limits([Target("macs", 0.5, True)]), timed)
    assert prepared.trials is not None
    tried = prepared.trials({group: now for group, (_, now) in pruned.widths.items()})
    x = next(iter(examined.data.source.batch(searched_images(examined.analysis, examined.data)).values()))
    assert tried == pytest.approx(apart(*(run(each, x)[0] for each in (examined.original, pruned.model))), rel=1e-3)


def test_the_last_choice_is_made_on_other_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[set[int], set[int]]] = []

    def record(*arguments: object, fit: np.ndarray, **_: object) -> None:
        judged = arguments[6]
        assert isinstance(judged, np.ndarray)
        given.append((set(judged.tolist()), set(fit.tolist())))

    monkeypatch.setattr("compress.prepare.Trials", record)
    for search in ("evolve", "bisect"):
        options = Options(PRESETS["unit"], samples=60, search=search)
        model, data = SAMPLES / "digits_residual.onnx", str(SAMPLES / "digits_calibration.npz")
        prepare(examine(model, data, options, Timed(silent)), Timed(silent))
    *both, _ = given  # the last is bisect's, which has no last choice
    (judged, fit), (judged_again, fit_again) = sorted(both, key=lambda pair: len(pair[0]))
    assert not (judged | fit) & (judged_again | fit_again)
    assert not judged & fit
    assert not judged_again & fit_again
    assert len(judged_again) >= 2 * len(judged)


def test_the_bar_of_a_search_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a last choice (60 samples leave some for it) and without."""
    monkeypatch.setattr("compress.cut.effort_of", lambda options: Effort(candidates=16))
    bars: dict[str, list[int]] = {}

    @contextmanager
    def recording(title: str, total: int) -> Iterator[Callable[..., None]]:
        bars[title] = [total, 0]

        def advance(units: int = 1) -> None:
            bars[title][1] += units

        yield advance

    for samples in (8, 60):
        options = Options(PRESETS["unit"], samples=samples, search="evolve")
        timed = Timed(recording)
        examined = examine(SAMPLES / "digits_residual.onnx", str(SAMPLES / "digits_calibration.npz"), options, timed)
        choose(prepare(examined, timed), examined.limits([Target("macs", 0.5, True)]), timed)
        total, done = bars["search"]
        assert done == total >= 16
