"""What the report says and how: figures, escaping, JSON that holds anything measured."""

import json
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compress.bench import Environment, Latency
from compress.drop import Candidate, Drop
from compress.errors import OptionError
from compress.measurement import Measurement
from compress.refine import Refinement
from compress.report import (
    Asked,
    Report,
    Width,
    percent,
    plain_values,
    print_notes,
    print_report,
    printable,
    quantity,
    report_json,
    with_version,
    write_json,
)
from compress.statistics import Ratio
from graph.channels import Frozen

BEFORE = Measurement(params=850_000, macs=125_500_000, file_bytes=3_400_000, agreement=1.0, top1=0.933)
AFTER = Measurement(params=400_000, macs=62_750_000, file_bytes=1_700_000, agreement=0.9, top1=0.914)
REPORT = Report(
    "model.onnx",
    "small.onnx",
    BEFORE,
    AFTER,
    targets=(Asked("macs", 62_750_000, 62_750_000, True), Asked("params", 300_000, 400_000, False)),
    widths=(Width("conv1", 16, 8), Width("conv2", 32, 32)),
    frozen=(Frozen("a", "LSTM", "no rule"), Frozen("b", "LSTM", "no rule")),
    measured_on="agreement and top-1 measured on 128 samples",
    notes=("Images were generated.", "two\nlines \x1b[31m"),
)


def timed(ratio: Ratio) -> Latency:
    machine = Environment(**dict.fromkeys((field.name for field in fields(Environment)), ""))  # type: ignore[arg-type]
    return Latency("m", *[8.0 * ratio.value] * 5, 100.0, 20, 1, 0.01, ratio, machine)


def text(report: Report) -> str:
    screen = Console(file=StringIO(), width=100, highlight=False, markup=False)
    print_report(report, screen)
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue()


def test_the_table_says_what_was_measured_and_nothing_else() -> None:
    lines = {line.split("  ")[0].strip(): " ".join(line.split()) for line in text(REPORT).splitlines()}
    assert lines["MACs"] == "MACs 126 M 62.8 M × 0.500"
    assert lines["top-1"] == "top-1 93.3 % 91.4 % -1.9 points"
    assert not any(title.startswith("latency") for title in lines)


def test_a_metric_has_a_scale_of_its_own() -> None:
    report = replace(REPORT, before=replace(BEFORE, metric=-0.5), after=replace(AFTER, metric=-0.75))
    assert "metric -0.5 -0.75 -0.25" in " ".join(text(report).split())


def test_what_else_was_done_is_said() -> None:
    tried = (Candidate(0.5, 0.02, False), Candidate(0.75, 0.005, True))
    report = replace(
        REPORT,
        used_for="of 128 samples 64 served",
        drop=Drop(0.01, "top-1", 200, tried),
        refinement=Refinement(100, 60, 40, 0.2, 0.1),
        closed_form=Measurement(top1=0.9, agreement=0.85),
    )
    shown = " ".join(text(report).split())
    assert "of 128 samples 64 served" in shown
    assert "judged by top-1 on 200 samples, one of which is 0.0050" in shown
    assert "1 50.0 % 0.0200 failed 2 75.0 % 0.0050 passed" in shown
    assert "refined: 60 steps, of which the state after 40 was kept; outputs 0.2 apart before, 0.1 after" in shown
    assert "before it: top-1 90.0 %, agreement with the original 85.0 %" in shown
    plain = json.loads(json.dumps(report_json(report)))
    assert plain["drop"]["candidates"][1] == {"macs": 0.75, "drop": 0.005, "passed": True}
    assert plain["refinement"]["best"] == 40 and plain["closed_form"]["top1"] == 0.9


@pytest.mark.parametrize(("ratio", "red"), [(Ratio(1.2, 1.1, 1.3), True), (Ratio(1.02, 0.9, 1.1), False)])
def test_a_model_that_is_slower_for_certain_is_red(ratio: Ratio, red: bool) -> None:
    screen = Console(file=StringIO(), width=100, force_terminal=True, color_system="standard", markup=False)
    slow = replace(AFTER, latency_ms=timed(ratio))
    print_report(
        replace(REPORT, before=replace(BEFORE, latency_ms=timed(Ratio(1, 1, 1))), after=slow, targets=()), screen
    )
    assert isinstance(screen.file, StringIO)
    (line,) = (line for line in screen.file.getvalue().splitlines() if "in turn" in line)
    assert f"× {ratio.value:.3f}" in line and ("\x1b[1;31m" in line) is red


def test_targets_widths_and_frozen_are_said() -> None:
    shown = text(REPORT)
    assert "reached" in shown and "MISSED" in shown
    assert "conv1" in shown and "conv2" not in shown  # conv2 kept every channel
    assert "2 × LSTM (no rule)" in shown
    assert "measured on 128 samples" in shown and "generated" not in shown


def test_notes_go_to_stderr_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_notes(REPORT.notes)
    assert capsys.readouterr() == ("", "note: Images were generated.\nnote: two\\nlines \\x1b[31m\n")


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\n\u202ec") == "a\\x1b[31mb\\n\\u202ec"
    shown = text(Report("m\x1b]0;x\x07.onnx", None, BEFORE, AFTER, widths=(Width("[red]\x1bc", 4, 2),)))
    assert "\x1b" not in shown and "\x07" not in shown and "[red]" in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (176_092, "176 k"),
        (999_600, "1000 k"),
        (4.1e9, "4.1 G"),
        (2e12, "2000 G"),
    ],
)
def test_quantity(value: float, expected: str) -> None:
    assert quantity(value) == expected


def test_percent() -> None:
    assert percent(0.9326) == "93.3 %"


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(report_json(REPORT), allow_nan=False))
    assert found["schema_version"] == 2
    assert found["before"]["macs"] == 125_500_000 and found["before"]["latency_ms"] is None
    assert found["widths"][0] == {"group": "conv1", "before": 16, "after": 8}
    assert found["targets"][1]["met"] is False


def test_plain_values() -> None:
    @dataclass(frozen=True)
    class Inner:
        path: Path
        array: np.ndarray

    value = {"a": Inner(Path("x"), np.arange(2)), "b": (np.float32(0.5), np.bool_(True)), "c": float("inf"), "d": None}
    expected = {"a": {"path": "x", "array": [0, 1]}, "b": [0.5, True], "c": "inf", "d": None}
    assert plain_values(value) == expected
    with pytest.raises(TypeError, match="no JSON for a set"):
        plain_values({"x": {1}})
    with pytest.raises(TypeError, match="not of list"):
        with_version([1])


def test_write_json_replaces_or_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("old")
    write_json({"a": "é"}, file)
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(OptionError, match="cannot be written"):
        write_json({}, tmp_path / "no" / "r.json")
    with pytest.raises(ValueError):
        write_json({"a": float("nan")}, file)
    assert list(tmp_path.iterdir()) == [file] and json.loads(file.read_text(encoding="utf-8")) == {"a": "é"}
