"""ONNX Runtime sessions of models in memory."""

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graph import guard
from graph.errors import ModelError
from graph.model import INLINE_BYTES, load, weight_bytes
from graph.refusal import refusal

_STATE = ort.capi.onnxruntime_pybind11_state
# every exception that ONNX Runtime raises; they have no common base of their own
RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(_STATE).values() if isinstance(kind, type) and issubclass(kind, Exception)
)

# the same, with what it raises for arrays that it does not take
_REFUSALS: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, RuntimeError, ValueError)

# 4 = nothing but crashes: warnings about a user's odd initializers are not ours to print, and errors reach us as
# exceptions
_LOG_SEVERITY = 4
_LONGEST_MESSAGE = 2000  # characters; what is searched for in messages takes the square of that
ort.set_default_logger_severity(_LOG_SEVERITY)  # of what has no session of its own: allocators, for one


def session(
    model: ir.Model | str | os.PathLike[str],
    *,
    optimise: bool = True,
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    outputs: Sequence[str] | None = None,
    limited: bool = False,
) -> ort.InferenceSession:
    """Return a session of the model.

    `threads` is the number of intra-op threads (0: ONNX Runtime chooses); `outputs` names values to expose instead
    of the graph's outputs. A `limited` one is for a model that nobody has run yet: its memory ends at
    `guard.MOST_BYTES` beyond the weights. A file is read by our loader first, so that ONNX Runtime only ever sees a
    model of our own writing. Raises `ModelError` where ONNX Runtime cannot run it.
    """
    if not isinstance(model, ir.Model):
        model = load(model)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_SEVERITY
    options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not limited:
        return open_session(model, options, providers, outputs)
    own_bytes = weight_bytes(model)
    _limit_memory(guard.MOST_BYTES + 2 * own_bytes)
    options.add_session_config_entry("session.use_env_allocators", "1")
    with guard.watched(own_bytes):
        return open_session(model, options, providers, outputs)


def open_session(
    model: ir.Model, options: ort.SessionOptions, providers: Sequence[str], outputs: Sequence[str] | None = None
) -> ort.InferenceSession:
    """Return a session with options of one's own; the model is written by us, whatever file it came from."""
    try:
        if weight_bytes(model) <= INLINE_BYTES:
            proto = ir.to_proto(model)
            _expose(proto, outputs)
            return ort.InferenceSession(proto.SerializeToString(), options, providers=list(providers))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            proto = onnx.load(path, load_external_data=False)
            _expose(proto, outputs)
            path.write_bytes(proto.SerializeToString())
            return ort.InferenceSession(str(path), options, providers=list(providers))
    except RUNTIME_ERRORS as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {refusal(model, message(error))}") from error


def run(
    session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Run a session, turning ONNX Runtime's exceptions into `ModelError`."""
    options = ort.RunOptions()
    options.log_severity_level = _LOG_SEVERITY
    try:
        results: list[np.ndarray] = session.run(outputs, dict(feeds), options)
    except _REFUSALS as error:  # RuntimeError for outputs of types that numpy does not have
        raise ModelError(f"ONNX Runtime cannot run the model: {message(error)}") from error
    return results


def run_limited(
    session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> list[ort.OrtValue]:
    """Run a `limited` session, for at most `guard.LONGEST_RUN_S`; the results are where ONNX Runtime put them.

    Raises `ModelError`, also where a limit is passed.
    """
    options = ort.RunOptions()
    options.log_severity_level = _LOG_SEVERITY
    # what a run leaves unused goes back to the system
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    names = [output.name for output in session.get_outputs()] if outputs is None else list(outputs)
    try:
        given = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        with guard.watched(), _terminated_late(options):
            results: list[ort.OrtValue] = session.run_with_ort_values(names, given, options)
    except _REFUSALS as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {_limit(message(error))}") from error
    return results


def run_node(node: ir.Node, feeds: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """Run one node of ONNX's own operators on arrays by the names of what it reads; absent outputs are left out."""
    names = [str(value.name) for value in node.outputs if value.name]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in feeds.items()]
    graph = onnx.helper.make_graph(
        [ir.to_proto(node)], "node", [], [onnx.ValueInfoProto(name=name) for name in names], constants
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return run(session(ir.from_proto(model), optimise=False, threads=1), {})


def message(error: BaseException) -> str:
    """Return ONNX Runtime's message on one line, or the beginning of it: it may quote names of any length."""
    return " ".join(str(error)[:_LONGEST_MESSAGE].split())


def _limit_memory(most: int) -> None:
    """Give the limited sessions made from now on an allocator that they share and that ends at `most` bytes."""
    arena = ort.OrtArenaCfg(
        {"max_mem": most, "arena_extend_strategy": 1, "initial_chunk_size_bytes": 2**16, "max_dead_bytes_per_chunk": -1}
    )
    kind, where = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, where), arena)


@contextmanager
def _terminated_late(options: ort.RunOptions) -> Iterator[None]:
    """Tell a run to stop, after the node it is at, when its time is over."""
    timer = threading.Timer(guard.LONGEST_RUN_S, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _limit(complaint: str) -> str:
    """Say it in our own words where a limit of ours was the reason."""
    where = re.search(r"while running (\w+) node\. Name:'([^']*)'", complaint)
    node = f" at {where[1]} {where[2]}".rstrip() if where else ""
    if "terminate flag" in complaint:
        return f"it was stopped after {guard.LONGEST_RUN_S:.0f} s{node}"
    if "Available memory of" in complaint or "Failed to allocate memory" in complaint:
        asked = re.search(r"requested b(?:ytes of|uffer of size) (\d+)", complaint)
        wanted = f" asks for {int(asked[1]):,} bytes, which" if asked else ""
        return f"it{wanted} would take more than {guard.MOST_BYTES:,} bytes of memory{node}"
    return complaint


def _expose(proto: onnx.ModelProto, outputs: Sequence[str] | None) -> None:
    if outputs is None:
        return
    declared = {output.name: output for output in proto.graph.output}
    del proto.graph.output[:]
    # a bare name is enough: ONNX Runtime infers the type
    proto.graph.output.extend(declared.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
