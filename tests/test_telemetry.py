"""Nothing is sent anywhere: ONNX Runtime's telemetry is off before ONNX Runtime is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import MAY_IMPORT, ROOT, imported

SWITCH = "ORT_DISABLE_TELEMETRY"


def python(code: str, folder: Path, **variables: str) -> str:
    """Run code from the repository with an empty home and temporary folder, the switch as given or not set."""
    kept = {name: value for name, value in os.environ.items() if name != SWITCH}
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(folder))
    environment = kept | homes | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["graph.runtime", "compress.bench"])
def test_importing_onnxruntime_through_us_writes_nothing(module: str, tmp_path: Path) -> None:
    """Telemetry shows by the files it writes on import: .ses in the temporary folder, a device ID in the home."""
    assert python(f"import sys, {module}; print('onnxruntime' in sys.modules)", tmp_path) == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_every_package_that_imports_onnxruntime_switches_it_off_first(tmp_path: Path) -> None:
    importing = {
        floor
        for floor in MAY_IMPORT
        for path in (ROOT / floor).rglob("*.py")
        if "onnxruntime" in {name.split(".")[0] for name in imported(path)}
    }
    assert importing == {"graph", "compress"}
    for floor in sorted(importing):
        code = f"import os, sys, {floor}; print(os.environ['{SWITCH}'], 'onnxruntime' in sys.modules)"
        assert python(code, tmp_path) == "1 False\n"


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    code = f"import os, graph, compress; print(os.environ['{SWITCH}'])"
    assert python(code, tmp_path, **{SWITCH: "0"}) == "0\n"
