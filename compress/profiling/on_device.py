"""Measuring a kit on the machine that will run the model: python3, numpy and ONNX Runtime alone.

A kit is a zip that python3 runs: `python3 kit.pyz -o profile.json`. In it are this file and onboard.py, the models, one
sample of inputs, and request.json:

    {"settings": {…}, "original": file, "networks": [{"file", "widths"}], "chains": [{"file", "width"}], "about": {…}}

What comes out is a profile: the machine, the time of the original, and for each network its share of that, and the
times of its kernels where the provider tells them apart (on the CPU).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.ending import REFUSED, WRONG, leave, write
from compress.onboard import (
    RUNTIME_ERRORS,
    NoProvider,
    Settings,
    Timed,
    available,
    machine,
    rounds,
    runs_per_turn,
    warm_up,
)

VERSION = 1
RUNS_S = 0.25  # of every network's kernels
LEAST_RUNS, MOST_RUNS = 8, 200
WHOLE_S = 0.5  # of a network timed as a whole, beside the original
CHAIN_ROUNDS = 25
BY_KERNEL = frozenset({"CPUExecutionProvider"})  # providers whose profile tells when a kernel ended


def measure(
    request: Mapping[str, Any],
    read: Callable[[str], bytes],
    feeds: Mapping[str, np.ndarray],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return a profile as JSON takes it. `read` gives the bytes of a model of the request, `feeds` its inputs."""
    settings = Settings(**{**request["settings"], "provider": available(request["settings"]["provider"])})
    chains = {each["width"]: read(each["file"]) for each in request["chains"]}
    shapes = {each["width"]: each["shape"] for each in request["chains"]}
    original = Timed(read(request["original"]), feeds, settings)
    original_s = warm_up(original)
    rows = []
    for network in request["networks"]:
        model = read(network["file"])
        kernels = _kernels(model, feeds, settings, original_s) if settings.provider in BY_KERNEL else None
        ratio = _ratio(original, Timed(model, feeds, settings))
        rows.append({"widths": network["widths"], "ratio": ratio, "kernels": kernels})
        advance()
    return {
        "version": VERSION,
        "about": request["about"],
        "machine": machine(settings),
        "original_ms": 1e3 * original_s,
        "networks": rows,
        "chains": chain_ms(chains, shapes, settings, advance) if chains else {},
    }


def steps(request: Mapping[str, Any]) -> int:
    """Return how often `measure` advances."""
    return len(request["networks"]) + CHAIN_ROUNDS * bool(request["chains"])


def _kernels(model: bytes, feeds: Mapping[str, np.ndarray], settings: Settings, about_s: float) -> list[dict[str, Any]]:
    runs = int(np.clip(RUNS_S / about_s, LEAST_RUNS, MOST_RUNS))
    found = Timed(model, feeds, settings, profile=True).kernels(runs)
    return [
        {
            "name": each.name,
            "op_type": each.op_type,
            "us": round(each.microseconds, 3),
            "inputs": each.inputs,
            "outputs": each.outputs,
        }
        for each in found
    ]


def _ratio(original: Timed, other: Timed) -> float:
    times = rounds([original, other], [runs_per_turn(original), runs_per_turn(other)], WHOLE_S)
    return float(np.median(times[:, 1] / times[:, 0]))


def chain_ms(
    models: Mapping[int, bytes],
    shapes: Mapping[int, Sequence[int]],
    settings: Settings,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Return the least time of each chain in milliseconds, by width: what disturbs a run only ever adds to it.

    All are timed in turn, many times over, so that no width is unlucky to come while the machine is busy.
    """
    chains = {w: Timed(model, {"x": np.full(shapes[w], 0.5, np.float32)}, settings) for w, model in models.items()}
    runs = {width: runs_per_turn(each) for width, each in chains.items()}
    least = dict.fromkeys(chains, float("inf"))
    for _ in range(CHAIN_ROUNDS):
        for width, each in chains.items():
            least[width] = min(least[width], 1e3 * each.seconds(runs[width]))
        advance()
    return least


def main() -> None:
    """Measure the kit that this file lies in, and write the profile."""
    parser = argparse.ArgumentParser(description="Measure what the layers of a network cost on this machine.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where to write the profile")
    parser.add_argument("--threads", type=int, help="threads within an operator")
    parser.add_argument("--provider", help="cpu, cuda, ... as this ONNX Runtime has them")
    parser.add_argument("--steps", action="store_true", help="print a line after each of the steps")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"{arguments.output.parent} is not a folder")  # before the work, not after it
    with zipfile.ZipFile(sys.argv[0]) as kit:
        request = json.loads(kit.read("request.json"))
        for name in ("threads", "provider"):
            if getattr(arguments, name) is not None:
                request["settings"][name] = getattr(arguments, name)
        feeds = {
            name: np.load(io.BytesIO(kit.read(f"input{number}.npy")), allow_pickle=False)
            for number, name in enumerate(request["about"]["inputs"])
        }
        total, done = steps(request), 0

        def advance() -> None:
            nonlocal done
            done += 1
            if arguments.steps:
                print("step", flush=True)
            elif sys.stderr.isatty():
                print(f"\rmeasured {done} of {total}", end="\n" * (done == total), file=sys.stderr, flush=True)

        try:
            found = measure(request, kit.read, feeds, advance)
        except NoProvider as error:
            leave(str(error), WRONG)
        except RUNTIME_ERRORS as error:
            leave(f"ONNX Runtime cannot run it: {error}", REFUSED)
    write(found, arguments.output)
