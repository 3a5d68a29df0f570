"""compress bench from the command line: options, exports, exit codes; no time is asserted."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compress.bench import bench
from compress.bench_export import COLUMNS, by_operator, comma_separated, markdown, profile_columns, profile_rows, rows
from compress.cli import main
from compress.commands import bench as bench_command
from compress.onboard import Kernel
from compress.statistics import Ratio

SAMPLES = Path(__file__).parents[1] / "sample_models"
MOBILE, RESIDUAL = (str(SAMPLES / f"digits_{name}.onnx") for name in ("mobile", "residual"))
SHORT = ["--duration", "0.05"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.startswith("compress: ") and err.count("\n") == 1
    return err


def test_all_exports_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_json, as_csv, as_markdown = (tmp_path / f"out.{ending}" for ending in ("json", "csv", "md"))
    exports = ["--json", as_json, "--export-csv", as_csv, "--export-markdown", as_markdown]
    assert main(["bench", MOBILE, RESIDUAL, *SHORT, "--batch", "2", "--profile", *map(str, exports)]) == 0
    screen = capsys.readouterr().out
    found = json.loads(as_json.read_text(encoding="utf-8"))
    assert found["schema_version"] == 2 and found["command"] == "bench"
    with as_csv.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    lines = as_markdown.read_text(encoding="utf-8").splitlines()
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 1] * 4
    for entry, record, line in zip(found["models"], records, lines[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert entry["model"] == record["model"] == cells[0]
        for name in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "samples_per_second", "variation"):
            assert float(record[name]) == entry[name]
        assert float(cells[1]) == pytest.approx(entry["p50_ms"], rel=1e-3)
        assert record["memory_bytes"] == ("" if entry["memory_bytes"] is None else str(entry["memory_bytes"]))
        assert [float(record[f"ratio{end}"]) for end in ("", "_low", "_high")] == list(entry["ratio"].values())
        assert record["unstable"] == str(entry["unstable"]) and ("unstable" in cells[8]) is entry["unstable"]
        assert sum(kind["nodes"] for kind in entry["operators"].values()) == len(entry["kernels"])
        spent = sum(kind["ms"] for kind in entry["operators"].values())
        assert spent == pytest.approx(sum(kernel["microseconds"] for kernel in entry["kernels"]) / 1e3)
        assert {"Conv", "Gemm"} <= set(entry["operators"]) and entry["environment"]["shapes"] == {
            "input": [2, 1, 16, 16]
        }
    assert "nodes 2" in screen and "Conv" in screen and "threads: 1" in screen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "abacus"], "provider 'abacus' is not in this ONNX Runtime"),
        (["--provider-option", "speed=9"], "takes no options: ONNX Runtime would ignore 'speed'"),
        (["--provider-option", "speed"], "give KEY=VALUE"),
        (["--provider-option", "=9"], "give KEY=VALUE"),
        (["--export-csv", MOBILE], f"--export-csv {MOBILE} would replace"),
        (["--export-markdown", "a", "--export-csv", "a"], "--export-csv a would replace a"),
        (["--export-csv", "no/such/file.csv"], "no/such"),
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: Sequence[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", MOBILE, *SHORT, *arguments]) == 2
    assert words in one_line(capsys) and list(tmp_path.iterdir()) == []


def test_what_is_slower_is_red() -> None:
    first, second = bench([Path(MOBILE), Path(MOBILE)], duration_s=0.01)
    slower = replace(second, ratio=Ratio(1.2, 1.01, 1.4))
    unsure = replace(second, ratio=Ratio(1.2, 0.99, 1.4))
    styles = [row.style for row in bench_command._table((first, slower, unsure)).rows]
    assert styles == [None, "red", None]


def test_a_name_steers_neither_terminal_nor_table() -> None:
    (latency,) = bench([Path(MOBILE)], duration_s=0.01)
    odd = replace(latency, model='a|b\\c\x1b[2J\n"d".onnx', memory_bytes=None)
    assert rows([odd])[0][0] == 'a|b\\c\\x1b[2J\\n"d".onnx'
    assert markdown([odd]).splitlines()[2].startswith('| a\\|b\\\\c\\\\x1b\\[2J\\\\n"d".onnx |')
    (record,) = csv.DictReader(comma_separated([odd]).splitlines(keepends=True))
    assert record["model"] == odd.model and record["memory_bytes"] == ""


def test_a_profile_by_hand() -> None:
    (latency,) = bench([Path(MOBILE)], duration_s=0.01)
    one = replace(latency, kernels=(kernel("Conv", 2000), kernel("Conv", 1000), kernel("Relu", 1000)))
    other = replace(latency, kernels=(kernel("Conv", 500), kernel("Add", 1500)))
    assert by_operator(one.kernels) == {"Conv": (2, 3.0), "Relu": (1, 1.0)}
    assert profile_columns([one]) == ("operator", "nodes", "ms", "share")
    assert profile_columns([one, other])[1:5] == ("nodes 1", "ms 1", "share 1", "nodes 2")
    assert profile_rows([one, other]) == [
        ["Conv", "2", "3", "75.0 %", "1", "0.5", "25.0 %"],
        ["Add", "", "", "", "1", "1.5", "75.0 %"],
        ["Relu", "1", "1", "25.0 %", "", "", ""],
    ]


def kernel(op_type: str, microseconds: float) -> Kernel:
    return Kernel("name", op_type, "CPUExecutionProvider", microseconds, (), ())
