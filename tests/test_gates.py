"""Gates: what holds and what does not, and how a pipeline is told."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import small_model, validated

from compress import bench as timing
from compress import figures, markdown
from compress.bench import Environment, Latency
from compress.cli import compress, main
from compress.commands import compare as compare_command
from compress.conclusion import SUMMARY, Conclusion, concluded, job_summary, junit_xml, verdicts_of
from compress.drop import Candidate, Drop
from compress.errors import OptionError
from compress.gates import GATES, Figures, Gate, Verdict, judge, read_gate
from compress.measure import OutputError
from compress.measurement import Measurement
from compress.report import Asked, Report
from compress.statistics import Ratio
from compress.targets import TargetError

SAMPLES = Path(__file__).parents[1] / "sample_models"
MOBILE, RESIDUAL = (str(SAMPLES / f"digits_{name}.onnx") for name in ("mobile", "residual"))
DATA = ["--data", str(SAMPLES / "digits_test.npz"), "--preprocess", "unit", "--samples", "20"]


def timed(ratio: Ratio) -> Latency:
    machine = Environment("1", "CPU", {}, 1, "cpu", (), "3", "linux", "all", "sequential", False, "wall", {})
    return Latency("m", *[8.0 * ratio.value] * 5, 100.0, 20, 1, 0.01, ratio, machine)


def figured(**after: object) -> Figures:
    """A model of half the size that agrees on 98 of 100, lost one point, and takes 0.8 of the time."""
    before = Measurement(100, 1000, 4_000_000, timed(Ratio(1, 1, 1)), 1.0, 0.93, None, 0.0)
    small = Measurement(50, 400, 2_000_000, timed(Ratio(0.8, 0.75, 0.85)), 0.98, 0.92, None, 0.03)
    outputs = (OutputError("a", 0.01), OutputError("b", 0.03))
    return Figures(before, replace(small, **after), outputs)  # type: ignore[arg-type]  # by keyword


@pytest.mark.parametrize(
    ("name", "text", "met", "said"),
    [
        ("min-agreement", "0.98", True, "agreement is 0.98, asked for at least 0.98"),
        ("min-agreement", "0.981", False, "agreement is 0.98, asked for at least 0.981"),
        ("max-drop", "0.01", True, "top-1 fell by 0.01 (from 0.93 to 0.92), asked for at most 0.01"),
        ("max-drop", "0.009", False, "top-1 fell by 0.01"),
        ("max-error", "0.03", True, "the largest relative error of an output is 0.03 (b)"),
        ("max-error", "0.029", False, "0.03 (b), asked for at most 0.029"),
        ("min-speedup", "1.25", True, "the speedup is 1.25 (1.176 to 1.333)"),
        ("min-speedup", "1.33", True, "asked for at least 1.33"),  # within the interval
        ("min-speedup", "1.34", False, "asked for at least 1.34"),
        ("max-size", "2MB", True, "the file has 2,000,000 bytes, asked for at most 2,000,000 bytes"),
        ("max-size", "1.9MB", False, "asked for at most 1,900,000 bytes"),
        ("max-size", "50%", True, "asked for at most 2,000,000 bytes (0.5 of the original's)"),
        ("max-size", "0.49", False, "asked for at most 1,960,000 bytes"),
        ("max-flops", "0.4", True, "the model has 400 macs, asked for at most 400 macs (0.4 of the original's)"),
        ("max-flops", "0.39", False, "asked for at most 390 macs"),
        ("max-flops", "399", False, "asked for at most 399 macs"),
    ],
)
def test_judging(name: str, text: str, met: bool, said: str) -> None:
    verdict = judge(read_gate(name, text), figured())
    assert (verdict.name, verdict.kind, verdict.met) == (name, "gate", met) and said in verdict.sentence


def test_every_gate_is_judged_above() -> None:
    cases = {case[0] for mark in test_judging.pytestmark for case in mark.args[1]}
    assert cases == GATES.keys()


def test_a_metric_comes_before_top_1() -> None:
    judged = figured(metric=2.5)
    verdict = judge(Gate("max-drop", 0.4), replace(judged, before=replace(judged.before, metric=3.0)))
    assert verdict.reached == 0.5 and not verdict.met and verdict.sentence.startswith("the metric fell by 0.5")


@pytest.mark.parametrize(
    ("name", "judged", "said"),
    [
        ("min-agreement", figured(agreement=None), "agreement is not known"),
        ("max-drop", figured(top1=None), "top-1 is not known"),
        ("min-speedup", figured(latency_ms=None), "latency was not measured"),
        (
            "max-error",
            replace(figured(), outputs=(OutputError("a", 0.0), OutputError("b", None, "NaN or infinite values"))),
            "output b cannot be compared (NaN or infinite values)",
        ),
        ("max-size", figured(file_bytes=None), "not known"),
        ("max-flops", figured(macs=None), "not known"),
    ],
)
def test_what_is_not_known_is_missed(name: str, judged: Figures, said: str) -> None:
    """However generous the limit is."""
    verdict = judge(Gate(name, 0.0 if GATES[name].least else 1e12), judged)
    assert not verdict.met and verdict.reached is None and said in verdict.sentence


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("text", ["", "nan", "-1", "inf", "1e999", "fast", "0x1"])
def test_limits_that_make_no_sense(name: str, text: str) -> None:
    with pytest.raises((OptionError, TargetError), match=f"--{name} "):
        read_gate(name, text)


def test_both_commands_have_the_gates() -> None:
    """The drop of prune is what it searches for, no gate."""
    options = {name: {each.opts[0] for each in compress.commands[name].params} for name in ("compare", "prune")}
    gates = {f"--{name}" for name in GATES} | {"--junit", "--markdown"}
    assert gates <= options["compare"] and gates <= options["prune"]


def concluding(*verdicts: Verdict, subject: str = "a → b") -> Conclusion:
    judged = figured()
    return Conclusion("compare", subject, verdicts, judged.before, judged.after)


MET = Verdict("max-size", "gate", 2.0, 1.0, True, "the file has 1 bytes")
MISSED = Verdict("min-agreement", "gate", 0.9, 0.8, False, "agreement is 0.8")
TARGET = Verdict("target-latency", "target", 8.0, 9.0, False, "9 ms")


def test_the_last_line() -> None:
    assert concluding().line == ""
    assert concluding(MET).line == "PASSED: 1 of 1 met"
    assert concluding(MET, MISSED, TARGET).line == "FAILED: 2 of 3 missed: min-agreement, target-latency"


def test_targets_and_the_drop_count_too() -> None:
    measured = figured()
    tried = (Candidate(0.5, 0.02, True), Candidate(0.4, 0.008, True), Candidate(0.3, 0.5, False))
    report = Report(
        *("model", None, measured.before, measured.after),
        targets=(Asked("macs", 500, 400, True), Asked("latency", 7.0, 7.5, False)),
        drop=Drop(0.02, "top-1", 200, tried),
        gates=(MET,),
    )
    verdicts = verdicts_of(report)
    assert [(each.name, each.met) for each in verdicts] == [
        ("target-flops", True),
        ("target-latency", False),
        ("max-drop", True),
        ("max-size", True),
    ]
    assert verdicts[1].sentence == "7.5 ms, asked for at most 7 ms"
    assert verdicts[2].sentence == "top-1 fell by 0.008 on 200 samples, asked for at most 0.02"
    assert [each.name for each in verdicts_of(replace(report, drop=None))][2:] == ["max-size"]


def test_junit_has_a_test_case_for_each() -> None:
    root = ElementTree.fromstring(junit_xml(concluding(MET, MISSED, TARGET)))
    (suite,) = root
    for element in (root, suite):
        assert [element.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "2", "0", "0"]
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        ("a → b", name) for name in ("max-size", "min-agreement", "target-latency")
    ]
    failures = [case.find("failure") for case in suite]
    assert failures[0] is None and failures[1] is not None and failures[1].get("message") == "agreement is 0.8"


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_any_name_makes_well_formed_xml_and_one_row(subject: str, said: str) -> None:
    """Lone surrogates, as of file names that are no UTF-8, control characters and all."""
    conclusion = concluding(replace(MISSED, sentence=said), subject=subject)
    (case,) = ElementTree.fromstring(junit_xml(conclusion)).iter("testcase")
    assert case.get("name") == "min-agreement" and all(c.isprintable() for c in case.get("classname") or "")
    text = job_summary(conclusion)
    (row,) = (line for line in text.encode().decode().splitlines() if line.startswith("| min-agreement"))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 4
    assert text.count("\n\n") == 3  # heading, models, verdicts, figures: no name ends a paragraph


def test_a_name_is_no_markup() -> None:
    assert markdown.escaped("![x](http://y) <b>`a`*b*|") == "!\\[x\\](http://y) \\<b\\>\\`a\\`\\*b\\*\\|"
    lines = job_summary(concluding(MET)).splitlines()
    assert lines[:3] == ["### compress compare: PASSED", "", "a → b"]
    assert "| max-size | met | the file has 1 bytes |" in lines
    assert "| file | 4 MB | 2 MB | × 0.500 |" in lines
    assert job_summary(concluding()).startswith("### compress compare\n") and "| met |" not in job_summary(concluding())


def test_files_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    junit, summary, step = (tmp_path / name for name in ("j.xml", "m.md", "step.md"))
    step.write_text("before", encoding="utf-8")
    monkeypatch.setenv(SUMMARY, str(step))
    assert concluded(concluding(MET), junit, summary) == 0
    assert concluded(concluding(MET, MISSED), junit, summary) == 1
    assert summary.read_text(encoding="utf-8") == job_summary(concluding(MET, MISSED))
    texts = [job_summary(concluding(MET)), job_summary(concluding(MET, MISSED))]
    assert step.read_text(encoding="utf-8") == "\n".join(("before", *texts))
    assert ElementTree.fromstring(junit.read_bytes()).get("tests") == "2"
    assert concluded(concluding(MET), None, step) == 0  # that file itself is added to, once, and never replaced
    assert step.read_text(encoding="utf-8") == "\n".join(("before", *texts, texts[0]))
    assert {path.name for path in tmp_path.iterdir()} == {"j.xml", "m.md", "step.md"}
    assert capsys.readouterr().err == "compress: gate missed: agreement is 0.8\n"
    monkeypatch.setenv(SUMMARY, str(tmp_path))
    assert concluded(concluding(MET), None, None) == 0
    assert capsys.readouterr().err.startswith(f"note: {SUMMARY}: {tmp_path} cannot be added to: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--junit", ".", "--max-size", "1"], "is a directory"),
        (["--markdown", "no/such.md"], "no is no folder"),
        (["--junit", "a.xml"], "--junit writes verdicts on gates: give at least one"),
        (["--max-size", "1", "--junit", "a", "--markdown", "a"], "--markdown a would replace a"),
        (["--max-size", "1", "--junit", "a", "--json", "a"], "--junit a would replace a"),
        (["--max-size", "1", "--junit", DATA[1]], "would replace"),
        (["--markdown", MOBILE], "would replace"),
        (["--min-speedup", "nan"], "--min-speedup 'nan'"),
        (["--min-speedup", "1.5", "--provider", "abacus"], "provider 'abacus'"),
        (["--max-drop", "0.1"], "--max-drop needs classes"),
    ],
)
def test_wrong_usage_is_found_before_the_work(
    arguments: Sequence[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compress.measure.compare", None)
    data = [] if "--max-drop" in arguments else DATA
    assert main(["compare", MOBILE, RESIDUAL, *data, *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and out == "" and list(tmp_path.iterdir()) == []


def test_compare_times_when_asked_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, object]] = []
    real = timing.bench

    def benched(paths: Sequence[Path], **how: object) -> tuple[Latency, ...]:
        calls.append(how)
        return real(paths, **how | {"duration_s": 0.02, "longest_s": 0.0})  # type: ignore[arg-type]  # by keyword

    monkeypatch.setattr(timing, "bench", benched)
    file = tmp_path / "c.json"
    assert main(["compare", MOBILE, MOBILE, *DATA, "--max-error", "0", "--json", str(file)]) == 0
    assert calls == [] and validated(file, "compare")["after"]["latency_ms"] is None
    assert capsys.readouterr().out.endswith("\nPASSED: 1 of 1 met\n")
    gates = ["--min-speedup", "1000", "--max-flops", "1", "--threads", "2", "--json", str(file)]
    assert main(["compare", MOBILE, MOBILE, *DATA, *gates]) == 1
    assert [calls[0][name] for name in ("threads", "provider", "duration_s")] == [2, "cpu", compare_command.DURATION_S]
    found = validated(file, "compare")
    assert [(gate["name"], gate["met"]) for gate in found["gates"]] == [("min-speedup", False), ("max-flops", True)]
    ratio = found["after"]["latency_ms"]["ratio"]["value"]
    assert found["gates"][0]["reached"] == pytest.approx(1 / ratio) and found["gates"][0]["limit"] == 1000
    out, err = capsys.readouterr()
    assert out.endswith("\nFAILED: 1 of 2 missed: min-speedup\n") and "compress: gate missed: the speedup is" in err


def test_prune_writes_the_model_though_a_gate_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)
    small_model(Path())
    run = ["prune", "net.onnx", "--data", "data.npz", "--junit", "j.xml", "--markdown", "m.md", "--json", "p.json"]
    assert main([*run, "--target-flops", "0.5", "--max-error", "0", "--max-size", "90%", "--max-flops", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("\nFAILED: 1 of 4 missed: max-error\n")
    assert "compress: gate missed: the largest relative error of an output is" in err
    assert "note: net-pruned.onnx was written all the same\n" in err and Path("net-pruned.onnx").exists()
    found = validated(Path("p.json"), "prune")
    assert [gate["met"] for gate in found["gates"]] == [False, True, True] and found["targets"][0]["met"]
    assert found["gates"][0]["reached"] == found["after"]["relative_error"] == found["outputs"][0]["relative_error"]
    assert found["gates"][1]["limit"] == 0.9 * found["before"]["file_bytes"]
    cases = ElementTree.parse("j.xml").getroot().iter("testcase")
    assert [(case.get("name"), case.find("failure") is None) for case in cases] == [
        ("target-flops", True),
        ("max-error", False),
        ("max-size", True),
        ("max-flops", True),
    ]
    assert Path("m.md").read_text(encoding="utf-8").startswith("### compress prune: FAILED\n")
    before = Path("p.json").read_bytes()
    assert main([*run, "--target-flops", "0.0001", "--force"]) == 1  # no model: yet the pipeline is told why
    out, err = capsys.readouterr()
    assert out == "FAILED: 1 of 1 missed: target\n" and "out of reach" in err
    (case,) = ElementTree.parse("j.xml").getroot().iter("testcase")
    assert "out of reach" in (case.find("failure").text or "")  # type: ignore[union-attr]  # it is there
    assert "out of reach" in Path("m.md").read_text(encoding="utf-8") and Path("p.json").read_bytes() == before
    assert json.loads(before)["output"] == "net-pruned.onnx"
