"""How the programs of kits end: with a file that is whole, or with one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

WRONG = 2  # exit codes: something was asked wrongly
REFUSED = 3  # ONNX Runtime does not run the model
_LONGEST = 2000  # characters of a line: it may quote names of any length


def leave(sentence: str, code: int) -> NoReturn:
    """End the program with a line on stderr."""
    print(" ".join(sentence[:_LONGEST].split()), file=sys.stderr)
    sys.exit(code)


def write(found: Any, output: Path) -> None:
    """Write plain values as JSON, at once."""
    written = output.with_name(f"{output.name}.part")
    written.write_text(json.dumps(found), encoding="utf-8")
    os.replace(written, output)
