"""The sample models are what their README says they are."""

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

FOLDER = Path(__file__).parents[1] / "sample_models"
MODELS = ("digits_residual.onnx", "digits_mobile.onnx")
ROW = re.compile(r"^\| `(?P<file>[\w.]+)` \|(?P<facts>.*)\| `(?P<sha256>[0-9a-f]{64})` \|$", re.MULTILINE)


def rows() -> dict[str, re.Match[str]]:
    return {row["file"]: row for row in ROW.finditer((FOLDER / "README.md").read_text(encoding="utf-8"))}


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(FOLDER / name, allow_pickle=False) as data:
        return data["images"], data["labels"]


def test_readme_lists_every_file() -> None:
    assert set(rows()) == {path.name for path in FOLDER.iterdir() if path.suffix in (".onnx", ".npz")}


@pytest.mark.parametrize("file", [*MODELS, "digits_calibration.npz", "digits_test.npz"])
def test_sha256(file: str) -> None:
    assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == rows()[file]["sha256"]


@pytest.mark.parametrize("file", MODELS)
def test_accuracy(file: str) -> None:
    images, labels = arrays("digits_test.npz")
    session = ort.InferenceSession(FOLDER / file, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"input": images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)})
    stated = re.search(r"([\d.]+) %", rows()[file]["facts"])
    assert stated is not None
    assert f"{100 * (scores.argmax(1) == labels).mean():.1f}" == stated[1]


@pytest.mark.parametrize("file", MODELS)
def test_form(file: str) -> None:
    path = FOLDER / file
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size < 1_000_000
    assert 100_000 < sum(np.prod(tensor.dims) for tensor in model.graph.initializer) < 200_000
    (given,), (scores,) = model.graph.input, model.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert (given.name, sizes) == ("input", ["N", 1, 16, 16])
    assert [dim.dim_param or dim.dim_value for dim in scores.type.tensor_type.shape.dim] == ["N", 10]
    normalised = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert normalised == (15 if "residual" in file else 0)


def test_calibration_and_test_images_are_disjoint() -> None:
    calibration, test = (arrays(f"digits_{part}.npz")[0] for part in ("calibration", "test"))
    assert calibration.dtype == test.dtype == np.uint8
    assert calibration.shape[1:] == test.shape[1:] == (16, 16, 1)
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in test}
