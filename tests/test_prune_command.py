"""`compress prune` on bad input: one line, the right exit code, and nothing left behind; and on good input."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image
from small_graphs import build

from compress import cut, data, figures, prepare, ranking, refit
from compress.cli import INTERRUPTED, main
from graph import model as model_file
from graph.errors import LawError

SAMPLES = Path(__file__).parents[1] / "sample_models"
MOBILE = SAMPLES / "digits_mobile.onnx"
CALIBRATION = SAMPLES / "digits_calibration.npz"
DATA = ["--data", str(CALIBRATION), "--preprocess", "unit", "--samples", "16"]
HALF = ["--target-flops", "0.5"]

Refused = Callable[[int, Sequence[str]], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the model in it, in which the command is run."""
    made = tmp_path / "work"
    made.mkdir()
    (made / "model.onnx").write_bytes(MOBILE.read_bytes())
    return made


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    made = tmp_path / "tmp"
    made.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(made))
    return made


@pytest.fixture
def refused(
    folder: Path, scratch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run a command line that must end with this code, one line on stderr, and everything as it was."""

    def run(code: int, arguments: Sequence[str]) -> str:
        monkeypatch.chdir(folder)
        before = contents(folder)
        assert main(["prune", *arguments]) == code
        out, err = capsys.readouterr()
        assert out == ("FAILED: 1 of 1 missed: target\n" if code == 1 else "")
        if code == INTERRUPTED:
            err = err.removeprefix("\n")  # click ends the line on which the terminal shows ^C
        assert err.startswith("compress: ") and err.count("\n") == 1 and err.endswith("\n")
        assert contents(folder) == before
        assert list(scratch.iterdir()) == []
        return err

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.onnx", b"this is no model\n"),
        ("empty.onnx", b""),
        ("truncated.onnx", MOBILE.read_bytes()[:200_000]),
        ("start.onnx", MOBILE.read_bytes()[:100]),
        ("zeros.onnx", bytes(1000)),
    ],
)
def test_a_file_that_is_no_model(name: str, content: bytes, folder: Path, refused: Refused) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(3, [name, *HALF, *DATA])


def test_a_folder_and_a_file_that_is_not_there(folder: Path, refused: Refused) -> None:
    (folder / "sub").mkdir()
    assert "sub is a directory" in refused(3, ["sub", *HALF, *DATA])
    assert "missing.onnx does not exist" in refused(3, ["missing.onnx", *HALF, *DATA])


def test_a_model_without_removable_channels(folder: Path, refused: Refused) -> None:
    text = "(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w> { y = Conv (x, w) }"
    ir.save(build(text), folder / "one.onnx")
    assert "no channels that could be removed" in refused(3, ["one.onnx", *HALF])


def test_an_operator_that_nothing_can_run(folder: Path, refused: Refused) -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w>
        { a = Conv (x, w) y = com.microsoft.NoSuchOperator (a) }"""
    ir.save(build(text), folder / "odd.onnx")
    assert "NoSuchOperator" in refused(3, ["odd.onnx", *HALF])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a target"),
        (["--target-size", "0"], "--target-size '0' leaves nothing"),
        (["--target-size", "4XB"], "nor a figure such as 4MB"),
        (["--max-drop", "1"], "--max-drop"),
        (["--max-drop", "0.1", "--checkpoint", "c.json"], "a checkpoint is of one search"),
        (["--target-flops", "0.5", "--metric", "nonsense"], "give module:function"),
        (["--target-flops", "0.5", "--metric", "no_such_module:f"], "metric no_such_module:f: ModuleNotFoundError"),
        (["--target-flops", "0.5", "--criterion", "magic"], "--criterion"),
        (["--target-flops", "0"], "'0' leaves nothing"),
        (["--target-flops", "-0.5"], "'-0.5' is not a share"),
        (["--target-flops", "1.5"], "'1.5' is above 1"),
        (["--target-flops", "abc"], "'abc' is not a share"),
        (["--target-flops", "150%"], "'150%' is more than the whole"),
        (["--target-params", "0"], "--target-params '0' leaves nothing"),
        (["--target-flops", "0.5", "--max-width-ratio", "conv"], "PATTERN=SHARE"),
        (["--target-flops", "0.5", "--max-width-ratio", "conv=2"], "PATTERN=SHARE"),
        (["--target-flops", "0.5", "--round-to", "0"], "--round-to"),
        (["--target-flops", "0.5", "--search", "magic"], "--search"),
        (["--target-flops", "0.5", "--preprocess", "magic"], "'magic' is not known"),
        (["--target-flops", "0.5", "--seed", "-1"], "--seed"),
        (["--target-flops", "0.5", "--json", "no/such.json"], "no is no folder"),
    ],
)
def test_options_that_make_no_sense(arguments: Sequence[str], words: str, refused: Refused) -> None:
    assert words in refused(2, ["model.onnx", *arguments])


def test_a_target_out_of_reach_says_what_could_be_reached(refused: Refused) -> None:
    words = refused(1, ["model.onnx", "--target-flops", "0.0001", *DATA])
    assert "out of reach" in words and "the least that the permitted widths reach is 0.0" in words
    refused(1, ["model.onnx", "--target-params", "10M", "--exclude", "*", "--target-params", "1K", *DATA])


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(12, 1, 16, 16)).astype(np.float32)


def with_nan() -> np.ndarray:
    spoiled = images()
    spoiled[3, 0, 2, 2] = np.nan
    return spoiled


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5), np.float32), "N×1×16×16"),
        (np.zeros((4, 3, 16, 16), np.float32), "N×1×16×16"),
        (np.zeros((4, 1, 8, 8), np.float32), "N×1×16×16"),
        (np.zeros((0, 1, 16, 16), np.float32), "data.npy"),
        (np.array(["a", "b"]), "data.npy"),
        (with_nan(), "NaN"),
        (np.array([{}], dtype=object), "data.npy"),
    ],
    ids=["flat", "three channels", "too small", "none", "text", "NaN", "objects"],
)
def test_data_that_do_not_fit(array: np.ndarray, words: str, folder: Path, refused: Refused) -> None:
    np.save(folder / "data.npy", array)
    assert words in refused(2, ["model.onnx", *HALF, "--data", "data.npy"])


def test_data_that_are_no_data(folder: Path, refused: Refused) -> None:
    assert "nowhere" in refused(2, ["model.onnx", *HALF, "--data", "nowhere"])
    (folder / "pictures").mkdir()
    assert "pictures" in refused(2, ["model.onnx", *HALF, "--data", "pictures"])
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "pictures" / "a.png")
    (folder / "pictures" / "b.png").write_bytes(b"no picture")
    assert "b.png" in refused(2, ["model.onnx", *HALF, "--data", "pictures"])
    (folder / "text.npz").write_bytes(b"no archive")
    assert "text.npz" in refused(2, ["model.onnx", *HALF, "--data", "text.npz"])
    assert "0" in refused(2, ["model.onnx", *HALF, *DATA, "--samples", "0"])


def test_the_model_is_never_overwritten(folder: Path, refused: Refused) -> None:
    os.link(folder / "model.onnx", folder / "same.onnx")
    (folder / "link.onnx").symlink_to("model.onnx")
    for name in ("model.onnx", "./model.onnx", "same.onnx", "link.onnx"):
        assert "is the model itself" in refused(2, ["model.onnx", *HALF, "-o", name, "--force"])


def test_what_is_read_is_never_overwritten(folder: Path, refused: Refused) -> None:
    """By the model or by the report."""
    np.save(folder / "data.npy", images())
    data = ["--data", "data.npy"]
    assert "what the data are read from" in refused(2, ["model.onnx", *HALF, *data, "-o", "data.npy", "--force"])
    os.link(folder / "model.onnx", folder / "same.onnx")
    for name in ("model.onnx", "same.onnx", "./data.npy"):
        assert "would replace" in refused(2, ["model.onnx", *HALF, *data, "--json", name])
    assert "would replace small.onnx" in refused(
        2, ["model.onnx", *HALF, *data, "-o", "small.onnx", "--json", "./small.onnx"]
    )


def test_an_output_that_cannot_be_written(folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "old.onnx").write_bytes(b"old")
    assert "--force" in refused(2, ["model.onnx", *HALF, *DATA, "-o", "old.onnx"])
    (folder / "model-pruned.onnx").write_bytes(b"old")
    assert "model-pruned.onnx exists" in refused(2, ["model.onnx", *HALF, *DATA])
    (folder / "sub").mkdir()
    assert "is a folder" in refused(2, ["model.onnx", *HALF, "-o", "sub", "--force"])
    assert "is not a folder" in refused(2, ["model.onnx", *HALF, "-o", "no/such.onnx"])
    assert "is not a folder" in refused(2, ["model.onnx", *HALF, "-o", "old.onnx/such.onnx"])
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("sub"))
    assert "cannot be written to" in refused(2, ["model.onnx", *HALF, "-o", "sub/small.onnx"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency hardly at all."""
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("module", "stage"),
    [
        (data, "open_source"),
        (prepare, "analyse"),
        (ranking, "collect"),
        (ranking, "order_channels"),
        (cut, "shrink"),
        (refit, "compensate"),
        (cut, "count"),
    ],
)
def test_ctrl_c_in_any_stage(module: ModuleType, stage: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, stage, interrupted)
    assert "nothing was left half-written" in refused(INTERRUPTED, ["model.onnx", *HALF, *DATA])


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("force", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ctrl_c_while_the_result_is_written(
    force: bool, folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_written(model: ir.Model, path: Path, **_: object) -> None:
        if "small.onnx" in str(path):
            Path(path).write_bytes(b"half of a model")
            raise KeyboardInterrupt
        onnx.save(ir.to_proto(model), path)

    if force:
        (folder / "small.onnx").write_bytes(b"old")
    monkeypatch.setattr(model_file.ir, "save", half_written)
    refused(INTERRUPTED, ["model.onnx", *HALF, *DATA, "-o", "small.onnx", *(["--force"] if force else [])])


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_full_disk_at_the_end(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: ir.Model, path: Path, **_: object) -> None:
        if "small.onnx" in str(path):
            Path(path).write_bytes(b"half of a model")
            raise OSError(28, "No space left on device")
        onnx.save(ir.to_proto(model), path)

    monkeypatch.setattr(model_file.ir, "save", full)
    assert "No space left on device" in refused(2, ["model.onnx", *HALF, *DATA, "-o", "small.onnx"])


def test_a_broken_law_stops_everything(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LawError("output scores of the shrunk model differs")

    monkeypatch.setattr(cut, "check_law", broken)
    assert "output scores of the shrunk model differs" in refused(4, ["model.onnx", *HALF, *DATA])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as a signal")
def test_a_real_ctrl_c(folder: Path, scratch: Path) -> None:
    """The signal comes while the compensation has its values on disk."""
    script = f"""
        import signal, sys, time
        from compress import compensate
        from compress.cli import main

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
        compensate._MEMORY = 0

        def wait(*arguments):
            print("ready", flush=True)
            time.sleep(60)

        compensate._apply = wait
        sys.exit(main(["prune", "model.onnx", *{HALF + DATA!r}]))
    """
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(SAMPLES.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert any(scratch.rglob("*.npy"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert out == "" and err == "\ncompress: stopped; nothing was left half-written\n"
    assert contents(folder) == before
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_main_job(
    folder: Path, scratch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["prune", "model.onnx", *HALF, *DATA, "--json", "report.json"]) == 0
    out, err = capsys.readouterr()
    assert "note: 16 samples are few: a few hundred make a better model\n" in err
    assert all(line.startswith("note: ") for line in err.splitlines())
    assert "model-pruned.onnx" in out and "kept apart from fit and search" in " ".join(out.split())
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model-pruned.onnx", "report.json"}
    assert (folder / "model.onnx").read_bytes() == MOBILE.read_bytes()
    assert list(scratch.iterdir()) == []
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert found["schema_version"] == 2 and found["output"] == "model-pruned.onnx"
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert found["after"]["file_bytes"] == (folder / "model-pruned.onnx").stat().st_size
    assert found["targets"][0]["met"] and found["seed"] == 0
    assert sum(found["samples"].values()) == 16 and found["samples"].keys() == {"fit", "search", "report"}


@pytest.mark.usefixtures("quick")
def test_force_replaces_the_old_output_and_one_image_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "small.onnx").write_bytes(b"old")
    np.save(folder / "one.npy", images()[:1])
    arguments = ["model.onnx", "--target-params", "0.6", "--data", "one.npy", "-o", "small.onnx", "--force"]
    assert main(["prune", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "note: with 1 sample nothing could be kept apart" in err and "note" not in out
    onnx.checker.check_model(folder / "small.onnx", full_check=True)
