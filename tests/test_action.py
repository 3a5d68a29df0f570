"""The GitHub Action: its steps, run as GitHub runs them, and the pipelines that README shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_blocks import README, blocks, command_lines, understood
from published import small_model, validated

from compress import action

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
INSTALL, PRUNE = ACTION["runs"]["steps"]
INPUT = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")  # what GitHub makes of `shell: bash`
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$0" "$@" >> "$RECORD"\nexit "${CODE:-0}"\n'
SILENT = "#!/bin/sh\n"
PYTHON = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def step(part: dict[str, Any], folder: Path, inputs: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action in a folder, with the variables that GitHub would set."""
    assert inputs.keys() <= ACTION["inputs"].keys()
    given = {name: str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()} | inputs
    environment = {
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(folder / "output.txt"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.txt"),
        "RUNNER_TEMP": str(folder / "runner temp"),
        **{name: INPUT.sub(lambda found: given[found[1]], value) for name, value in part["env"].items()},
        **more,
    }
    script = folder / "step.sh"
    script.write_text(part["run"], encoding="utf-8")
    everything = os.environ | environment
    return subprocess.run([*BASH, str(script)], cwd=folder, env=everything, capture_output=True, text=True)


def outputs(folder: Path) -> dict[str, str]:
    """Return the outputs of the action, as GitHub reads them from the file of its last step."""
    lines = (folder / "output.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def recorded(folder: Path) -> list[str]:
    return (folder / "record").read_text(encoding="utf-8").split("\0")[:-1]


def pruned(folder: Path, inputs: dict[str, str], code: int = 0, python: str = SILENT) -> tuple[int, list[str]]:
    """Run the second step with a program that notes how it was called in the place of ours."""
    executable(folder / "runner temp" / "compress" / "bin" / "compress", RECORDER)
    executable(folder / "runner temp" / "compress" / "bin" / "python", python)
    done = step(PRUNE, folder, inputs, RECORD=str(folder / "record"), CODE=str(code))
    return done.returncode, recorded(folder)[1:]


def test_inputs_reach_the_scripts_through_the_environment_alone() -> None:
    """What is written into a script by GitHub is run by it, whoever chose the name of a branch or of a file."""
    assert all("${{" not in part["run"] for part in (INSTALL, PRUNE))
    assert all(INPUT.fullmatch(value) for part in (INSTALL, PRUNE) for value in part["env"].values())
    used = {INPUT.fullmatch(value)[1] for part in (INSTALL, PRUNE) for value in part["env"].values()}
    assert used == ACTION["inputs"].keys()
    assert all(part["shell"] == "bash" for part in (INSTALL, PRUNE))


def test_every_output_is_one_that_the_step_writes(tmp_path: Path) -> None:
    written = action.outputs(tmp_path, 0)
    for name, entry in ACTION["outputs"].items():
        assert entry["value"] == f"${{{{ steps.{PRUNE['id']}.outputs.{name} }}}}"
    assert written.keys() == ACTION["outputs"].keys()


def test_installs_from_its_own_checkout_into_an_environment_of_its_own(tmp_path: Path) -> None:
    python = executable(tmp_path / "some python", RECORDER)
    home = tmp_path / "runner temp" / "compress"
    executable(home / "bin" / "python", RECORDER)
    done = step(INSTALL, tmp_path, {"python": str(python)}, RECORD=str(tmp_path / "record"))
    assert done.returncode == 0, done.stderr
    made = [str(python), "-m", "venv", "--system-site-packages", str(home)]
    installed = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", str(ROOT)]
    assert recorded(tmp_path) == made + installed
    assert step(INSTALL, tmp_path, {"python": "no-such-python"}).returncode == 127


def test_inputs_become_options_word_by_word(tmp_path: Path) -> None:
    evil = "$(touch pwned) `touch pwned`; touch pwned #\nverdict=passed.onnx"
    given = {
        "model": evil,
        "data": "my images",
        "target-flops": "50%",
        "max-drop": "0.01",
        "min-agreement": "0.95",
        "arguments": " --samples 64\n--exclude *head*\n",
        "output": "-small.onnx",
    }
    (tmp_path / "a-head").touch()  # which *head* must not become
    code, words = pruned(tmp_path, given)
    reports = "compress-reports"
    assert code == 0
    assert words == [
        *("prune", "--samples", "64", "--exclude", "*head*", "--data=my images", "--target-flops=50%"),
        *("--max-drop=0.01", "--min-agreement=0.95", "--output=-small.onnx", f"--json={reports}/report.json"),
        *(f"--junit={reports}/gates.xml", f"--markdown={reports}/summary.md", f"--report={reports}/report.html"),
        *("--", evil),
    ]
    assert not (tmp_path / "pwned").exists()


def test_every_input_is_an_option_of_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"model": "m.onnx", "arguments": "", "reports": "reports", "python": "python3"}
    given = {name: f"0.{number}" for number, name in enumerate(ACTION["inputs"].keys() - own, 1)}
    _, words = pruned(tmp_path, own | given)
    assert {f"--{name}={value}" for name, value in given.items()} < set(words)
    monkeypatch.chdir(tmp_path)  # where the folder of the reports now is
    understood(words)


@pytest.mark.parametrize(("code", "verdict"), [(0, "passed"), (1, "failed"), (3, "error")])
def test_ends_as_the_command_ended(tmp_path: Path, code: int, verdict: str) -> None:
    (tmp_path / "compress").mkdir()
    for name in ("__init__.py", "action.py"):  # a package of the workspace that is not ours
        (tmp_path / "compress" / name).touch()
    (tmp_path / "compress-reports").mkdir()
    (tmp_path / "compress-reports" / "report.json").write_text('{"output": "of an earlier run"}')
    assert pruned(tmp_path, {"model": "m.onnx"}, code, PYTHON)[0] == code
    assert outputs(tmp_path) == dict.fromkeys(ACTION["outputs"], "") | {
        "verdict": verdict,
        "reports": "compress-reports",
    }


def test_quotes_in_arguments_are_refused(tmp_path: Path) -> None:
    """They would become part of a pattern, and a gate with them would not be the one that was meant."""
    done = step(PRUNE, tmp_path, {"model": "m.onnx", "arguments": "--exclude '*head*'"})
    assert done.returncode == 2
    assert "compress.toml" in done.stdout


def test_figures_of_the_outputs_are_those_of_the_model_that_is_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"macs": 1000, "file_bytes": 4000}
    floats = {"macs": 500, "file_bytes": 2000, "latency_ms": {"ratio": {"value": 0.8}}, "agreement": 0.9}
    integers = floats | {"file_bytes": 500, "latency_ms": {"ratio": {"value": 0.4}}}
    report = {"output": "evil\nverdict=passed", "before": before, "after": floats}
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = action.outputs(tmp_path, 1)
    expected = {"macs-share": "0.5", "size-share": "0.5", "speedup": "1.25", "agreement": "0.9"}
    assert found.items() >= expected.items()
    action.main(str(tmp_path), "1")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("verdict=")] == ["verdict=failed"]
    stages = [{"figures": before}, {"figures": floats}, {"figures": integers}]
    (tmp_path / "report.json").write_text(json.dumps(report | {"stages": stages}))
    assert action.outputs(tmp_path, 0).items() >= {"size-share": "0.125", "speedup": "2.5"}.items()


@pytest.mark.slow
@pytest.mark.parametrize(("gates", "code"), [({"max-size": "100%"}, 0), ({"max-size": "1%"}, 1)])
def test_the_gate_decides(tmp_path: Path, gates: dict[str, str], code: int) -> None:
    """A pipeline of a user, from the outside: a fresh folder, a model, and data."""
    small_model(tmp_path)
    home = tmp_path / "runner temp" / "compress" / "bin"
    executable(home / "python", PYTHON)
    executable(home / "compress", f'#!/bin/sh\nexec "{sys.executable}" -P -m compress "$@"\n')
    inputs = {"model": "net.onnx", "data": "data.npz", "target-flops": "0.6", **gates}
    done = step(PRUNE, tmp_path, inputs)
    assert done.returncode == code, done.stderr
    found = outputs(tmp_path)
    assert found["verdict"] == ("passed", "failed")[code]
    assert found["model"] == "net-pruned.onnx" and (tmp_path / found["model"]).exists()
    report = validated(tmp_path / found["reports"] / "report.json", "prune")
    assert float(found["macs-share"]) == pytest.approx(report["after"]["macs"] / report["before"]["macs"], rel=1e-3)
    assert float(found["speedup"]) == pytest.approx(1 / report["after"]["latency_ms"]["ratio"]["value"], rel=1e-3)
    assert sorted(path.name for path in (tmp_path / found["reports"]).iterdir()) == [
        *("gates.xml", "report.html", "report.json", "summary.md")
    ]
    missed = "max-size" in (done.stdout.splitlines() or [""])[-1]
    assert missed == bool(code)
    assert ("PASSED", "FAILED")[code] in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_the_workflow_in_readme_uses_inputs_and_outputs_that_there_are() -> None:
    workflow = yaml.safe_load(next(text for text in blocks(README, "yaml") if "uses:" in text))
    steps = [each for job in workflow["jobs"].values() for each in job["steps"]]
    ours = [each for each in steps if "/compress@" in each.get("uses", "")]
    assert ours
    for each in ours:
        assert {"model"} <= each["with"].keys() <= ACTION["inputs"].keys()
        arguments = str(each["with"].get("arguments", ""))
        understood(["prune", *arguments.split(), "m.onnx"])
    named = {each["id"] for each in ours if "id" in each}
    mentioned = re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", str(workflow))
    assert mentioned and all(name in named and output in ACTION["outputs"] for name, output in mentioned)


def test_the_commands_of_the_gitlab_pipeline_in_readme_are_understood() -> None:
    pipeline = yaml.safe_load(next(text for text in blocks(README, "yaml") if "script:" in text))
    lines = [line for job in pipeline.values() for line in job["script"]]
    commands = [words for line in lines for words in command_lines(line)]
    assert [words[0] for words in commands] == ["prune", "compare"]
    for words in commands:
        understood(words)
    reported = pipeline["prune"]["artifacts"]["reports"]["junit"]
    assert all(f"--junit {path}" in " ".join(lines) for path in reported)
