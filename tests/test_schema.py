"""The JSON of every command is as the published schema says, and the schema says all that there is."""

import dataclasses
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from published import SCHEMA, properties, small_model, validated

from compress import (
    bench,
    drop,
    figures,
    gates,
    inspection,
    int8,
    measure,
    measurement,
    onboard,
    refine,
    repair,
    report,
    statistics,
    sweep,
)
from compress.cli import compress, main
from compress.profiling import on_device
from compress.profiling import profile as profiles
from compress.training import course, evaluate
from graph import channels, law

DATACLASSES = {
    "ratio": statistics.Ratio,
    "environment": bench.Environment,
    "kernel": onboard.Kernel,
    "latency": bench.Latency,
    "measurement": measurement.Measurement,
    "output_error": measure.OutputError,
    "verdict": gates.Verdict,
    "frozen": channels.Frozen,
    "target": report.Asked,
    "width": report.Width,
    "candidate": drop.Candidate,
    "drop": drop.Drop,
    "refinement": refine.Refinement,
    "law": law.LawReport,
    "repair": repair.Repair,
    "comparison": measure.Comparison,
    "row": sweep.Row,
    "group": inspection.GroupFacts,
    "profiled_network": profiles.Measured,
    "run": report.Report,
    "quantize": int8.QuantiseReport,
    "stage": int8.Stage,
    "worth": evaluate.Figures,
    "epoch": course.Epoch,
    "removal": course.Removal,
    "course": course.Course,
    "sweep": sweep.Sweep,
    "inspect": inspection.Inspection,
}
COMMANDS = {entry["$ref"].rpartition("/")[2] for entry in SCHEMA["oneOf"]}


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    versions = {properties(SCHEMA["$defs"][name])["schema_version"]["const"] for name in COMMANDS - {"profile"}}
    assert versions == {report.SCHEMA_VERSION}
    assert SCHEMA["$defs"]["profile"]["properties"]["version"]["const"] == on_device.VERSION


@pytest.mark.parametrize("name", DATACLASSES)
def test_fields_are_those_of_the_program(name: str) -> None:
    """So that nobody adds one and does not say so."""
    definition = SCHEMA["$defs"][name]
    described = properties(definition)
    fields = {field.name for field in dataclasses.fields(DATACLASSES[name])}
    assert described.keys() - {"schema_version", "command"} - ({"model"} if name == "inspect" else set()) == fields
    assert set(definition["required"]) == set(definition["properties"])


def test_every_definition_is_compared_or_a_command() -> None:
    assert SCHEMA["$defs"].keys() == DATACLASSES.keys() | COMMANDS | {"real", "machine"}


def test_every_command_that_writes_json_has_a_definition() -> None:
    writing = {
        name for name, command in compress.commands.items() if any("--json" in each.opts for each in command.params)
    }
    assert writing | {"profile"} == COMMANDS


def test_inspect_and_bench(tmp_path: Path) -> None:
    model, _ = small_model(tmp_path)
    assert main(["inspect", model, "--json", str(tmp_path / "i.json")]) == 0
    assert validated(tmp_path / "i.json", "inspect")["groups"]
    arguments = [model, model, "--duration", "0.05", "--profile", "--json", str(tmp_path / "b.json")]
    assert main(["bench", *arguments]) == 0
    assert all(entry["kernels"] for entry in validated(tmp_path / "b.json", "bench")["models"])


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)
    model, data = small_model(tmp_path)
    assert main(["sweep", model, "--targets", "0.5,0.0001", *data, "--json", str(tmp_path / "s.json")]) == 0
    reached, unreached = validated(tmp_path / "s.json", "sweep")["rows"]
    assert reached["after"]["latency_ms"]["rounds"] and unreached["after"] is None and unreached["reason"]


def test_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, quick in {"RUNS_S": 0.0, "LEAST_RUNS": 1, "WHOLE_S": 0.0, "CHAIN_ROUNDS": 1}.items():
        monkeypatch.setattr(on_device, name, quick)
    assert main(["profile", small_model(tmp_path)[0], "--round-to", "8", "-o", str(tmp_path / "p.json")]) == 0
    assert validated(tmp_path / "p.json", "profile")["networks"][0]["kernels"]


@pytest.mark.slow
def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)
    model, data = small_model(tmp_path)
    arguments = [model, "--target-flops", "0.7", "--epochs", "2", *data, "--json", str(tmp_path / "t.json")]
    assert main(["train", *arguments]) == 0
    found = validated(tmp_path / "t.json", "train")["course"]
    assert found["epochs"] and found["removals"]


def test_quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)
    model, data = small_model(tmp_path)
    assert main(["quantize", model, *data, "--json", str(tmp_path / "q.json")]) == 0
    assert validated(tmp_path / "q.json", "quantize")["layers_on_integers"]
