"""The shapes that inputs get, and that a bench runs and says what it did; no time is asserted."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import pytest

from compress import onboard, timing
from compress.bench import bench, instabilities, left_alone
from compress.bench_inputs import input_shape
from compress.errors import OptionError
from compress.statistics import Ratio
from graph.errors import ModelError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N,3,H,W] x, int64[1] offset) => (float[N,3,H,W] y, int64[1] same) {
    y = Relu(x)
    same = Identity(offset)
}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


@pytest.mark.parametrize(
    ("declared", "batch", "given", "expected"),
    [
        (["N", 3, "H", "W"], None, None, (1, 3, 224, 224)),
        (["N", 3, "H", "W"], 4, None, (4, 3, 224, 224)),
        ([None, "H", "W", 3], None, None, (1, 224, 224, 3)),
        (["N", 1, 16, 16], None, None, (1, 1, 16, 16)),
        ([8, 10], None, None, (8, 10)),
        ([8, 10], 8, None, (8, 10)),
        ([], None, None, ()),
        (["N", "T"], 3, (2, 7), (2, 7)),
        (["N", "T", 8], 3, None, (3, 512, 8)),
    ],
)
def test_input_shape(
    declared: list[int | str | None], batch: int | None, given: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert input_shape("x", declared, batch, {} if given is None else {"x": given}) == expected


@pytest.mark.parametrize(
    ("declared", "batch", "given", "words"),
    [
        ([8, 10], 4, None, r"fixed shape 8×10; it cannot run batches of 4"),
        (["N", 3, 8, 8], None, (1, 4, 8, 8), r"N×3×8×8; it cannot be 1×4×8×8"),
        (["N", 3], None, (1, 3, 1), r"N×3; it cannot be 1×3×1"),
    ],
)
def test_input_shape_declines(
    declared: list[int | str | None], batch: int | None, given: tuple[int, ...] | None, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        input_shape("x", declared, batch, {} if given is None else {"x": given})


def test_bench_times_each_model_and_says_how(tiny: Path) -> None:
    first, second = bench([tiny, tiny], threads=1, duration_s=0.05, shapes={"x": (2, 3, 8, 8)})
    for latency in (first, second):
        assert 0 < latency.min_ms <= latency.p50_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.rounds >= 20 and latency.runs_per_round > 1
        assert latency.environment.shapes == {"x": (2, 3, 8, 8), "offset": (1,)}
        assert latency.environment.threads == 1
        assert latency.environment.provider == "CPUExecutionProvider"
    assert (first.ratio.value, first.ratio.low, first.ratio.high) == (1, 1, 1)
    assert second.samples_per_second == pytest.approx(2000 / second.mean_ms)
    assert second.memory_bytes is None and second.kernels == ()  # nobody asked
    assert second.ratio.low <= second.ratio.value <= second.ratio.high


def test_bench_refuses(tiny: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no model")
    for path in (wrong, tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(ModelError, match=path.name):
            bench([path])
    for bad in ({"threads": 0}, {"duration_s": 0}, {"batch": 0}, {"provider": "abacus"}, {"shapes": {"z": (1,)}}):
        with pytest.raises(OptionError):
            bench([tiny], **bad)
    with pytest.raises(OptionError, match="at least one"):
        bench([])


def test_a_model_that_fails_when_run_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "fails.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    fails (float[N] x, int64[2] shape) => (float[A,B] y) { y = Reshape(x, shape) }
    """
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(ModelError, match="cannot run"):
        bench([path], shapes={"x": (7,)})
    feeds = {"x": np.ones(6, np.float32), "shape": np.array([2, 3])}
    (latency,) = bench([path], feeds=feeds, duration_s=0.01)
    assert latency.environment.shapes == {"x": (6,), "shape": (2,)}


def test_a_number_without_a_shape_can_be_fed(tmp_path: Path) -> None:
    path = tmp_path / "scalar.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    scalar (float[N] x, float s) => (float[N] y) { y = Mul(x, s) }
    """
    onnx.save(onnx.parser.parse_model(text), path)
    (latency,) = bench([path], feeds={"s": np.array(2, np.float32)}, duration_s=0.01)
    assert latency.environment.shapes["s"] == ()


def test_an_unstable_latency_is_said_to_be(tiny: Path) -> None:
    (latency,) = bench([tiny], batch=1, shapes={"x": (1, 3, 4, 4)}, duration_s=0.01)
    steady, shaky = dataclasses.replace(latency, variation=0.02), dataclasses.replace(latency, variation=0.5)
    (said,) = instabilities([steady, shaky])
    assert "the rounds vary by 50.0 % (above 2.5 %)" in said and str(tiny) in said


def test_an_input_of_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    huge (float[1000000,1000000] x) => (float[1000000,1000000] y) { y = Relu(x) }
    """
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(ModelError, match="takes more than"):
        bench([path])


def test_a_provider_that_cannot_be_used_is_not_the_models_fault(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Unknown provider option: speed\nand more")

    monkeypatch.setattr(onboard, "available", lambda name: "AbacusExecutionProvider")
    monkeypatch.setattr(onboard.ort, "InferenceSession", refuse)
    with pytest.raises(OptionError, match=r"cannot use the provider abacus, speed=9: Unknown provider option: speed"):
        bench([tiny], provider="abacus", provider_options={"speed": "9"})


def test_the_memory_holds_the_weights(tiny: Path, tmp_path: Path) -> None:
    """The larger model takes at least its weights more than the one of nothing."""
    path, rows = tmp_path / "large.onnx", 3000
    weight = onnx.numpy_helper.from_array(np.ones((rows, 1000), np.float32), "w")
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    large (float[1,{rows}] x) => (float[1,1000] y) {{ y = MatMul(x, w) }}
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(weight)
    onnx.save(model, path)
    small, large = (
        bench([each], batch=1, shapes=shapes, duration_s=0.01, memory=True)[0].memory_bytes
        for each, shapes in ((tiny, {"x": (1, 3, 4, 4)}), (path, {}))
    )
    if small is None or large is None:
        pytest.skip("this system does not tell what a process holds")
    assert small > 0 and small + 4000 * rows < large < small + 20_000 * rows


def test_a_profile_names_what_onnx_runtime_runs(tiny: Path) -> None:
    (latency,) = bench([tiny], shapes={"x": (2, 3, 8, 8)}, duration_s=0.01, profile=True)
    (relu,) = (kernel for kernel in latency.kernels if kernel.op_type == "Relu")
    assert (relu.inputs, relu.outputs) == (((2, 3, 8, 8),), ((2, 3, 8, 8),))
    assert all(kernel.provider == "CPUExecutionProvider" for kernel in latency.kernels)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[onboard.Timed, ...]]:
    """The sessions of every time that rounds are taken; they are kept, so that none takes the place of another."""
    sessions: list[tuple[onboard.Timed, ...]] = []
    real = onboard.timed_rounds

    def noted(models: list[onboard.Timed], runs: list[int], duration_s: float) -> onboard.Rounds:
        sessions.append(tuple(models))
        return real(models, runs, duration_s)

    monkeypatch.setattr(onboard, "timed_rounds", noted)
    return sessions


@pytest.mark.parametrize(("longest_s", "times"), [(0.0, 1), (600.0, 3)])
def test_it_goes_on_until_the_ratios_are_precise(
    longest_s: float,
    times: int,
    tiny: Path,
    taken: list[tuple[onboard.Timed, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With time to go on: until the third ratio of the second model, which is precise."""
    ratios = iter([Ratio(1, 1, 1), Ratio(1, 0.9, 1.1)] * 2 + [Ratio(1, 1, 1), Ratio(1, 0.996, 1.004)])
    monkeypatch.setattr(timing, "median_ratio", lambda *_, **__: next(ratios))
    monkeypatch.setattr(timing, "SITTINGS", (1, 1))
    latency = bench([tiny, tiny], shapes={"x": (1, 3, 4, 4)}, duration_s=0.01, longest_s=longest_s)[1]
    assert len(set(taken)) == len(taken) == times  # opened anew each time
    assert latency.rounds >= times * onboard.LEAST_ROUNDS


@pytest.mark.parametrize(("opening", "models", "expected"), [(1e9, 2, 16), (0.0, 2, 4), (1e9, 1, 1)])
def test_models_that_are_compared_are_opened_anew(
    opening: float,
    models: int,
    expected: int,
    tiny: Path,
    taken: list[tuple[onboard.Timed, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The more often the less that takes."""
    monkeypatch.setattr(timing, "OPENING", opening)
    bench([tiny] * models, shapes={"x": (1, 3, 4, 4)}, duration_s=0.04)
    assert len(set(taken)) == len(taken) == expected


@pytest.mark.parametrize(
    ("providers", "found"),
    [
        (["AbacusExecutionProvider"] * 3, 0),
        (["AbacusExecutionProvider", "CPUExecutionProvider"], 1),
        (["CPUExecutionProvider"], None),
        ([], 0),  # constants alone
    ],
)
def test_what_another_provider_runs_is_counted(
    providers: list[str], found: int | None, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tuple(onboard.Kernel("n", "Relu", provider, 1.0, (), ()) for provider in providers)
    profiled = SimpleNamespace(kernels=lambda runs: kernels)
    monkeypatch.setattr(timing, "Timed", lambda *_, **__: profiled)
    settings = onboard.Settings(provider="AbacusExecutionProvider")
    if found is None:
        with pytest.raises(onboard.NoProvider, match="AbacusExecutionProvider runs no node of it"):
            timing.nodes_elsewhere(tiny, {}, settings)
    else:
        assert timing.nodes_elsewhere(tiny, {}, settings) == found


def test_nodes_left_alone_are_told(tiny: Path) -> None:
    (latency,) = bench([tiny], shapes={"x": (1, 3, 4, 4)}, duration_s=0.01)
    assert left_alone([latency]) == ()
    (said,) = left_alone([dataclasses.replace(latency, nodes_elsewhere=3)])
    assert "3 of its nodes are run by another provider than CPUExecutionProvider" in said
