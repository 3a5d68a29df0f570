"""How much memory a model takes, measured in a process of its own.

The process imports numpy and ONNX Runtime, reads the inputs, notes the most it has held so far, opens the session and
runs it three times. What is reported is the most it held in the end, less what it noted: the weights, with what is only
held while they are loaded, and all that lies between the layers. On a GPU the memory there is not counted.

It needs python3, numpy and ONNX Runtime alone, and works from within a zip: boards get it, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.onboard import Settings, Timed

RUNS = 3

# the path by hand: neither the working directory (the empty entry) nor the folder of this file may hide a library
_CHILD = (
    "import sys; sys.path = [sys.argv[1], *filter(None, sys.path)]; "
    "from compress.footprint import main; main(sys.argv[2])"
)


def memory_bytes(model: Path, feeds: Mapping[str, np.ndarray], settings: Settings) -> int | None:
    """Return the most bytes that the model makes a process hold in memory; None where the system does not tell.

    `model` is a file that is trusted. Raises RuntimeError where the process fails, with the last that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = {f"input{number}": name for number, name in enumerate(feeds)}  # savez takes names of its own
        with open(Path(folder) / "feeds.npz", "wb") as file:
            np.savez(file, **{key: feeds[name] for key, name in names.items()})  # type: ignore[arg-type]  # of numpy
        request = {"model": str(model), "names": names, **vars(settings)}
        (Path(folder) / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-c", _CHILD, str(Path(__file__).parents[1]), folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"the process ended with {done.returncode}")
    found = json.loads(done.stdout)
    return None if found is None else int(found)


def main(folder: str) -> None:
    """Measure what the folder's request asks for, and print it as JSON: what the process does."""
    request = json.loads((Path(folder) / "request.json").read_text(encoding="utf-8"))
    model, names = request.pop("model"), request.pop("names")
    with np.load(Path(folder) / "feeds.npz", allow_pickle=False) as arrays:
        feeds = {name: arrays[key] for key, name in names.items()}
    before = most_resident()
    Timed(model, feeds, Settings(**request)).seconds(RUNS)
    after = most_resident()
    print(json.dumps(None if before is None or after is None else after - before))


def most_resident() -> int | None:
    """Return the most bytes that this process has held in memory; None where the system does not tell."""
    try:  # Linux: getrusage would give what the parent held at the fork, where that was more
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
