"""Options from a file: the same as typed, below what is typed, and nothing else passes in silence."""

from pathlib import Path
from typing import Any

import click
import pytest

from compress.cli import compress, main
from compress.config import options_of

ARGUMENTS = {"compare": ["a.onnx", "b.onnx"]}
# options whose text has a form of its own
FORMS = {
    "shape": "x:1x3",
    "provider-option": "a=b",
    "max-width-ratio": "conv*=0.5",
    "round-to": "auto",
    "data": "images",
    "val": "images",
    "targets": "0.9,0.5",
    "picture": "out.png",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(name: str, *typed: str) -> dict[str, Any]:
    """Return what a command would be called with."""
    command, root = compress.commands[name], click.Context(compress, info_name="compress")
    arguments = ARGUMENTS.get(name, ["a.onnx"])
    return dict(command.make_context(name, [*arguments, *typed], parent=root).params)


def refused(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    """Return the one line with which the command line refuses to begin."""
    assert main([*typed]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def sample(option: click.Option, key: str) -> tuple[str, Any]:
    """Return a value as it is typed, and as it stands in a file."""
    if option.is_flag:
        return "", True
    if isinstance(option.type, click.Choice):
        return option.type.choices[-1], option.type.choices[-1]
    if isinstance(option.type, click.types.IntParamType):
        return "3", 3
    text = FORMS.get(key, "out.json" if isinstance(option.type, click.Path) else "0.5")
    return text, 0.5 if text == "0.5" else text


def toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize("name", sorted(compress.commands))
def test_a_file_says_what_can_be_typed(name: str, folder: Path) -> None:
    typed, lines = [], [f"[{name}]"]
    for key, option in options_of(compress.commands[name]).items():
        text, value = sample(option, key)
        typed += [f"--{key}", *([text] if text else [])]
        lines.append(f"{key} = [{toml(value)}]" if option.multiple else f"{key} = {toml(value)}")
    expected = parsed(name, *typed)
    (folder / "compress.toml").write_text("\n".join(lines))
    assert parsed(name) == expected
    assert len(lines) > 2 and expected != {}


def test_what_is_typed_wins_over_the_table_and_that_over_the_rest(folder: Path) -> None:
    (folder / "compress.toml").write_text("seed = 1\nsamples = 1\nbgr = true\n[compare]\nseed = 2\nsamples = 2\n")
    found = parsed("compare", "--seed", "3")
    assert (found["seed"], found["samples"], found["bgr"]) == (3, 2, True)
    assert parsed("prune")["seed"] == 1  # the table is another command's
    assert "seed" not in parsed("inspect")  # which has no such option


def test_the_file_of_the_project_serves_where_there_is_no_own(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert parsed("prune")["seed"] == 0
    (folder / "pyproject.toml").write_text("[tool.compress]\nseed = 5\n[tool.compress.prune]\nsamples = 6\n")
    found = parsed("prune")
    assert (found["seed"], found["samples"]) == (5, 6)
    (folder / "compress.toml").write_text("seed = 7\n")
    found = parsed("prune")
    assert (found["seed"], found["samples"]) == (7, None)
    assert parsed("prune", "--config", "pyproject.toml")["seed"] == 5


def test_paths_start_from_the_folder_of_the_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "my.toml").write_text('data = "images"\noutput = "o.onnx"\nlabels = "/l.csv"\nmetric = "m:f"\n')
    found = parsed("prune", "--config", "sub/my.toml")
    assert found["data"] == str(Path("sub", "images")) and found["output"] == Path("sub", "o.onnx")
    assert found["labels"] == Path("/l.csv") and found["metric"] == "m:f"


def test_a_file_that_was_found_is_named_with_what_it_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "compress.toml").write_text("seed = 1\nsamples = 4\n")
    parsed("prune")
    assert capsys.readouterr().err == "note: options from compress.toml: --seed, --samples\n"
    parsed("inspect")  # nothing in it is for this command
    parsed("prune", "--config", "compress.toml")  # the user knows
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sample = 4", "compress.toml: sample: there is no such option: did you mean samples?"),
        ("target_flops = 0.5", "did you mean target-flops?"),
        ("[prune]\ntargets = 0.5", "[prune] targets: there is no such option: did you mean target"),
        ("[bench]\nthread = 4", "[bench] thread: there is no such option: did you mean threads?"),
        ("[prunes]\nseed = 4", "prunes: there is no such option: did you mean prune?"),
        ("zzz = 4", "compress.toml: zzz: there is no such option\n"),
        ("samples = '64'", "samples = '64': give a whole number"),
        ("samples = true", "samples = True: give a whole number"),
        ("samples = 1.5", "samples = 1.5: give a whole number"),
        ("force = 1", "force = 1: give true or false"),
        ("max-drop = 'a'", "max-drop = 'a': give a number"),
        ("max-drop = 3", "[prune] max-drop: 3.0 is not in the range"),
        ("exclude = '*head*'", "exclude = '*head*': give a list, [...]"),
        ("exclude = [['a']]", "exclude = ['a']: give a text or a number"),
        ("data = true", "data = True: give a text or a number"),
        ("output = 3", "output = 3: give a text"),
        ("search = 'best'", "[prune] search: 'best' is not one of"),
        ("round-to = 'x'", "[prune] round-to: 'x': give a number above 0, or auto"),
        ("json = 'nowhere/x.json'", "[prune] json: nowhere is no folder"),
        ("preprocess = 2000-01-01", "give a text or a number"),
        ("data = {a = 1}", "give a text or a number"),
        ("seed = ", "compress.toml cannot be read"),
        ("seed = 1\nseed = 2", "compress.toml cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file(content: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = "[prune]\n" if "[prune]" in words and not content.startswith("[") else ""
    (folder / "compress.toml").write_text(table + content)
    assert words in refused(capsys, "prune", "a.onnx")


def test_what_is_wrong_with_the_file_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, "prune", "a.onnx", "--config", "my.toml")
    (folder / "pyproject.toml").write_text("[tool]\n")
    assert "no table [tool.compress]" in refused(capsys, "prune", "a.onnx", "--config", "pyproject.toml")
    (folder / "compress.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(capsys, "prune", "a.onnx")


@pytest.mark.parametrize("key", ["metric", "data"])
def test_code_is_imported_only_for_who_names_the_file(
    key: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compress.toml").write_text(f'[prune]\n{key} = "evil:run"\n')
    said = refused(capsys, "prune", "a.onnx")
    assert f"compress.toml: [prune] {key} = 'evil:run' is code to import" in said and "--config compress.toml" in said
    assert parsed("prune", "--config", "compress.toml")[key] == "evil:run"
    assert parsed("inspect")["json_path"] is None  # what is not read for a command, does not matter to it
