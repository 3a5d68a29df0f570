"""Every command that `docs/` shows is run, and what it says of files, options and JSON is so."""

import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from markdown_blocks import README, ROOT, blocks, command_lines, understood
from PIL import Image
from published import SCHEMA
from small_graphs import build

from calibrate import generated
from compress import cli, figures
from compress.cli import compress, main
from compress.profiling import on_device

DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
SAMPLES = ROOT / "sample_models"

CLASSIFIER = """(float[N,3,16,16] input) => (float[N,4] scores)
<float[32,3,3,3] w1, float[32] scale, float[32] bias, float[32] mean, float[32] var, float[48,32,3,3] w2,
 float[16,48,1,1] w3, float[16,4] w4>
{ a = Conv <pads = [1,1,1,1]> (input, w1) n = BatchNormalization (a, scale, bias, mean, var) r = Relu (n)
  b = Conv (r, w2) s = Relu (b) head = Conv (s, w3) t = Relu (head)
  p = GlobalAveragePool (t) f = Flatten (p) scores = MatMul (f, w4) }"""

DETECTOR = """(float[N,3,16,16] images) => (float[N,64,4] boxes, float[N,64,3] scores)
<float[12,3,3,3] w1, float[12,12,3,3] w2, float[12,12,3,3] w3, float[4,12,1,1] w4, float[3,12,1,1] w5,
 int64[3] four = {0, 4, 64}, int64[3] three = {0, 3, 64}>
{ a = Conv <strides = [2,2], pads = [1,1,1,1]> (images, w1) r = Relu (a)
  b = Conv <pads = [1,1,1,1]> (r, w2) s = Relu (b) head_a = Conv <pads = [1,1,1,1]> (s, w3) head_r = Relu (head_a)
  c = Conv (head_r, w4) d = Reshape (c, four) boxes = Transpose <perm = [0,2,1]> (d)
  e = Conv (head_r, w5) g = Reshape (e, three) h = Transpose <perm = [0,2,1]> (g) scores = Sigmoid (h) }"""


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with small files under the names that the docs use, where nothing is timed for long."""
    rng = np.random.default_rng(0)
    ir.save(build(CLASSIFIER), tmp_path / "model.onnx")
    ir.save(build(DETECTOR), tmp_path / "detector.onnx")
    for number in range(80):
        label = number % 4
        home = tmp_path / "images" / f"class{label}"
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 64 * (label + 1), (16, 16, 3), np.uint8)).save(home / f"{number}.png")
    images = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(40) % 4)
    (tmp_path / "sample_models").mkdir()
    for path in SAMPLES.glob("*.onnx"):
        shutil.copy(path, tmp_path / "sample_models")
    for path in SAMPLES.glob("*.npz"):
        with np.load(path) as arrays:
            np.savez(tmp_path / "sample_models" / path.name, **{name: arrays[name][:80] for name in arrays.files})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.02)
    monkeypatch.setattr(generated, "COUNT", 64)
    for name, quick in {"RUNS_S": 0.0, "WHOLE_S": 0.05, "CHAIN_ROUNDS": 3}.items():
        monkeypatch.setattr(on_device, name, quick)
    for module in ("measures", "losses"):  # of another page
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def shown(page: str) -> Iterator[tuple[str, str]]:
    """Yield what a page has the reader do, in order: a command line, or a file by the name in its first comment."""
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "sh":
            yield from (("sh", line) for line in text.replace("\\\n", " ").splitlines() if line)
        elif named := re.match(r"# (\S+\.\w+)\n", text):
            yield named[1], text


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "```sh" in text])
def test_what_a_page_shows_can_be_done(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, text in shown(PAGES[page]):
        if kind != "sh":
            (folder / kind).write_text(text, encoding="utf-8")
        elif text.startswith("cp "):
            shutil.copy(*text.split()[1:3])
        elif words := command_lines(text):
            more = ["--duration", "0.05"] if words[0][0] == "bench" else []
            assert main(words[0] + more) == 0, f"{text}\n{capsys.readouterr().err}"
    if (folder / "check.py").exists():
        runpy.run_path("check.py")


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_commands_that_are_run(page: str) -> None:
    """Nothing that a reader types escapes the tests: our own commands, a copy, and README's installation."""
    lines = [text for kind, text in shown(PAGES[page]) if kind == "sh"]
    for line in lines:
        assert line.startswith(("compress ", "cp ")) or f"\n{line} &&" in README, line
    assert {
        language for language, _ in re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    } <= {*("sh", "console", "text", "python", "toml")}


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_are_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those too that cannot be run here: they need a board or a GPU."""
    monkeypatch.chdir(tmp_path)
    elsewhere = re.findall(
        r"^\$ (?:torchrun .*)?(compress .*)$", "\n".join(blocks(PAGES[page], "console")), re.MULTILINE
    )
    for words in command_lines("\n".join([*blocks(PAGES[page], "sh"), *elsewhere])):
        understood(words)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith("https://arxiv.org/abs/"):
            continue
        name, _, anchor = link.partition("#")
        target = (DOCS / name).resolve() if name else DOCS / f"{page}.md"
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, (
            link
        )


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_named_exist(page: str) -> None:
    known = {name for command in compress.commands.values() for each in command.params for name in each.opts}
    foreign = {"--no-python", "--nproc-per-node", "--head", "--port", "--address"}  # torchrun's and Ray's
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", PAGES[page])) <= known | foreign


def test_every_page_is_in_the_index() -> None:
    assert {f"{page}.md" for page in PAGES} - {"README.md"} <= set(re.findall(r"\]\(([^)]+)\)", PAGES["README"]))


def test_configuration_files_are_toml() -> None:
    for page in PAGES.values():
        for text in blocks(page, "toml"):
            tomllib.loads(text)


def test_exit_codes_and_fields_are_those_of_the_program() -> None:
    mentioned = re.findall(r"^\| ([0-9, ]+) \|", PAGES["ci"], re.MULTILINE)
    codes = set(re.findall(r"^([0-9]+) +", str(cli.__doc__), re.MULTILINE))
    assert {code for entry in mentioned for code in entry.split(", ")} == codes - {"130"}
    definitions = SCHEMA["$defs"]
    fields = {name for definition in definitions.values() for name in definition.get("properties", ())}
    rows = re.findall(r"^\| (.+) \|$", PAGES["json"], re.MULTILINE)
    commands = {entry["$ref"].rpartition("/")[2] for entry in SCHEMA["oneOf"]}
    named = set(re.findall(r"`([a-z][a-z0-9_]*)`", "\n".join(rows)))
    assert commands <= named <= fields | commands | {"command"}
