"""The three floors: who may import whom, and that the light packages stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "graph": {"graph"},
    "calibrate": {"calibrate", "graph"},
    "compress": {"compress", "calibrate", "graph"},
}


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in it, by full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # modules, or names within one


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_floors(floor: str) -> None:
    forbidden = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / floor).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in MAY_IMPORT.keys() - MAY_IMPORT[floor]
    }
    assert not forbidden


def test_nobody_imports_the_command_line() -> None:
    """Commands know options and click; what they do is for everybody, and lies outside."""
    importers = {
        (str(path.relative_to(ROOT)), name)
        for floor in MAY_IMPORT
        for path in (ROOT / floor).rglob("*.py")
        if path.name != "__main__.py"
        for name in imported(path)
        if name.startswith(("compress.cli", "compress.commands", "compress.options"))
    }
    outside = {entry for entry in importers if not entry[0].startswith("compress/commands/")}
    assert outside == {("compress/cli.py", "compress.commands")}
    assert not {entry for entry in importers if entry[1].startswith("compress.cli")}


def test_only_the_bridge_knows_torch_in_the_graph_floor() -> None:
    knowing = {
        str(path.relative_to(ROOT / "graph"))
        for path in (ROOT / "graph").rglob("*.py")
        if {name.split(".")[0] for name in imported(path)} & {"torch", "onnx2torch"}
    }
    assert all(name.startswith("bridge/") for name in knowing)


@pytest.mark.parametrize("package", [*MAY_IMPORT, "compress.inspection", "compress.bench"])
def test_what_needs_no_torch_does_not_import_it(package: str) -> None:
    code = f"import {package}, sys; print('torch' in sys.modules, 'onnx2torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_bench_needs_light_packages_alone(tmp_path: Path) -> None:
    """Its result, and its error too, are there where torch, scipy and what reads images are not."""
    code = """
import sys
for name in ("torch", "onnx2torch", "onnxscript", "scipy", "PIL", "matplotlib"):
    sys.modules[name] = None  # importing it raises
from compress.cli import main
sys.exit(main(["bench", *sys.argv[1:], "--duration", "0.01"]))
"""
    for model, expected in ((ROOT / "sample_models" / "digits_mobile.onnx", 0), (tmp_path / "missing.onnx", 3)):
        done = subprocess.run([sys.executable, "-c", code, str(model)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr


def test_every_rule_module_is_imported() -> None:
    """A rule in a file that the package does not import would silently not exist."""
    modules = {path.stem for path in (ROOT / "graph" / "rules").glob("*.py")} - {"__init__"}
    source = ast.parse((ROOT / "graph" / "rules" / "__init__.py").read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.module == "graph.rules"
        for alias in node.names
    }
    assert modules == names
