"""What `compress.prune` measures and says, beyond the pipeline's own work."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from small_graphs import build

from compress import figures
from compress.api import Options, Result, prune
from compress.errors import OptionError
from graph.errors import ModelError

DIGITS = Path(__file__).parents[1] / "sample_models" / "digits_residual.onnx"
FREE = """(float[N,3,H,W] x) => (float[N,4,1,1] y) <float[8,3,3,3] v, float[4,8,1,1] w>
    { a = Conv <pads = [1,1,1,1]> (x, v) b = Relu (a) c = GlobalAveragePool (b) y = Conv (c, w) }"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency hardly at all."""
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.01)


def images(count: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, channels, 16, 16)).astype(np.float32)


def pruned(**options: object) -> Result:
    return prune(build(FREE), 0.6, images(), Options(**options))  # type: ignore[arg-type]  # by keyword


def test_latency_is_that_of_a_real_sample() -> None:
    for measured in (pruned().report.before, pruned().report.after):
        assert measured.latency_ms is not None
        assert dict(measured.latency_ms.environment.shapes) == {"x": (1, 3, 16, 16)}  # made up it would be 224 × 224


def test_the_result_is_not_lost_where_it_cannot_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(files: tuple[Path, ...], **_: object) -> None:
        raise ModelError(f"{files[0]}: ONNX Runtime cannot run it: no kernel")

    monkeypatch.setattr(figures, "bench", fail)
    report = pruned().report
    assert report.before.latency_ms is None and report.after.latency_ms is None
    assert report.notes[-1] == "latency was not measured: before.onnx: ONNX Runtime cannot run it: no kernel"


def test_bytes_before_are_those_of_the_file_that_was_given(tmp_path: Path) -> None:
    model = onnx.load(DIGITS)
    model.doc_string = "x" * 10_000
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    given = sum(path.stat().st_size for path in tmp_path.iterdir())
    report = prune(tmp_path / "m.onnx", 0.9, images(channels=1), latency=False).report
    assert report.before.file_bytes == given


@pytest.mark.parametrize(("count", "said"), [(48, "samples kept apart"), (1, "1 sample of the fit")])
def test_what_was_measured_on_which_samples(count: int, said: str) -> None:
    report = prune(build(FREE), 0.6, images(count), latency=False).report
    assert said in report.measured_on
    assert "relative error of an output" in report.measured_on and "top-1" not in report.measured_on


def test_top1_is_said_to_be_of_calibration_images() -> None:
    data = {"images": images(48, channels=1), "labels": np.zeros(48, np.int64)}
    report = prune(DIGITS, 0.9, data, latency=False).report
    assert report.after.top1 is not None
    assert f"agreement and top-1 measured on {report.samples['report']} samples" in report.measured_on
    assert "training images" in report.measured_on


def test_labels_that_are_no_classes_cost_the_top1_but_not_the_result() -> None:
    data = {"images": images(channels=1), "labels": np.full(16, 77)}
    report = prune(DIGITS, 0.9, data, latency=False).report
    assert report.after.top1 is None and report.after.agreement is not None
    assert report.notes[-1] == "top-1 was not measured: label 77 is not one of the 10 classes that the model scores"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(OptionError, match="finds no CUDA device"):
        pruned(device="cuda")


def test_data_far_from_what_the_model_expects_are_warned_of() -> None:
    """The first BatchNormalization is asked, though it is fused before anything is computed."""
    normal, far = (prune(DIGITS, 0.9, scale * images(channels=1), latency=False).report for scale in (0.4, 400))
    assert not any("far from" in note for note in normal.notes)
    assert any("far from what the model was trained on" in note for note in far.notes)


def test_a_model_in_memory_has_a_name() -> None:
    model = build(FREE)
    assert pruned().report.model == model.graph.name == "agraph"
    assert isinstance(pruned().model, ir.Model)
