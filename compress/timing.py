"""Timing models in turn, on any machine: python3, numpy and ONNX Runtime alone.

Here `compress/bench.py` calls it, for files that it has checked. A board gets it as a kit, a zip that python3 runs
beside the models: `python3 bench.pyz -o latencies.json`. In it are this file with what it imports, the inputs of the
models as input0-0.npy (of the first model the first), and request.json:

    {"settings": {…}, "effort": {…}, "models": [{"name", "file", "inputs": [name, …]}, …]}
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress import onboard
from compress.ending import REFUSED, WRONG, leave, write
from compress.footprint import memory_bytes
from compress.onboard import CPU, RUNTIME_ERRORS, Kernel, NoProvider, Rounds, Settings, Timed
from compress.statistics import UNSTABLE_ABOVE, Ratio, median_ratio, variation

PRECISE = 0.005  # how near to its ratio an interval is to end, where there is time for it
# how often models that are compared are opened: more than 4 times for at most OPENING of the duration
SITTINGS = 4, 16
OPENING = 0.5
QUANTILES = 101  # kept of the rounds
PROFILE_S = 1.0  # spent on the profile of a model, within the limits of runs
PROFILE_RUNS = (20, 200)


@dataclass(frozen=True)
class Environment:
    """What a latency depends on besides the model; `clock` is what ratios are taken by, "processor" or "wall"."""

    onnxruntime: str
    provider: str
    provider_options: Mapping[str, str]
    threads: int
    cpu: str
    flags: Sequence[str]
    python: str
    platform: str
    optimisation: str
    execution: str
    spinning: bool
    clock: str
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Latency:
    """The time of one run of one model, in milliseconds on the wall; `rounds` rounds of `runs_per_round` runs each.

    A round's time is the mean of its runs; `variation` is the coefficient of variation of the rounds. `ratio` is to
    the first model of the same bench (1 for itself): the median over the rounds of what the two took there, by the
    clock of the environment. On a machine that is not idle that is not the ratio of the two p50. A sample is one
    entry of the first axis of the first input. `nodes_elsewhere` counts the nodes that another provider than the one
    asked for runs, as ONNX Runtime does with what a provider cannot do. `memory_bytes` is what `footprint` measures,
    None where it could not; `kernels` are the nodes that ONNX Runtime runs, where a profile was asked for.
    `quantiles_ms` are the times of the rounds from the shortest to the longest: 101 of them, evenly spaced.
    """

    model: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    samples_per_second: float
    rounds: int
    runs_per_round: int
    variation: float
    ratio: Ratio
    environment: Environment
    nodes_elsewhere: int = 0
    memory_bytes: int | None = None
    kernels: tuple[Kernel, ...] = ()
    quantiles_ms: tuple[float, ...] = ()

    @property
    def unstable(self) -> bool:
        """Whether the rounds vary too much (above 2.5 %) to believe small differences."""
        return self.variation > UNSTABLE_ABOVE

    @property
    def slower(self) -> bool:
        """Whether it is slower than the first model for certain: the whole interval lies above 1."""
        return self.ratio.low > 1


@dataclass(frozen=True)
class Effort:
    """How long to time (see `bench.bench`), and what to measure besides."""

    duration_s: float
    longest_s: float
    memory: bool
    profile: bool
    seed: int


@dataclass(frozen=True)
class Subject:
    """A model to time: what it is called, a file that is trusted, its inputs, and the nodes that run elsewhere."""

    name: str
    file: Path
    feeds: Mapping[str, np.ndarray]
    elsewhere: int = 0


@dataclass(frozen=True)
class _Times:
    """All rounds, how often each model ran in its turn, and the ratio of each to the first."""

    rounds: Rounds
    runs: Sequence[int]
    ratios: Sequence[Ratio]

    @property
    def precise(self) -> bool:
        return all(ratio.within <= PRECISE for ratio in self.ratios)


def latencies(subjects: Sequence[Subject], settings: Settings, effort: Effort) -> tuple[Latency, ...]:
    """Time the models in turn, and then what was asked for besides; one Latency per model."""
    times = _timed(subjects, settings, effort)
    return tuple(_latency(subject, times, number, settings, effort) for number, subject in enumerate(subjects))


def nodes_elsewhere(file: Path, feeds: Mapping[str, np.ndarray], settings: Settings) -> int:
    """Run the model as it will be timed; return how many nodes another provider runs. Raises NoProvider for all."""
    if settings.provider == CPU:  # which runs whatever is run at all
        Timed(file, feeds, settings).seconds(1)
        return 0
    kernels = Timed(file, feeds, settings, profile=True).kernels(1)
    elsewhere = sum(kernel.provider != settings.provider for kernel in kernels)
    if kernels and elsewhere == len(kernels):
        raise NoProvider(f"{settings.provider} runs no node of it: ONNX Runtime left them all to another provider")
    return elsewhere


def _timed(models: Sequence[Subject], settings: Settings, effort: Effort) -> _Times:
    """Time the models until the ratios are precise, or the time is over.

    Where in memory a session happens to lie makes it some tenths of a percent faster or slower for as long as it
    lives. So models that are compared are opened several times, and again whenever it goes on.
    """
    began = time.perf_counter()
    sessions = _sessions(models, settings)
    runs = [onboard.runs_per_turn(each) for each in sessions]
    opening = time.perf_counter() - began
    least, most = SITTINGS if len(models) > 1 else (1, 1)
    sittings = int(np.clip(OPENING * effort.duration_s / opening, least, most))
    each_s = effort.duration_s / sittings
    end = time.perf_counter() + effort.longest_s
    parts: list[Rounds] = []
    while True:
        for _ in range(sittings):
            if parts:
                sessions = _sessions(models, settings, backwards=len(parts) % 2 == 1)
                for each in sessions:
                    onboard.warm_up(each, each_s)
            parts.append(onboard.timed_rounds(sessions, runs, each_s))
        ratios = [
            median_ratio([part.undisturbed_ms[:, [i, 0]] for part in parts], seed=effort.seed)
            for i in range(len(models))
        ]
        rounds = Rounds(
            np.concatenate([part.wall_ms for part in parts]), np.concatenate([part.undisturbed_ms for part in parts])
        )
        times = _Times(rounds, runs, ratios)
        if times.precise or time.perf_counter() >= end:
            return times


def _sessions(models: Sequence[Subject], settings: Settings, backwards: bool = False) -> list[Timed]:
    """Open all models, from the last to the first if `backwards`: who comes first gets other places in memory."""
    step = -1 if backwards else 1
    return [Timed(model.file, model.feeds, settings) for model in models[::step]][::step]


def _latency(model: Subject, taken: _Times, number: int, settings: Settings, effort: Effort) -> Latency:
    times = taken.rounds.wall_ms[:, number]
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(
        model=model.name,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times.mean()),
        min_ms=float(times.min()),
        samples_per_second=1e3 * _samples(model.feeds) / float(times.mean()),
        rounds=len(times),
        runs_per_round=taken.runs[number],
        variation=variation(times),
        ratio=taken.ratios[number],
        environment=Environment(
            **onboard.machine(settings), shapes={name: array.shape for name, array in model.feeds.items()}
        ),
        nodes_elsewhere=model.elsewhere,
        memory_bytes=_memory(model, settings) if effort.memory else None,
        kernels=_kernels(model, settings, p50) if effort.profile else (),
        quantiles_ms=tuple(np.quantile(times, np.linspace(0, 1, QUANTILES)).tolist()),
    )


def _samples(feeds: Mapping[str, np.ndarray]) -> int:
    """Return how many samples a run takes, by the first input."""
    first = next(iter(feeds.values()), np.zeros(()))
    return int(first.shape[0]) if first.ndim else 1


def _memory(model: Subject, settings: Settings) -> int | None:
    try:
        return memory_bytes(model.file, model.feeds, settings)
    except (RuntimeError, OSError):
        return None  # as where the system does not tell: the times are worth more than this figure


def _kernels(model: Subject, settings: Settings, p50_ms: float) -> tuple[Kernel, ...]:
    runs = int(np.clip(1e3 * PROFILE_S / p50_ms, *PROFILE_RUNS))
    return Timed(model.file, model.feeds, settings, profile=True).kernels(runs)


def main() -> None:
    """Time the models of the kit that this file lies in, and write their latencies."""
    parser = argparse.ArgumentParser(description="Time models on this machine.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where to write the latencies")
    output = parser.parse_args().output
    with zipfile.ZipFile(sys.argv[0]) as kit:
        request = json.loads(kit.read("request.json"))
        try:
            settings = Settings(
                **{**request["settings"], "provider": onboard.available(request["settings"]["provider"])}
            )
            subjects = [_tried(kit, number, each, settings) for number, each in enumerate(request["models"])]
        except NoProvider as error:
            leave(str(error), WRONG)
    found = [dataclasses.asdict(each) for each in latencies(subjects, settings, Effort(**request["effort"]))]
    write(found, output)


def _tried(kit: zipfile.ZipFile, number: int, asked: Mapping[str, Any], settings: Settings) -> Subject:
    """Return a model of the request once it has run."""
    feeds = {
        name: np.load(io.BytesIO(kit.read(f"input{number}-{place}.npy")), allow_pickle=False)
        for place, name in enumerate(asked["inputs"])
    }
    file = Path(asked["file"])
    try:
        return Subject(asked["name"], file, feeds, nodes_elsewhere(file, feeds, settings))
    except RUNTIME_ERRORS as error:
        version = onboard.machine(settings)["onnxruntime"]
        leave(f"{asked['name']}: ONNX Runtime {version} cannot run it: {error}", REFUSED)
