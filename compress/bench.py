"""How long models take in ONNX Runtime, beside each other: the front end of `compress/onboard.py` for any files.

Needs no torch. A file is read, checked and run once within limits before it is timed, and ONNX Runtime only ever sees
a model of our own writing. How the times are taken is described in `onboard`, what becomes of them in `statistics`.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from compress import onboard
from compress.bench_inputs import input_array
from compress.errors import OptionError
from compress.footprint import memory_bytes
from compress.onboard import CPU, Kernel, NoProvider, Rounds, Settings, Timed
from compress.statistics import UNSTABLE_ABOVE, Ratio, median_ratio, variation
from graph.errors import ModelError
from graph.guard import watched
from graph.model import load, save, weight_bytes
from graph.refusal import refusal
from graph.runtime import RUNTIME_ERRORS, message, run_limited, session

PRECISE = 0.005  # how near to its ratio an interval is to end, where there is time for it
SITTINGS = (
    4,
    16,
)  # how often models that are compared are opened: more than 4 times for at most OPENING of the duration
OPENING = 0.5
PROFILE_S = 1.0  # spent on the profile of a model, within the limits of runs
PROFILE_RUNS = (20, 200)

# what ONNX Runtime raises for a model or for options that it does not take
_REFUSALS: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, RuntimeError, ValueError)


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

    @property
    def unstable(self) -> bool:
        """Whether the rounds vary too much (above 2.5 %) to believe small differences."""
        return self.variation > UNSTABLE_ABOVE

    @property
    def slower(self) -> bool:
        """Whether it is slower than the first model for certain: the whole interval lies above 1."""
        return self.ratio.low > 1


def left_alone(latencies: Iterable[Latency]) -> tuple[str, ...]:
    """Return a sentence for each model of which the provider does not run every node."""
    return tuple(
        f"{latency.model}: {latency.nodes_elsewhere} of its nodes are run by another provider than"
        f" {latency.environment.provider}"
        for latency in latencies
        if latency.nodes_elsewhere
    )


def instabilities(latencies: Iterable[Latency]) -> tuple[str, ...]:
    """Return a sentence for each latency that is unstable."""
    return tuple(
        f"{latency.model}: the latency is unstable, the rounds vary by {100 * latency.variation:.1f} % (above"
        f" {100 * UNSTABLE_ABOVE:g} %): close what else is running, or take a longer `compress bench --duration`"
        for latency in latencies
        if latency.unstable
    )


def bench(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    duration_s: float = 5.0,
    longest_s: float = 0.0,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    memory: bool = False,
    profile: bool = False,
    seed: int = 0,
) -> tuple[Latency, ...]:
    """Time the models in turn for `duration_s` seconds altogether (20 rounds at least); one Latency per path.

    Where the interval of a ratio is not within ±0.5 % by then, it goes on until it is, or for about `longest_s`. A free
    first dimension is `batch` (1), free height and width are 224, a free length is 512; `shapes` by input name
    overrules all. `feeds` are arrays by input name to run with instead of made up ones, for models that do not take
    any numbers. `provider` is the short name of one that this ONNX Runtime has (cpu, cuda, …). `memory` and `profile`
    measure these, too, after the times. Raises ModelError for a model that ONNX Runtime does not load or run,
    OptionError for anything asked wrongly.
    """
    if threads < 1 or duration_s <= 0 or (batch is not None and batch < 1):
        raise OptionError(f"{threads=}, {duration_s=}, {batch=}: each must be above 0")
    if not paths:
        raise OptionError("nothing to time: give at least one model")
    settings = _settings(threads, provider, provider_options or {})
    with tempfile.TemporaryDirectory() as folder:
        models = [
            _checked(path, Path(folder) / f"{number}.onnx", settings, batch, shapes or {}, feeds or {}, seed)
            for number, path in enumerate(paths)
        ]
        times = _timed(models, settings, duration_s, longest_s, seed)
        return tuple(_latency(model, times, i, settings, memory, profile) for i, model in enumerate(models))


@dataclass(frozen=True)
class _Checked:
    """A model of the bench: the user's file, ours, what it runs with, and how many nodes the provider leaves alone."""

    path: Path
    file: Path
    feeds: Mapping[str, np.ndarray]
    elsewhere: int


@dataclass(frozen=True)
class _Times:
    """All rounds, how often each model ran in its turn, and the ratio of each to the first."""

    rounds: Rounds
    runs: Sequence[int]
    ratios: Sequence[Ratio]

    @property
    def precise(self) -> bool:
        return all(ratio.within <= PRECISE for ratio in self.ratios)


def _settings(threads: int, provider: str, options: Mapping[str, str]) -> Settings:
    """Return the settings once the provider has taken them for a model of nothing: so it is not the models' fault."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "nothing", [value], [same])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    try:
        settings = Settings(threads, onboard.available(provider), dict(options))
        Timed(model.SerializeToString(), {"x": np.ones(1, np.float32)}, settings).seconds(1)
    except NoProvider as error:
        raise OptionError(str(error)) from error
    except _REFUSALS as error:
        given = "".join(f", {key}={value}" for key, value in options.items())
        reason = refusal(ir.from_proto(model), message(error))
        raise OptionError(f"ONNX Runtime cannot use the provider {provider}{given}: {reason}") from error
    return settings


def _checked(
    path: Path,
    file: Path,
    settings: Settings,
    batch: int | None,
    shapes: Mapping[str, tuple[int, ...]],
    feeds: Mapping[str, np.ndarray],
    seed: int,
) -> _Checked:
    """Write the model anew to `file`, and run that as it will be timed, once it has run within limits."""
    model = load(path)
    with _named(path, model):
        arrays = _tried(model, settings.provider, batch, shapes, feeds, seed)
        save(model, file)
        try:
            elsewhere = _elsewhere(file, arrays, settings)
        except _REFUSALS as error:
            raise ModelError(f"ONNX Runtime cannot run it: {message(error)}") from error
    return _Checked(path, file, arrays, elsewhere)


def _elsewhere(file: Path, feeds: Mapping[str, np.ndarray], settings: Settings) -> int:
    """Run the model as it will be timed; return how many nodes another provider runs. Raises OptionError for all."""
    if settings.provider == CPU:  # which runs whatever is run at all
        Timed(file, feeds, settings).seconds(1)
        return 0
    kernels = Timed(file, feeds, settings, profile=True).kernels(1)
    elsewhere = sum(kernel.provider != settings.provider for kernel in kernels)
    if kernels and elsewhere == len(kernels):
        raise OptionError(f"{settings.provider} runs no node of it: ONNX Runtime left them all to another provider")
    return elsewhere


def _timed(models: Sequence[_Checked], settings: Settings, duration_s: float, longest_s: float, seed: int) -> _Times:
    """Time the models until the ratios are precise, or the time is over.

    Where in memory a session happens to lie makes it some tenths of a percent faster or slower for as long as it
    lives. So models that are compared are opened several times, and again whenever it goes on.
    """
    began = time.perf_counter()
    sessions = _sessions(models, settings)
    runs = [onboard.runs_per_turn(each) for each in sessions]
    opening = time.perf_counter() - began
    least, most = SITTINGS if len(models) > 1 else (1, 1)
    sittings = int(np.clip(OPENING * duration_s / opening, least, most))
    end = time.perf_counter() + longest_s
    parts: list[Rounds] = []
    while True:
        for _ in range(sittings):
            if parts:
                sessions = _sessions(models, settings, backwards=len(parts) % 2 == 1)
                for each in sessions:
                    onboard.warm_up(each, duration_s / sittings)
            parts.append(onboard.timed_rounds(sessions, runs, duration_s / sittings))
        ratios = [
            median_ratio([part.undisturbed_ms[:, [i, 0]] for part in parts], seed=seed) for i in range(len(models))
        ]
        rounds = Rounds(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        times = _Times(rounds, runs, ratios)
        if times.precise or time.perf_counter() >= end:
            return times


def _sessions(models: Sequence[_Checked], settings: Settings, backwards: bool = False) -> list[Timed]:
    """Open all models, from the last to the first if `backwards`: who comes first gets other places in memory."""
    step = -1 if backwards else 1
    return [Timed(model.file, model.feeds, settings) for model in models[::step]][::step]


def _latency(model: _Checked, taken: _Times, number: int, settings: Settings, memory: bool, profile: bool) -> Latency:
    times = taken.rounds.wall_ms[:, number]
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(
        model=str(model.path),
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
        memory_bytes=_memory(model, settings) if memory else None,
        kernels=_kernels(model, settings, p50) if profile else (),
    )


def _samples(feeds: Mapping[str, np.ndarray]) -> int:
    """Return how many samples a run takes, by the first input."""
    first = next(iter(feeds.values()), np.zeros(()))
    return int(first.shape[0]) if first.ndim else 1


def _memory(model: _Checked, settings: Settings) -> int | None:
    try:
        return memory_bytes(model.file, model.feeds, settings)
    except (RuntimeError, OSError):
        return None  # as where the system does not tell: the times are worth more than this figure


def _kernels(model: _Checked, settings: Settings, p50_ms: float) -> tuple[Kernel, ...]:
    runs = int(np.clip(1e3 * PROFILE_S / p50_ms, *PROFILE_RUNS))
    return Timed(model.file, model.feeds, settings, profile=True).kernels(runs)


@contextmanager
def _named(path: Path, model: ir.Model) -> Iterator[None]:
    """Watch what is done with a model; what is wrong with it is said with the name of its file."""
    try:
        with watched(weight_bytes(model)):
            yield
    except (ModelError, OptionError) as error:
        raise type(error)(f"{path}: {error}") from error


def _tried(
    model: ir.Model,
    provider: str,
    batch: int | None,
    shapes: Mapping[str, tuple[int, ...]],
    feeds: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Return arrays to run the model with, after one run within limits: nobody has run it here yet."""
    trial = session(model, optimise=False, providers=[provider], limited=True)
    generator = np.random.default_rng(seed)
    arrays = {
        spec.name: np.asarray(feeds[spec.name], order="C")
        if spec.name in feeds
        else input_array(spec, batch, shapes, generator)
        for spec in trial.get_inputs()
    }
    if unknown := sorted(set(shapes) - set(arrays)):
        raise OptionError(f"no input {unknown[0]!r} to give a shape to; it has {', '.join(arrays)}")
    run_limited(trial, arrays)
    return arrays
