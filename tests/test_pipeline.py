"""The main job from end to end, on the sample models and on small ones."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from small_graphs import build
from test_stored import behind

import compress
from calibrate.errors import DataError
from calibrate.preprocess import PRESETS
from compress import goal
from compress.api import Options, Result, prune
from compress.compensate import compensate
from compress.costs import weighted
from compress.errors import OptionError
from compress.repair import Repair
from compress.targets import Target, Unreachable
from graph.analysis import analyse
from graph.count import count
from graph.errors import ModelError
from graph.law import check_law
from graph.model import load, save
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

SAMPLES = Path(__file__).parents[1] / "sample_models"
CALIBRATION = str(SAMPLES / "digits_calibration.npz")
NAMES = ["residual", "mobile"]

Pruner = Callable[..., Result]


def path(name: str) -> Path:
    return SAMPLES / f"digits_{name}.onnx"


def job(name: str, target: Target | float | str = 0.5, data: object = CALIBRATION, **options: object) -> Result:
    chosen = {"preprocess": PRESETS["unit"], "samples": 48, **options}
    return prune(path(name), target, data, Options(**chosen), latency=False)  # type: ignore[arg-type]  # by keyword


@pytest.fixture(scope="module")
def halved() -> dict[str, Result]:
    return {name: job(name) for name in NAMES}


def macs(model: ir.Model | Path) -> int:
    model = load(model) if isinstance(model, Path) else model
    return count(model, trace(model)).macs


def scores(model: ir.Model, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(SAMPLES / "digits_test.npz", allow_pickle=False) as data:
        return data["images"].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255), data["labels"]


@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_met_by_the_file_that_is_written(name: str, halved: dict[str, Result], tmp_path: Path) -> None:
    result, file = halved[name], tmp_path / "small.onnx"
    result.save(file)
    onnx.checker.check_model(file, full_check=True)
    assert 0.45 < macs(file) / macs(path(name)) <= 0.5
    (asked,) = result.report.targets
    assert asked.met and asked.reached == macs(file) == result.report.after.macs
    assert file.stat().st_size < 0.7 * path(name).stat().st_size
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", NAMES)
def test_most_of_the_accuracy_is_left(name: str, halved: dict[str, Result]) -> None:
    images, labels = digits()
    assert (scores(halved[name].model, images).argmax(1) == labels).mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_the_law_holds_for_the_plan(name: str, halved: dict[str, Result]) -> None:
    analysis, plan = analyse(load(path(name))), halved[name].plan
    report = check_law(analysis.model, analysis.channels, plan, {"input": digits()[0][:4]})
    assert report.relative_difference < 1e-4
    assert halved[name].report.law is not None
    assert macs(shrink(analysis.model, analysis.channels, plan)) == halved[name].report.after.macs


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_the_same_seed_gives_the_same_bytes(name: str, halved: dict[str, Result]) -> None:
    again = job(name)
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(halved[name].model).SerializeToString()
    assert again.plan.to_json() == halved[name].plan.to_json()
    assert again.report.notes == halved[name].report.notes


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_weights_survives(name: str, halved: dict[str, Result]) -> None:
    before, after = onnx.load(path(name)), ir.to_proto(halved[name].model)
    assert after.graph.input == before.graph.input and after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import and after.ir_version == before.ir_version
    assert after.metadata_props == before.metadata_props and after.graph.name == before.graph.name
    kinds = [[(node.output[0], node.op_type) for node in proto.graph.node] for proto in (before, after)]
    folded = [kind for name, kind in kinds[0] if kind not in {"BatchNormalization", "Constant"}]
    known = {value for node in before.graph.node for value in node.output}
    stayed = [kind for name, kind in kinds[1] if name in known]  # others are what mends a computed size
    rest = iter(folded)
    assert all(kind in rest for kind in stayed)  # in their order
    assert stayed == folded or any(width.after == 0 for width in halved[name].report.widths)
    for batch in (1, 3):
        assert scores(halved[name].model, digits()[0][:batch]).shape == (batch, 10)


def test_only_what_was_declared_is_written(halved: dict[str, Result], tmp_path: Path) -> None:
    model = load(path("mobile"))
    for node in model.graph:
        for value in node.outputs[:1]:
            if not value.is_graph_output():
                value.shape = value.type = None
    bare = prune(model, 0.5, None, Options(samples=2), latency=False)
    for number, (result, before) in enumerate([(halved["mobile"], onnx.load(path("mobile"))), (bare, None)]):
        result.save(tmp_path / f"{number}.onnx")
        after = onnx.load(tmp_path / f"{number}.onnx")
        written = {value.name for value in after.graph.value_info if value.HasField("type")}
        assert written <= ({value.name for value in before.graph.value_info} if before else set())


def test_the_model_that_came_in_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(path("residual").read_bytes())
    model = load(file)
    before = ir.to_proto(model).SerializeToString()
    prune(model, 0.5, CALIBRATION, Options(samples=2), latency=False)
    assert ir.to_proto(model).SerializeToString() == before
    prune(file, 0.5, CALIBRATION, Options(samples=2), latency=False)
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(path("residual").read_bytes()).digest()
    assert list(tmp_path.iterdir()) == [file]


def test_compensation_is_what_keeps_the_accuracy(halved: dict[str, Result]) -> None:
    images, labels = digits()
    plain = job("residual", compensation="none")
    accuracy = [(scores(r.model, images).argmax(1) == labels).mean() for r in (plain, halved["residual"])]
    assert accuracy[1] > accuracy[0] + 0.02
    assert plain.report.repairs == () and len(halved["residual"].report.repairs) > 10


def test_the_start_of_a_refinement_was_not_fitted_to_what_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = []

    def record(*arguments: Any, hold_out: bool, **named: Any) -> list[Repair]:
        held_out.append(hold_out)
        return compensate(*arguments, hold_out=hold_out, **named)

    monkeypatch.setattr("compress.refit.compensate", record)
    for steps in (0, 1):
        job("mobile", samples=16, search="uniform", refine=steps)
    assert held_out == [False, True]


def test_parameters_are_a_target_too() -> None:
    result = job("mobile", Target("params", 0.5, True))
    assert 0.4 < result.report.after.params / result.report.before.params <= 0.5  # type: ignore[operator]  # measured
    assert result.report.targets[0].metric == "params" and result.report.targets[0].met


def several(*targets: tuple[str, float]) -> tuple[Target, ...]:
    return tuple(Target(metric, limit, limit <= 1) for metric, limit in targets)


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(several(("macs", 0.6), ("params", 0.3)), marks=pytest.mark.slow),
        pytest.param(several(("macs", 0.3), ("bytes", 0.6)), marks=pytest.mark.slow),
        several(("bytes", 60_000), ("params", 0.9), ("macs", 1.0)),
    ],
)
def test_several_targets_all_hold(targets: tuple[Target, ...]) -> None:
    report = job("mobile", targets, samples=16, search="uniform", compensation="none").report
    whole = {"macs": report.before.macs, "params": report.before.params, "bytes": report.before.file_bytes}
    reached = {"macs": report.after.macs, "params": report.after.params, "bytes": report.after.file_bytes}
    assert [asked.metric for asked in report.targets] == [target.metric for target in targets]
    for asked, target in zip(report.targets, targets, strict=True):
        assert asked.met and asked.reached == reached[asked.metric]
        assert asked.limit == target.budget(whole[asked.metric] or 0) >= asked.reached
    assert max(asked.reached / asked.limit for asked in report.targets) > 0.9  # one of them binds


@pytest.mark.parametrize(
    "kind", [pytest.param("float32", marks=pytest.mark.slow), "float16", pytest.param("int8", marks=pytest.mark.slow)]
)
def test_a_target_in_bytes_is_met_by_the_file(kind: str, tmp_path: Path) -> None:
    """Weights count as they are stored: behind a Cast, or a DequantizeLinear, they take fewer bytes than floats."""
    model = load(path("mobile")) if kind == "float32" else behind(load(path("mobile")), np.dtype(kind))
    save(model, tmp_path / "model.onnx")
    limit = 0.5 * (tmp_path / "model.onnx").stat().st_size
    options = Options(samples=8, search="uniform", compensation="none")
    result = prune(tmp_path / "model.onnx", Target("bytes", 0.5, True), CALIBRATION, options, latency=False)
    result.save(tmp_path / "small.onnx")
    written = (tmp_path / "small.onnx").stat().st_size
    assert written == result.report.targets[0].reached == result.report.after.file_bytes
    assert 0.9 * limit < written <= limit


def test_a_budget_is_tightened_where_costs_were_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are estimates, and the graph that comes out is what counts."""
    original = goal.macs_model
    monkeypatch.setattr(goal, "macs_model", lambda *arguments: weighted([(0.8, original(*arguments))]))
    (asked,) = job("mobile", 0.5, samples=8, search="uniform", compensation="none").report.targets
    assert asked.met and asked.reached > 0.8 * asked.limit


def test_each_target_out_of_reach_is_named() -> None:
    targets = several(("macs", 0.5), ("params", 0.0001), ("bytes", 500))
    with pytest.raises(Unreachable) as caught:
        job("mobile", targets, samples=8)
    params, size = str(caught.value).split("; ")
    assert "0.0001 of the original's params, is out of reach" in params
    assert "at most 500 bytes, is out of reach" in size


@pytest.mark.slow
def test_compensation_can_be_caps_own() -> None:
    """Fitted to the original's statistics it is better than the plain slices, and not as good as the asymmetric fit."""
    images, _ = digits()
    kinds = {
        kind: job("residual", 0.3, search="uniform", compensation=kind) for kind in ("none", "symmetric", "asymmetric")
    }
    original = scores(load(path("residual")), images)
    error = {kind: np.square(scores(result.model, images) - original).mean() for kind, result in kinds.items()}
    assert error["asymmetric"] < error["symmetric"] < error["none"]
    assert kinds["symmetric"].plan.to_json() == kinds["none"].plan.to_json()
    assert kinds["symmetric"].report.compensation == "symmetric"


@pytest.mark.parametrize("what", ["search", "criterion", "compensation"])
def test_a_name_that_no_table_has(what: str) -> None:
    options = replace(Options(), **{what: "magic"})
    with pytest.raises(OptionError, match="'magic' is not known: take one of "):
        prune(path("mobile"), 0.5, None, options)


def test_an_absolute_target() -> None:
    assert job("residual", "3M").report.after.macs <= 3_000_000  # type: ignore[operator]  # it is measured


def test_the_whole_network_stays_as_it_is() -> None:
    result, images = job("residual", 1.0), digits()[0][:32]
    assert all(mask.all() for mask in result.plan.keep.values())
    np.testing.assert_allclose(
        scores(result.model, images), scores(load(path("residual")), images), rtol=1e-3, atol=1e-3
    )


def test_uniform_widths_are_uniform() -> None:
    result = job("mobile", search="uniform")
    shares = {width.after / width.before for width in result.report.widths}
    assert max(shares) - min(shares) < 0.1
    assert result.report.after.macs <= 0.5 * result.report.before.macs  # type: ignore[operator]  # both measured


def test_limits_on_widths() -> None:
    names = [width.group for width in job("residual", 1.0, samples=8).report.widths]
    result = job("residual", 0.6, exclude=[names[0]], max_width_ratio={names[1]: 0.25}, round_to=4, samples=8)
    widths = {width.group: (width.before, width.after) for width in result.report.widths}
    assert widths[names[0]][0] == widths[names[0]][1]
    assert widths[names[1]][1] <= 0.25 * widths[names[1]][0]
    assert all(after % 4 == 0 for _, after in widths.values())


def test_batchnorm_can_be_kept() -> None:
    result = job("residual", keep_batchnorm=True)
    operators = [node.op_type for node in result.model.graph]
    assert operators.count("BatchNormalization") == 15
    images, labels = digits()
    assert (scores(result.model, images).argmax(1) == labels).mean() > 0.95


def test_without_data_samples_are_generated_and_that_is_said() -> None:
    report = job("mobile", data=None, samples=24, preprocess=None).report
    notes = " ".join(report.notes)
    assert "samples were generated; real ones (--data) do better" in notes
    assert "24 samples are few" in notes
    assert f"{report.samples['report']} generated samples kept apart from fit and search" in report.measured_on


@pytest.mark.parametrize("number", [1, 2, 4])
def test_few_images_work_and_are_said_to_be_few(number: int) -> None:
    report = job("residual", samples=number).report
    assert report.targets[0].met
    assert f"with {number} sample" in report.notes[0] and "give at least 8" in report.notes[0]
    assert report.samples == {"fit": number, "search": 0, "report": 0}


def test_the_least_that_can_be_reached_is_said() -> None:
    with pytest.raises(
        Unreachable, match=r"0\.0001 of the original's macs, is out of reach: the least .* is 0\.00\d of"
    ):
        job("residual", 0.0001)
    with pytest.raises(Unreachable, match=r"reach is 1\.000 of the original"):
        job("residual", 0.5, exclude=["*"])


SMALL = """(float[{n},3,8,8] x) => (float[{n},5] y) <float[16,3,3,3] w1, float[16] b1,
    float[16,16,3,3] w2, float[16] b2, float[16,5] w3> {{
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    [shrunken] s = Shrink <lambd = 0.1> (a)
    b = Conv (s, w2, b2)
    r = Relu (b)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = MatMul (f, w3)
}}"""


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_size_is_kept(batch: int) -> None:
    result = prune(build(SMALL.format(n=batch)), 0.5, samples(48), latency=False)
    assert scores(result.model, samples(batch)).shape == (batch, 5)
    assert result.report.targets[0].met
    assert all(size % batch == 0 for size in result.report.samples.values())


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataError, match="takes 4 samples at a time, 3 are there"):
        prune(build(SMALL.format(n=4)), 0.5, samples(3), latency=False)


def test_a_node_that_torch_cannot_run_is_run_by_onnx_runtime_and_named() -> None:
    result = prune(build(SMALL.format(n="N")), 0.5, samples(48), latency=False)
    assert any(note.startswith("Shrink shrunken runs in ONNX Runtime: ") for note in result.report.notes)
    assert result.report.targets[0].met


def test_a_group_whose_consumer_cannot_be_fitted_is_ranked_by_magnitude_and_named() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,16,16] y) <float[8,3,3,3] w1, float[8] b1, float[8,2,2,2] w2> {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1)
        r = Relu (a)
        y = ConvTranspose <group = 2, strides = [2,2]> (r, w2)
    }"""
    model = build(text)
    analysis = analyse(model)
    result = prune(model, 0.6, samples(32), latency=False)
    (note,) = [note for note in result.report.notes if "ranked by the size of their weights" in note]
    assert note.startswith(analysis.channels.groups[0].name) and result.report.targets[0].met


def test_a_model_without_removable_channels_says_what_is_in_the_way() -> None:
    model = build("(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w> { y = Conv (x, w) }")
    with pytest.raises(ModelError, match="no channels that could be removed"):
        prune(model, 0.5, samples(8), latency=False)


def test_dead_channels_go_first_and_for_nothing() -> None:
    """A layer whose outputs are always 0 has no statistics to speak of; nothing trips over it."""
    text = """(float[N,3,8,8] x) => (float[N,5] y) <float[8,3,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[8] b2,
        float[8,8,1,1] w3, float[8] b3, float[8,5] w4> {
        a = Conv (x, w1, b1) r = Relu (a)
        b = Conv (r, w2, b2) d = Relu (b)
        c = Conv (d, w3, b3) s = Add (c, r)
        p = GlobalAveragePool (s) f = Flatten (p) y = MatMul (f, w4) }"""
    model = build(text)
    bias = model.graph.initializers["b2"]
    bias.const_value = ir.tensor(np.full(8, -1e6, np.float32), name="b2")
    whole = count(model, trace(model)).macs
    one = whole - 7 * 36 * (8 + 8)  # the dead layer cut to one channel
    result = prune(model, str(one), samples(48), latency=False)
    widths = {width.group: width.after for width in result.report.widths}
    assert sorted(widths.values()) == [0, 8]  # to be gone is no worse, and not dearer
    np.testing.assert_allclose(scores(result.model, samples(4)), scores(model, samples(4)), rtol=1e-3, atol=1e-3)


def test_the_result_is_the_same_through_the_packages_door(halved: dict[str, Result]) -> None:
    assert compress.prune is prune and compress.Options is Options
    assert Plan.from_json(halved["mobile"].plan.to_json()).to_json() == halved["mobile"].plan.to_json()


@pytest.mark.parametrize("options", [Options(exclude=("nothing*",)), Options(max_width_ratio={"nothing*": 0.5})])
def test_a_pattern_that_fits_nothing_is_an_error(options: Options) -> None:
    path = Path(__file__).parents[1] / "sample_models" / "digits_mobile.onnx"
    with pytest.raises(OptionError, match="fits no layer"):
        prune(path, 0.5, None, options)
