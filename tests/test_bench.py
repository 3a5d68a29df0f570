"""The statistics on synthetic times, the shapes that inputs get, and that a bench runs; no time is asserted."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from compress.bench import bench, cpu_model, input_shape, instabilities
from compress.errors import OptionError
from compress.statistics import ratio_of_medians, settled, variation
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


def test_a_known_ratio_is_inside_its_interval() -> None:
    generator = np.random.default_rng(0)
    machine = generator.gamma(2, 1, 400) + 10  # what both models suffer from in a round
    reference = machine * generator.normal(1, 0.01, 400)
    times = 0.8 * machine * generator.normal(1, 0.01, 400)
    ratio = ratio_of_medians(times, reference, seed=1)
    assert ratio.low < 0.8 < ratio.high
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.high - ratio.low < 0.05


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    inside = 0
    for trial in range(100):
        reference, times = generator.normal(10, 1, (2, 60))
        ratio = ratio_of_medians(times, reference, seed=trial, resamples=200)
        inside += ratio.low <= 1 <= ratio.high
    assert 85 <= inside <= 100


def test_a_model_is_exactly_as_fast_as_itself_and_halving_halves() -> None:
    times = np.random.default_rng(2).random(31) + 1
    same, half = ratio_of_medians(times, times, seed=0), ratio_of_medians(times / 2, times, seed=0)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)


def test_pairing_cancels_what_both_suffer_from() -> None:
    generator = np.random.default_rng(3)
    machine = np.exp(generator.normal(0, 0.5, 200))
    times = machine * generator.normal(1, 0.001, 200)
    paired = ratio_of_medians(times, machine, seed=0)
    unpaired = ratio_of_medians(generator.permutation(times), machine, seed=0)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_variation_is_deviation_over_mean() -> None:
    assert variation(np.array([3.0, 3.0])) == 0
    assert variation(np.array([1.0, 3.0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("times", "expected", "reason"),
    [
        ([1.0] * 9, False, "fewer than ten runs are never enough"),
        ([1.0] * 10, True, "steady"),
        ([9.0, 5.0, 3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 1.0, 1.0], False, "still falling"),
        ([9.0] * 5 + [1.0] * 10, True, "fell, then steady"),
        ([1.0] * 7 + [50.0] + [1.0] * 2, True, "one outlier is no trend"),
    ],
)
def test_settled(times: list[float], expected: bool, reason: str) -> None:
    assert settled(times) is expected, reason


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
    assert first.ratio.value == 1
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


def test_the_processor_has_a_name() -> None:
    assert cpu_model()
