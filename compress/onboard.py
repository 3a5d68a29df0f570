"""Timing on the machine that will run the model: one file that needs python3, numpy and onnxruntime alone.

Nothing else of this project is imported here, so that the file can be copied by itself to a small board; files from
strangers are checked by `compress/bench.py`, its front end on a workstation. What is done so that the figures hold:
the number of threads is set and reported, operators run one after another, every model is warmed up until its times
settle, threads of an idle session sleep instead of spinning beside the one that is timed, inputs and outputs stay on
the device, and ONNX Runtime may not fall back to another provider in silence.

There are two clocks. `wall_ms` is what a user waits. `undisturbed_ms` is, with one thread on the CPU provider, the
processor's time of that thread: what other processes take from the processor does not count, so that models can be
compared on a machine that is not idle. Elsewhere nobody keeps such a clock, and it is the same as the other.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is sent from the moment of the import, unless told not to
import onnxruntime as ort

CPU = "CPUExecutionProvider"
LEAST_ROUNDS = 20
LEAST_WARM_UP = 10  # runs
LONGEST_WARM_UP_S = 5.0
SHORTEST_TURN_S = 0.0005  # of one model in a round: short, so that most turns are not interrupted
UNTIMED_PROFILES = 3  # runs of a profile that are not counted

# every exception that ONNX Runtime raises for a model; they have no common base of their own
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        kind
        for kind in vars(ort.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
_LOG_SEVERITY = 4  # as in graph/runtime.py: errors reach us as exceptions
_ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_FLAGS = ("avx", "avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "avx_vnni")
_ARM_FLAGS = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


class NoProvider(ValueError):
    """What was asked for is not what this ONNX Runtime would run the model with; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How models are run: threads within an operator, and ONNX Runtime's provider with its options."""

    threads: int = 1
    provider: str = CPU
    provider_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kernel:
    """One node of the graph as ONNX Runtime runs it, after its fusions, and the time of one run of it.

    `inputs` and `outputs` are the shapes of its tensors, weights among them, without those packed away beforehand.
    """

    name: str
    op_type: str
    provider: str
    microseconds: float
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


class Timed:
    """A session with its inputs and outputs bound to the device.

    `model` is a file, or its bytes, and is trusted; `feeds` are arrays by the names of its inputs. Raises NoProvider
    where it would not run as asked, and whatever ONNX Runtime raises for the model.
    """

    def __init__(
        self,
        model: bytes | str | Path,
        feeds: Mapping[str, np.ndarray],
        settings: Settings,
        *,
        profile: bool = False,
    ) -> None:
        """Open the session, and bind the feeds; nothing has run yet."""
        self._busy = time.thread_time if _counts_thread_time(settings) else time.perf_counter
        options = _session_options(settings)
        self._folder: Path | None = None
        if profile:
            self._folder = Path(tempfile.mkdtemp(prefix="compress-"))  # never in the working directory
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            options.enable_profiling = True
            options.profile_file_prefix = str(self._folder / "profile")
        self._session = _opened(model, options, settings)
        device = "cuda" if settings.provider in _ON_CUDA else "cpu"
        number = int(settings.provider_options.get("device_id", 0)) if device == "cuda" else 0
        self._binding = self._session.io_binding()
        for name, array in feeds.items():
            # in memory of ONNX Runtime's own, for numpy's is aligned by chance, and that shows in the times
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, device, number)
            value.update_inplace(np.asarray(array, order="C"))
            self._binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, device, number)

    def seconds(self, runs: int) -> float:
        """Return the seconds per run on the wall, over `runs` runs in a row."""
        return self.both(runs)[0]

    def both(self, runs: int) -> tuple[float, float]:
        """Return the seconds per run on the wall, and undisturbed, over `runs` runs in a row."""
        start, busy = time.perf_counter(), self._busy()
        for _ in range(runs):
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return (time.perf_counter() - start) / runs, (self._busy() - busy) / runs

    def kernels(self, runs: int) -> tuple[Kernel, ...]:
        """Return the nodes in the order in which they ran, each with the typical time of `runs` runs.

        For a session made with `profile=True`, once: it ends the profile. The time of a node is the mean of the half
        of the runs in the middle, for ONNX Runtime counts whole microseconds, of which a median keeps no more. What
        runs inside of If, Loop and Scan is listed by itself and not counted in theirs. On a GPU these are the times
        that it took to launch the work. ONNX Runtime keeps a million events: more runs than fit are not counted.
        """
        if self._folder is None:
            raise ValueError("this session takes no profile: open it with profile=True")
        self.seconds(UNTIMED_PROFILES + runs)
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        shutil.rmtree(self._folder, ignore_errors=True)
        return kernels_of(events, UNTIMED_PROFILES)


def available(provider: str) -> str:
    """Return ONNX Runtime's full name of a provider that is given by that or by its short one (cpu, cuda, …)."""
    names = {each.removesuffix("ExecutionProvider").lower(): str(each) for each in ort.get_available_providers()}
    short = provider.removesuffix("ExecutionProvider").lower()
    if short not in names:
        raise NoProvider(f"provider {provider!r} is not in this ONNX Runtime: it has {', '.join(sorted(names))}")
    return names[short]


def warm_up(model: Timed, longest_s: float = LONGEST_WARM_UP_S) -> float:
    """Run until the undisturbed times settle, or about so long; return the median seconds of the last runs."""
    times: list[float] = []
    end = time.perf_counter() + longest_s
    while not settled(times) and (len(times) < LEAST_WARM_UP or time.perf_counter() < end):
        times.append(model.both(1)[1])
    return float(np.median(times[-5:]))


def runs_per_turn(model: Timed) -> int:
    """Warm the model up, and return how often it should run in a round: more than once where it takes microseconds."""
    return max(1, round(SHORTEST_TURN_S / warm_up(model)))


def settled(times: Sequence[float], *, at_least: int = 10, within: float = 0.05) -> bool:
    """Say whether the last five of at least `at_least` times have the median of the five before, within 5 %."""
    if len(times) < max(at_least, 10):
        return False
    before, after = np.median(times[-10:-5]), np.median(times[-5:])
    return bool(abs(after - before) <= within * before)


class Rounds(NamedTuple):
    """Times of rounds × models in milliseconds per run, by both clocks.

    In the even rows the models ran in their order, in the odd ones backwards.
    """

    wall_ms: np.ndarray
    undisturbed_ms: np.ndarray


def timed_rounds(models: Sequence[Timed], runs: Sequence[int], duration_s: float) -> Rounds:
    """Time the models in turn for so long, 20 rounds at least; `runs` is how often each model runs in its turn.

    Every round has one that goes backwards (A B, B A), so that neither what the machine drifts by nor what one model
    leaves in the caches is always another's. Which of the two comes first is drawn: a pattern that repeats itself may
    fall into step with the scheduler, which then interrupts always the same model.
    """
    coin, forward, warmed = random.Random(0), range(len(models)), max(runs) > 1
    rows: list[list[tuple[float, float]]] = []
    end = time.perf_counter() + duration_s
    while len(rows) < LEAST_ROUNDS or time.perf_counter() < end:
        drawn = coin.random() < 0.5
        orders = (forward, forward[::-1]) if drawn else (forward[::-1], forward)
        both = [{i: _turn(models[i], runs[i], warmed) for i in order} for order in orders]
        rows += [[turn[i] for i in forward] for turn in (both if drawn else both[::-1])]
    times = 1e3 * np.array(rows)
    return Rounds(times[..., 0], times[..., 1])


def _turn(model: Timed, runs: int, warmed: bool) -> tuple[float, float]:
    """Time one turn; where turns are short, a run that is not timed brings the model into the caches first."""
    if warmed:
        model.seconds(1)
    return model.both(runs)


def rounds(models: Sequence[Timed], runs: Sequence[int], duration_s: float) -> np.ndarray:
    """Return the undisturbed times of `timed_rounds`: rounds × models, in milliseconds per run."""
    return timed_rounds(models, runs, duration_s).undisturbed_ms


def machine(settings: Settings) -> dict[str, Any]:
    """Return what a latency depends on besides the model, as plain values."""
    return {
        "onnxruntime": str(ort.__version__),
        "provider": settings.provider,
        "provider_options": dict(settings.provider_options),
        "threads": settings.threads,
        "cpu": cpu_model(),
        "flags": cpu_flags(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "optimisation": "all",
        "execution": "sequential",
        "spinning": False,
        "clock": "processor" if _counts_thread_time(settings) else "wall",
    }


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    names = [value for key, value in _cpuinfo() if key in ("model name", "Model")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the processor's extensions that ONNX Runtime's kernels are chosen by; none where they are not known."""
    found = {flag for key, value in _cpuinfo() if key in ("flags", "Features") for flag in value.split()}
    return [flag for flag in (*_FLAGS, *_ARM_FLAGS) if flag in found]


def _cpuinfo() -> Iterator[tuple[str, str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()


def _counts_thread_time(settings: Settings) -> bool:
    """Say whether the thread that calls does all the work, and the system tells its time finely (Windows does not)."""
    alone = settings.threads == 1 and settings.provider == CPU
    return alone and hasattr(time, "CLOCK_THREAD_CPUTIME_ID")


def _session_options(settings: Settings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = _LOG_SEVERITY
    return options


def _opened(model: bytes | str | Path, options: ort.SessionOptions, settings: Settings) -> ort.InferenceSession:
    provider = settings.provider
    if available(provider) != provider:
        raise NoProvider(f"provider {provider!r}: give its full name, {available(provider)}")
    if provider == CPU and settings.provider_options:
        raise NoProvider(f"{provider} takes no options: ONNX Runtime would ignore {min(settings.provider_options)!r}")
    source = model if isinstance(model, bytes) else str(model)
    chosen = [(provider, dict(settings.provider_options))]
    session = ort.InferenceSession(source, options, providers=chosen, enable_fallback=0)
    if session.get_providers()[0] != provider:
        raise NoProvider(f"ONNX Runtime fell back from {provider} to {session.get_providers()[0]}")
    return session


def kernels_of(events: Sequence[Mapping[str, Any]], skipped: int = 0) -> tuple[Kernel, ...]:
    """Return the kernels of a profile as ONNX Runtime writes it, without the first `skipped` runs.

    A node that ran several times in a run, in a Loop, counts with their sum, one that did not run with 0.
    """
    runs = list(_by_run(events))[skipped:]
    times: dict[tuple[str, str], np.ndarray] = {}
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for number, run in enumerate(runs):
        for event, duration in _own_times(run):
            key = event["args"].get("node_index", ""), event["name"]
            last[key] = event
            times.setdefault(key, np.zeros(len(runs)))[number] += duration
    return tuple(_kernel(last[key], _middle(times[key])) for key in last)


def _by_run(events: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the kernels of each run that came to its end; events are written in the order in which they ended."""
    run: list[Mapping[str, Any]] = []
    for event in events:
        if event["name"] == "model_run":
            yield run
            run = []
        elif event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            run.append(event)


def _own_times(run: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Yield each event with its time less that of the events inside it, which ended before it and began after."""
    open_: list[tuple[float, float]] = []  # when it began, and all its time
    for event in run:
        inside = 0.0
        while open_ and open_[-1][0] >= event["ts"]:
            inside += open_.pop()[1]
        open_.append((event["ts"], event["dur"]))
        yield event, max(0.0, event["dur"] - inside)


def _middle(times: np.ndarray) -> float:
    quarter = len(times) // 4
    return float(np.sort(times)[quarter : len(times) - quarter].mean())


def _kernel(event: Mapping[str, Any], microseconds: float) -> Kernel:
    args = event["args"]
    return Kernel(
        name=event["name"].removesuffix("_kernel_time"),
        op_type=args.get("op_name", ""),
        provider=args.get("provider", ""),
        microseconds=microseconds,
        inputs=_shapes(args.get("input_type_shape", ())),
        outputs=_shapes(args.get("output_type_shape", ())),
    )


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    """Read ONNX Runtime's [{"float": [1, 3, 8, 8]}, …]."""
    return tuple(tuple(shape) for tensor in described for shape in tensor.values())
