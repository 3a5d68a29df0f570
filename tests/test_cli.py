"""The command line: exit codes, one-line errors, JSON. The commands run in this process, through `main`."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from compress import cli
from compress import options as command_line
from compress.cli import compress, main
from compress.criteria import CRITERIA
from compress.errors import OptionError
from compress.exit_codes import EXIT_CODES
from compress.options import DataOptions, HowOptions, data_options
from compress.searches import SEARCHES
from compress.settings import Options
from graph.errors import LawError, ModelError

SAMPLES = Path(__file__).parents[1] / "sample_models"
RESIDUAL, MOBILE = str(SAMPLES / "digits_residual.onnx"), str(SAMPLES / "digits_mobile.onnx")
TEST_DATA = ["--data", str(SAMPLES / "digits_test.npz"), "--preprocess", "unit"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what stands on stderr, which must be exactly one line, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("compress: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """Paths that are no models, by what they are."""
    whole = Path(RESIDUAL).read_bytes()
    contents = {"empty": b"", "text": b"this is no model\n", "truncated": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents} | {"folder": str(tmp_path), "missing": str(tmp_path / "m")}


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "folder", "missing"])
@pytest.mark.parametrize("command", ["bench", "compare"])
def test_what_is_no_model_ends_with_3(
    command: str, kind: str, broken: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, broken[kind], *([MOBILE] if command == "compare" else [])]) == 3
    assert broken[kind] in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command"),
        (["bench"], "Missing argument"),
        (["bench", MOBILE, "--threads", "0"], "--threads"),
        (["bench", MOBILE, "--duration", "0"], "--duration"),
        (["bench", MOBILE, "--provider", "abacus"], "abacus"),
        (["bench", MOBILE, "--shape", "input:1,x"], "--shape"),
        (["bench", MOBILE, "--shape", "input:1x3x16x16"], "N×1×16×16"),
        (["bench", MOBILE, "--shape", "other:1"], "no input 'other'"),
        (["inspect", MOBILE, "--shape", "input:1x3x16x16"], "input input has the shape ?×1×16×16"),
        (["prune", MOBILE, "--target-flops", "0.5", "--shape", "z:1"], "'z', which is no input"),
        (["compare", MOBILE, MOBILE, "--shape", "z:1"], "'z', which is no input"),
        (["compare", MOBILE, RESIDUAL, "--min-agreement", "2"], "--min-agreement"),
        (["compare", MOBILE, RESIDUAL, "--data", "nowhere"], "nowhere"),
        (["compare", MOBILE, RESIDUAL, "--json", RESIDUAL], "would replace"),
        (["compare", MOBILE, RESIDUAL, *TEST_DATA, "--json", TEST_DATA[1]], "would replace"),
        (["bench", MOBILE, RESIDUAL, "--json", RESIDUAL], "would replace"),
        (["inspect", MOBILE, "--json", MOBILE], "would replace"),
        (["compare", MOBILE, RESIDUAL, "--samples", "0", *TEST_DATA], "0"),
        (["compare", MOBILE, RESIDUAL, "--scores", "classes", *TEST_DATA], "no output 'classes'"),
        (["compare", MOBILE, RESIDUAL, "--max-drop", "0.1", "--samples", "8"], "--max-drop needs classes"),
        (["compare", MOBILE, RESIDUAL, "--samples", "8", *TEST_DATA, "--json", "no/such/file.json"], "no/such"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("compress: ") and err.count("\n") == 1


def test_compare_a_model_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    gates = ["--min-agreement", "1", "--max-drop", "0"]
    assert main(["compare", MOBILE, MOBILE, *TEST_DATA, *gates, "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "agreement on scores: 100.0 % of 500 samples" in out and err == ""
    assert out.endswith("\nPASSED: 2 of 2 met\n")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["schema_version"] == 2
    assert found["comparison"]["agreement"] == 1
    assert found["before"] == found["after"]
    assert [(gate["name"], gate["met"]) for gate in found["gates"]] == [("min-agreement", True), ("max-drop", True)]
    assert list(tmp_path.iterdir()) == [file]  # nothing temporary is left


def test_compare_two_models(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert main(["compare", RESIDUAL, MOBILE, *TEST_DATA, "--json", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["before"]["macs"] > found["after"]["macs"] > 0
    assert found["before"]["file_bytes"] == Path(RESIDUAL).stat().st_size
    assert found["before"]["top1"] == found["comparison"]["top1_original"] > 0.98
    assert 0.95 < found["comparison"]["agreement"] < 1


def test_gates_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled, file = tmp_path / "spoiled.onnx", tmp_path / "out.json"
    model = onnx.load(MOBILE)
    last = next(t for t in model.graph.initializer if t.name == "classifier.weight")
    last.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(last), last.name))
    onnx.save(model, spoiled)
    gates = ["--min-agreement", "0.9", "--max-drop", "0.05"]
    assert main(["compare", MOBILE, str(spoiled), *TEST_DATA, *gates, "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out.endswith("\nFAILED: 2 of 2 missed: min-agreement, max-drop\n")
    assert len(lines) == 2 and "agreement" in lines[0] and "top-1 fell" in lines[1]
    assert [gate["met"] for gate in json.loads(file.read_text(encoding="utf-8"))["gates"]] == [False, False]


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", MOBILE, RESIDUAL, "--duration", "0.1", "--batch", "2", "--json", str(file)]) == 0
    assert "threads: 1" in capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [entry["model"] for entry in found["models"]] == [MOBILE, RESIDUAL]
    for entry in found["models"]:
        assert entry["environment"]["shapes"] == {"input": [2, 1, 16, 16]}
        assert entry["ratio"]["low"] <= entry["ratio"]["value"] <= entry["ratio"]["high"]


@pytest.mark.parametrize(("error", "code"), EXIT_CODES)
def test_each_error_has_its_code_and_one_printable_line(
    error: type[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error("first\nsecond \x1b[31mred")

    monkeypatch.setitem(compress.commands, "fail", click.Command("fail", callback=fail))
    assert main(["fail"]) == code
    assert one_line(capsys) == "compress: first second \\x1b[31mred\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), FileNotFoundError(2, "No temporary folder")])
def test_what_the_system_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(compress.commands, "fail", click.Command("fail", callback=fail))
    assert main(["fail"]) == 2
    assert str(error.strerror) in one_line(capsys)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_a_result_that_has_no_room_is_an_error() -> None:
    script = "import sys; from compress.cli import main; sys.exit(main(['--help']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left on device" in done.stderr


def test_exit_codes_are_those_of_the_help() -> None:
    codes = dict(EXIT_CODES)
    assert codes[OptionError] == 2 and codes[ModelError] == 3 and codes[LawError] == 4


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(compress.commands, "wait", click.Command("wait", callback=interrupted))
    assert main(["wait"]) == cli.INTERRUPTED == 130
    out, err = capsys.readouterr()
    assert out == "" and err.strip() == "compress: stopped; nothing was left half-written"


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(compress.commands, "fail", click.Command("fail", callback=fail))
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"bench", "compare"} <= set(compress.commands)
    for name, command in compress.commands.items():
        assert main([name, "--help"]) == 0
        assert name in capsys.readouterr().out
        assert command.help


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'scipy', 'PIL', 'rich', 'onnxscript', 'onnx2torch'}"
    script = f"import sys; from compress.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_data_options_arrive_as_one_object() -> None:
    seen: list[DataOptions] = []

    @click.command()
    @data_options
    def probe(data: DataOptions) -> None:
        seen.append(data)

    typed = "--data d --samples 3 --labels l.csv --preprocess unit --mean 1,2,3 --std 4 --scale 1/2 --resize 8 --bgr"
    probe.main([*typed.split(), "--layout", "NHWC"], standalone_mode=False)
    probe.main([], standalone_mode=False)
    expected = DataOptions("d", 3, Path("l.csv"), "unit", "1,2,3", "4", "1/2", "8", "NHWC", True)
    assert seen == [expected, DataOptions()]


def test_generated_data_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", MOBILE, MOBILE, "--samples", "4"]) == 0
    out, err = capsys.readouterr()
    assert "4 generated samples" in out
    assert "note: no data were given: samples were generated; real ones (--data) do better\n" in err


def test_wrong_data_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.npz"
    np.savez(file, images=np.zeros((4, 5), np.float32))
    assert main(["compare", MOBILE, MOBILE, "--data", str(file)]) == 2
    assert "input" in one_line(capsys)


def test_the_choices_are_those_of_the_tables() -> None:
    """They are written out on the command line, whose --help must not import torch."""
    assert set(command_line.SEARCHES) == SEARCHES.keys()
    assert set(command_line.CRITERIA) == CRITERIA.keys()


def test_the_command_line_has_the_defaults_of_python() -> None:
    assert HowOptions().settings(DataOptions(), {}, 0) == Options(shapes={}, max_width_ratio={})
