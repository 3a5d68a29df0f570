"""How long models take in ONNX Runtime, beside each other: the front end of `compress/timing.py` for any files.

Needs no torch. A file is read, checked and run once within limits before it is timed, and ONNX Runtime only ever sees
a model of our own writing. How the times are taken is described in `onboard` and `timing`, what becomes of them in
`statistics`.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from compress import onboard
from compress.bench_inputs import input_array
from compress.bench_there import latencies_there
from compress.errors import OptionError
from compress.onboard import NoProvider, Settings, Timed
from compress.remote import Host
from compress.statistics import UNSTABLE_ABOVE
from compress.timing import Effort, Subject, latencies, nodes_elsewhere
from compress.timing import Environment as Environment
from compress.timing import Latency as Latency
from graph.errors import ModelError
from graph.guard import watched
from graph.model import load, save, weight_bytes
from graph.refusal import refusal
from graph.runtime import RUNTIME_ERRORS, message, run_limited, session

# what ONNX Runtime raises for a model or for options that it does not take
_REFUSALS: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, RuntimeError, ValueError)


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
    host: Host | None = None,
) -> tuple[Latency, ...]:
    """Time the models in turn for `duration_s` seconds altogether (20 rounds at least); one Latency per path.

    Where the interval of a ratio is not within ±0.5 % by then, it goes on until it is, or for about `longest_s`. A free
    first dimension is `batch` (1), free height and width are 224, a free length is 512; `shapes` by input name
    overrules all. `feeds` are arrays by input name to run with instead of made up ones, for models that do not take
    any numbers. `provider` is the short name of one that this ONNX Runtime has (cpu, cuda, …). `memory` and `profile`
    measure these, too, after the times. With a `host` the models are timed there, once they have run here on the CPU.
    Raises ModelError for a model that ONNX Runtime does not load or run, OptionError for anything asked wrongly.
    """
    if threads < 1 or duration_s <= 0 or (batch is not None and batch < 1):
        raise OptionError(f"{threads=}, {duration_s=}, {batch=}: each must be above 0")
    if not paths:
        raise OptionError("nothing to time: give at least one model")
    settings = _settings(threads, provider, provider_options or {}) if host is None else Settings()
    effort = Effort(duration_s, longest_s, memory, profile, seed)
    with tempfile.TemporaryDirectory() as folder:
        subjects = [
            _checked(path, Path(folder) / f"{number}.onnx", settings, batch, shapes or {}, feeds or {}, seed)
            for number, path in enumerate(paths)
        ]
        if host is not None:
            return latencies_there(host, subjects, Settings(threads, provider, provider_options or {}), effort)
        return latencies(subjects, settings, effort)


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
) -> Subject:
    """Write the model anew to `file`, and run that as it will be timed, once it has run within limits."""
    model = load(path)
    with _named(path, model):
        arrays = _tried(model, settings.provider, batch, shapes, feeds, seed)
        save(model, file)
        try:
            elsewhere = nodes_elsewhere(file, arrays, settings)
        except NoProvider as error:
            raise OptionError(str(error)) from error
        except _REFUSALS as error:
            raise ModelError(f"ONNX Runtime cannot run it: {message(error)}") from error
    return Subject(str(path), file, arrays, elsewhere)


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
