"""Training as a whole: it learns, gets narrower in time, goes on where it was stopped, and writes what it trained."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_graphs import build
from training_nets import RESIDUAL

import compress
from compress.cli import main
from compress.errors import OptionError
from compress.training import api
from compress.training.api import Trained, train
from compress.training.course import Epoch, Removal
from compress.training.settings import Training
from graph.errors import LawError
from graph.model import save, serialised

CLASSES, SAMPLES = 3, 160


def pictures(count: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise, over which each class has a patch of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    x = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    for sample, label in enumerate(labels):
        x[sample, label, 2:6, 2:6] += 1.5
    return {"x": x, "labels": labels}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save(build(RESIDUAL), path)
    return path


def trained(model: Path, target: Any = 0.5, *, epochs: int = 6, data: Any = None, **how: Any) -> Trained:
    """Train for a few short epochs, without timing."""
    options = compress.Options(**how.pop("options", {}))
    notice = how.pop("notice", lambda event: None)
    training = Training(epochs=epochs, batch=32, rate=how.pop("rate", 0.05), **how)
    given, val = pictures() if data is None else data, pictures(48, seed=1)
    if "labels" not in given:
        del val["labels"]
    result = train(model, target, given, val, options, training, latency=False, notice=notice)
    assert result is not None
    return result


def test_it_learns_and_is_narrow_before_the_last_third(model: Path) -> None:
    result = trained(model, epochs=9, interval=2)
    course = result.course
    assert course is not None
    assert [removal.before for removal in course.removals] == [3, 5, 7]
    macs = [course.macs, *(removal.macs for removal in course.removals)]
    assert macs == sorted(macs, reverse=True) and len(set(macs)) == 4
    assert course.epochs[-1].macs == result.report.after.macs
    assert 0.4 * course.macs < course.epochs[-1].macs <= 0.5 * course.macs
    assert result.report.targets[0].met
    assert course.last.top1 is not None and course.start.top1 is not None
    assert course.last.top1 >= max(0.9, course.start.top1 + 0.3)
    assert result.report.after.top1 == pytest.approx(course.last.top1)  # ONNX Runtime's against torch's


def test_without_a_target_nothing_goes(model: Path) -> None:
    result = trained(model, 1.0, epochs=2)
    assert result.course is not None and not result.course.removals
    assert all(mask.all() for mask in result.plan.keep.values())
    assert result.course.epochs[1].loss < result.course.epochs[0].loss


def test_the_same_seed_gives_the_same_bytes_and_an_interruption_changes_none(model: Path, tmp_path: Path) -> None:
    whole = trained(model, augment=("flip", "crop"))
    path = tmp_path / "state.safetensors"

    def stop(event: Epoch | Removal) -> None:
        if isinstance(event, Epoch) and event.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(model, augment=("flip", "crop"), checkpoint=path, notice=stop)
    again = trained(model, augment=("flip", "crop"), checkpoint=path, resume=True)
    assert serialised(again.model) == serialised(whole.model)
    assert again.course is not None and whole.course is not None
    assert again.course.removals[0].before == whole.course.removals[0].before < 4
    assert [epoch.held for epoch in again.course.epochs] == [epoch.held for epoch in whole.course.epochs]
    other = trained(model, augment=("flip", "crop"), options={"seed": 1})
    assert serialised(other.model) != serialised(whole.model)


def test_a_checkpoint_of_another_training_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    trained(model, epochs=1, checkpoint=path)
    with pytest.raises(OptionError, match=r"of another training: option weight_decay was 0.0005, now it is 0.01"):
        trained(model, epochs=1, checkpoint=path, resume=True, weight_decay=0.01)
    with pytest.raises(OptionError, match="of another training: samples was"):
        trained(model, epochs=1, checkpoint=path, resume=True, data=pictures(seed=5))


def test_what_there_is_to_learn_from(model: Path) -> None:
    unlabelled = {"x": pictures()["x"]}
    with pytest.raises(OptionError, match="nothing to learn from"):
        trained(model, data=unlabelled)
    course = trained(model, 1.0, data=unlabelled, epochs=3, distil=0.5, from_scratch=True).course
    assert course is not None and course.last.loss < 0.5 * course.start.loss
    assert course.last.top1 is None and course.last.agreement is not None

    def loss(outputs: Any, references: Any, labels: Any) -> Any:
        return ((outputs["y"] - references["y"]) ** 2).mean()

    assert trained(model, data=unlabelled, epochs=1, loss=loss).course is not None


def test_a_teacher_is_followed(model: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.onnx"
    trained(model, 1.0, epochs=2).save(teacher)
    unlabelled = {"x": pictures()["x"]}
    course = trained(model, 1.0, data=unlabelled, epochs=3, distil=1.0, teacher=teacher).course
    assert course is not None and course.last.loss < 0.5 * course.start.loss and course.start.loss > 0.1
    itself = trained(model, 1.0, data=unlabelled, epochs=1, distil=1.0).course
    assert itself is not None and itself.start.loss < 1e-6
    with pytest.raises(OptionError, match="teaches nothing: give --distil"):
        trained(model, teacher=teacher)
    other = tmp_path / "other.onnx"
    save(build("(float[N,3,8,8] x) => (float[N,3,8,8] z) { z = Relu(x) }"), other)
    with pytest.raises(OptionError, match="has the outputs z, the model has y"):
        trained(model, teacher=other, distil=1.0)


def test_steps_that_are_too_long_are_named(model: Path) -> None:
    with pytest.raises(OptionError, match=r"the loss is (nan|inf) in step .* give an --lr below 1e\+30"):
        trained(model, rate=1e30)


def test_from_scratch_forgets_the_weights(model: Path) -> None:
    kept, fresh = trained(model, 1.0, epochs=1), trained(model, 1.0, epochs=1, from_scratch=True)
    assert kept.course is not None and fresh.course is not None
    assert kept.course.start.loss != fresh.course.start.loss


def test_a_network_that_onnx_runtime_computes_otherwise_is_not_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: Any, **how: Any) -> Any:
        return [array * 1.01 for array in run(*given, **how)]

    run = api.run
    monkeypatch.setattr(api, "run", wrong)
    with pytest.raises(LawError, match="ONNX Runtime computes it otherwise"):
        trained(model, epochs=1)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    np.savez(tmp_path / "data.npz", **pictures())
    np.savez(tmp_path / "val.npz", **pictures(48, seed=1))
    data = ["--data", str(tmp_path / "data.npz"), "--val", str(tmp_path / "val.npz")]
    return ["train", str(tmp_path / "model.onnx"), *data, "--epochs", "3", "--batch-size", "32", "--lr", "0.05", *more]


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture, report = (tmp_path / name for name in ("small.onnx", "course.svg", "report.json"))
    more = ["-o", str(output), "--picture", str(picture), "--json", str(report), "--target-flops", "0.5"]
    assert main(arguments(tmp_path, *more)) == 0
    said = capsys.readouterr()
    assert said.err.count("epoch 1: loss") == 1 and "removal before epoch 2, top-1" in said.err
    assert "which were not trained on" in said.out or "that were not trained on" in said.out
    written = json.loads(report.read_text())
    assert [epoch["number"] for epoch in written["course"]["epochs"]] == [1, 2, 3]
    assert written["criterion"] == "relevance" and written["samples"] == {"train": SAMPLES, "report": 48}
    assert picture.read_text().startswith("<?xml")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        ["model.onnx", "data.npz", "val.npz", "small.onnx", "course.svg", "report.json"]
    )


def test_the_command_says_what_is_wrong(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model-trained.safetensors").touch()
    for more, message in (
        ([], "model-trained.safetensors exists: --resume goes on from it, --force begins anew"),
        (["--resume"], "is not a checkpoint of compress train"),
        (["--force", "--val", str(tmp_path / "data.npz")], "is what is trained on"),
        (["--force", "--mixed-precision"], "--mixed-precision is for --device cuda"),
        (["--force", "--picture", "course.jpg"], "must end in .png or .svg"),
        (["--force", "--json", str(tmp_path / "val.npz")], "would replace"),
    ):
        assert main(arguments(tmp_path, *more)) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_do_what_one_does(model: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        output = tmp_path / f"{count}.onnx"
        report = tmp_path / f"{count}.json"
        more = ["-o", str(output), "--json", str(report), "--target-flops", "0.6", "--augment", "flip"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [*launcher, "-m", "compress", *arguments(tmp_path, *more)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)
        found.append((json.loads(report.read_text()), onnx.load(output)))
    (one, first), (two, second) = found
    assert one["widths"] == two["widths"]
    losses = [[epoch["loss"] for epoch in each["course"]["epochs"]] for each in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    weights = zip(first.graph.initializer, second.graph.initializer, strict=True)
    for a, b in weights:
        x, y = onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b)
        np.testing.assert_allclose(x, y, atol=1e-2 * max(float(np.abs(x).max()), 1e-3))
