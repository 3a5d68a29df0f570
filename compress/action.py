"""The outputs of the GitHub Action, from the JSON of a run: `python -m compress.action FOLDER EXIT_CODE`.

Prints `name=value` lines, as $GITHUB_OUTPUT takes them; what is not known is empty. See `action.yml`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.report import printable

VERDICTS = {0: "passed", 1: "failed"}  # by exit code


def outputs(folder: Path, code: int) -> dict[str, str]:
    """Return the outputs of a run that ended with that exit code, and whose report.json is in the folder, if any."""
    path = folder / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before, after = report.get("before") or {}, _shipped(report)
    latency = after.get("latency_ms")
    return {
        "verdict": VERDICTS.get(code, "error"),
        "model": report.get("output") or "",
        "macs-share": _share(before.get("macs"), after.get("macs")),
        "size-share": _share(before.get("file_bytes"), after.get("file_bytes")),
        "speedup": _share(float(latency["ratio"]["value"]), 1) if latency else "",
        "agreement": _share(1, after.get("agreement")),
        "reports": str(folder),
    }


def main(folder: str, code: str) -> None:
    """Print the outputs, a line each: a name with a line break in it must not make a line of its own."""
    for name, value in outputs(Path(folder), int(code)).items():
        print(f"{name}={printable(value)}")


def _shipped(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of the model that is the output: of several stages, the last."""
    figures = [stage["figures"] for stage in report.get("stages") or ()]
    return (figures[-1] if figures else None) or report.get("after") or {}


def _share(whole: float | None, part: float | None) -> str:
    return f"{part / whole:.4g}" if whole and part is not None else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
