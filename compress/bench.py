"""How long a model takes in ONNX Runtime, and how that compares: models are timed in turn, A B A B.

Needs no torch, so that it runs on the board that will run the model. What is done so that the figures hold: the
number of threads is set and reported, operators run one after another, every model is warmed up until its times
settle, threads of an idle session sleep instead of spinning beside the one that is timed, and a model of
microseconds is run several times per round. Inputs and outputs stay on the device.
"""

import math
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from compress.errors import OptionError
from compress.statistics import UNSTABLE_ABOVE, Ratio, ratio_of_medians, settled, variation
from graph.errors import ModelError
from graph.guard import MOST_INPUT_BYTES, watched
from graph.model import load, weight_bytes
from graph.runtime import open_session, run_limited, session

FREE_SIDE = 224
FREE_LENGTH = 512
LEAST_ROUNDS = 20
LONGEST_WARM_UP = 200
SHORTEST_ROUND_S = 0.002

_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
_ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@dataclass(frozen=True)
class Environment:
    """What a latency depends on besides the model."""

    onnxruntime: str
    provider: str
    threads: int
    cpu: str
    optimisation: str
    execution: str
    spinning: bool
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Latency:
    """The time of one run of one model, in milliseconds, over `rounds` rounds of `runs_per_round` runs each.

    A round's time is the mean of its runs. `ratio` is to the first model of the same bench (1 for itself);
    `variation` is the coefficient of variation of the rounds.
    """

    model: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    rounds: int
    runs_per_round: int
    variation: float
    ratio: Ratio
    environment: Environment

    @property
    def unstable(self) -> bool:
        """Whether the rounds vary too much (above 2.5 %) to believe small differences."""
        return self.variation > UNSTABLE_ABOVE


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
    duration_s: float = 5.0,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[Latency, ...]:
    """Time the models in turn for `duration_s` seconds altogether (20 rounds at least); one Latency per path.

    A free first dimension is `batch` (1), free height and width are 224, a free length is 512; `shapes` by
    input name overrules all. `feeds` are arrays by input name to run with instead of made up ones, for models
    that do not take any numbers. `provider` is the short name of one that this ONNX Runtime has (cpu, cuda, …).
    Raises ModelError for a model that ONNX Runtime does not load or run, OptionError for anything asked wrongly.
    """
    if threads < 1 or duration_s <= 0 or (batch is not None and batch < 1):
        raise OptionError(f"{threads=}, {duration_s=}, {batch=}: each must be above 0")
    if not paths:
        raise OptionError("nothing to time: give at least one model")
    execution_provider = _provider(provider)
    models = [_Timed(path, threads, execution_provider, batch, shapes or {}, feeds or {}, seed) for path in paths]
    runs = [max(1, round(SHORTEST_ROUND_S / _warm_up(model))) for model in models]
    times = _rounds(models, runs, duration_s)
    return tuple(_latency(model, times[:, i], times[:, 0], runs[i], seed) for i, model in enumerate(models))


class _Timed:
    """A session with its inputs and outputs bound to the device."""

    def __init__(
        self,
        path: Path,
        threads: int,
        provider: str,
        batch: int | None,
        shapes: Mapping[str, tuple[int, ...]],
        feeds: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        self.path = path
        model = load(path)
        device = "cuda" if provider in _ON_CUDA else "cpu"
        with _named(path, model):
            arrays = _tried(model, provider, batch, shapes, feeds, seed)
            self._session = _session(model, threads, provider)
        self._binding = self._session.io_binding()
        for name, array in arrays.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, device, 0)
        self.environment = Environment(
            onnxruntime=ort.__version__,
            provider=provider,
            threads=threads,
            cpu=cpu_model(),
            optimisation="all",
            execution="sequential",
            spinning=False,
            shapes={name: array.shape for name, array in arrays.items()},
        )
        try:
            self.seconds(1)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise ModelError(f"{path}: ONNX Runtime cannot run it: {_first_line(error)}") from error

    def seconds(self, runs: int) -> float:
        """Return the seconds per run, over `runs` runs in a row."""
        start = time.perf_counter()
        for _ in range(runs):
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return (time.perf_counter() - start) / runs


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
        else _input(spec, batch, shapes, generator)
        for spec in trial.get_inputs()
    }
    if unknown := sorted(set(shapes) - set(arrays)):
        raise OptionError(f"no input {unknown[0]!r} to give a shape to; it has {', '.join(arrays)}")
    run_limited(trial, arrays)
    return arrays


def _session(model: ir.Model, threads: int, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    opened = open_session(model, options, [provider])
    if opened.get_providers()[0] != provider:
        raise OptionError(f"ONNX Runtime fell back from {provider} to {opened.get_providers()[0]}")
    return opened


def _provider(name: str) -> str:
    available = {each.removesuffix("ExecutionProvider").lower(): each for each in ort.get_available_providers()}
    if name.lower() not in available:
        raise OptionError(f"provider {name!r} is not in this ONNX Runtime: it has {', '.join(sorted(available))}")
    return str(available[name.lower()])


def _input(
    spec: ort.NodeArg, batch: int | None, shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator
) -> np.ndarray:
    """Return numbers in 0…1 for an input of floats, 0…255 for bytes, else zeros (indices must stay in range)."""
    if spec.type not in _DTYPES:
        raise ModelError(f"input {spec.name!r} is {spec.type}: only tensors of numbers can be made up")
    shape, dtype = input_shape(spec.name, spec.shape, batch, shapes), np.dtype(_DTYPES[spec.type])
    if math.prod(shape) * dtype.itemsize > MOST_INPUT_BYTES:
        raise ModelError(f"input {spec.name!r} of shape {_written(shape)} takes more than {MOST_INPUT_BYTES:,} bytes")
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, dtype)


def input_shape(
    name: str, declared: Sequence[int | str | None], batch: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the shape to run an input with: what was given for it, else what is declared with the free parts filled.

    A free first dimension is `batch` (1 by default), any other 224 in an input of four dimensions (a height or
    width), else 512 (a length). Raises OptionError for a shape or batch that contradicts the declared one.
    """
    fixed = [size if isinstance(size, int) and size > 0 else None for size in declared]
    if name in shapes:
        given = shapes[name]
        if len(given) != len(fixed) or any(f not in (None, g) for f, g in zip(fixed, given, strict=True)):
            raise OptionError(f"input {name!r} has the shape {_written(declared)}; it cannot be {_written(given)}")
        return given
    if fixed and batch is not None and fixed[0] not in (None, batch):
        raise OptionError(f"input {name!r} has the fixed shape {_written(declared)}; it cannot run batches of {batch}")
    side = FREE_SIDE if len(fixed) == 4 else FREE_LENGTH
    return tuple(size or (side if axis else batch or 1) for axis, size in enumerate(fixed))


def _written(shape: Sequence[int | str | None]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape) or "scalar"


def _warm_up(model: _Timed) -> float:
    """Run until the times settle; return the median seconds of the last runs."""
    times: list[float] = []
    while not settled(times) and len(times) < LONGEST_WARM_UP:
        times.append(model.seconds(1))
    return float(np.median(times[-5:]))


def _rounds(models: Sequence[_Timed], runs: Sequence[int], duration_s: float) -> np.ndarray:
    """Return rounds × models in milliseconds per run."""
    rows: list[list[float]] = []
    end = time.perf_counter() + duration_s
    while len(rows) < LEAST_ROUNDS or time.perf_counter() < end:
        rows.append([1e3 * model.seconds(count) for model, count in zip(models, runs, strict=True)])
    return np.array(rows)


def _latency(model: _Timed, times: np.ndarray, reference: np.ndarray, runs: int, seed: int) -> Latency:
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(
        model=str(model.path),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times.mean()),
        min_ms=float(times.min()),
        rounds=len(times),
        runs_per_round=runs,
        variation=variation(times),
        ratio=ratio_of_medians(times, reference, seed=seed),
        environment=model.environment,
    )


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []  # not Linux
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
