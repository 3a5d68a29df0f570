"""Latencies of another machine: its kit is made and sent, and what it writes is read."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.errors import OptionError
from compress.onboard import Kernel, Settings
from compress.pyz import packed
from compress.remote import Host, Job, run
from compress.statistics import Ratio
from compress.timing import Effort, Environment, Latency, Subject

MODULES = ("onboard.py", "ending.py", "footprint.py", "statistics.py", "timing.py")


def latencies_there(host: Host, subjects: Sequence[Subject], settings: Settings, effort: Effort) -> tuple[Latency, ...]:
    """Return the latencies of the models on that machine; the files of the models have names of their own.

    Raises OptionError where they cannot be had, and ModelError where that machine does not run a model.
    """
    models = [{"name": each.name, "file": each.file.name, "inputs": list(each.feeds)} for each in subjects]
    request = {"settings": asdict(settings), "effort": asdict(effort), "models": models}
    arrays = {
        f"input{number}-{place}": array
        for number, each in enumerate(subjects)
        for place, array in enumerate(each.feeds.values())
    }
    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder) / "bench.pyz"
        kit.write_bytes(packed("compress.timing", MODULES, request, arrays))
        files = {kit.name: kit, **{file.name: file for each in subjects for file in _files(each.file)}}
        found = run(host, Job(files, (kit.name, "-o", Job.result)))
    try:
        return tuple(read_latency(found[number], each.name) for number, each in enumerate(subjects))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise OptionError(f"{host.destination} sent what are no latencies ({type(error).__name__}: {error})") from error


def _files(model: Path) -> list[Path]:
    """Return the file of a model that we wrote, with that of its weights where those are apart."""
    return [each for each in (model, model.with_name(f"{model.name}.data")) if each.exists()]


def read_latency(found: Mapping[str, Any], model: str) -> Latency:
    """Take the latency of a model as a board writes it. Raises KeyError, TypeError or ValueError for anything else."""
    times = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "samples_per_second", "variation")
    machine = found["environment"]
    words = ("onnxruntime", "provider", "cpu", "python", "platform", "optimisation", "execution", "clock")
    memory = found["memory_bytes"]
    return Latency(
        model=model,
        **{name: _number(found[name]) for name in times},
        rounds=int(found["rounds"]),
        runs_per_round=int(found["runs_per_round"]),
        ratio=Ratio(*(_number(found["ratio"][end]) for end in ("value", "low", "high"))),
        environment=Environment(
            **{name: str(machine[name]) for name in words},
            provider_options={str(key): str(value) for key, value in machine["provider_options"].items()},
            threads=int(machine["threads"]),
            flags=[str(flag) for flag in machine["flags"]],
            spinning=bool(machine["spinning"]),
            shapes={str(name): _shape(shape) for name, shape in machine["shapes"].items()},
        ),
        nodes_elsewhere=int(found["nodes_elsewhere"]),
        memory_bytes=None if memory is None else int(memory),
        kernels=tuple(_kernel(each) for each in found["kernels"]),
        quantiles_ms=tuple(_number(each) for each in found["quantiles_ms"]),
    )


def _kernel(found: Mapping[str, Any]) -> Kernel:
    return Kernel(
        name=str(found["name"]),
        op_type=str(found["op_type"]),
        provider=str(found["provider"]),
        microseconds=_number(found["microseconds"]),
        inputs=tuple(_shape(shape) for shape in found["inputs"]),
        outputs=tuple(_shape(shape) for shape in found["outputs"]),
    )


def _number(found: float) -> float:
    number = float(found)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no time")
    return number


def _shape(found: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(size) for size in found)
