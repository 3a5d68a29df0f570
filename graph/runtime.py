"""ONNX Runtime sessions of models in memory."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graph.errors import ModelError
from graph.model import INLINE_BYTES, load, weight_bytes

_STATE = ort.capi.onnxruntime_pybind11_state
# every exception that ONNX Runtime raises; they have no common base of their own
RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(_STATE).values() if isinstance(kind, type) and issubclass(kind, Exception)
)

# 3 = errors only: warnings about a user's odd initializers are not ours to print
_LOG_SEVERITY = 3


def session(
    model: ir.Model | str | os.PathLike[str],
    *,
    optimise: bool = True,
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    outputs: Sequence[str] | None = None,
) -> ort.InferenceSession:
    """Return a session of the model.

    `threads` is the number of intra-op threads (0: ONNX Runtime chooses); `outputs` names values to expose instead
    of the graph's outputs. A file is read by our loader first, so that ONNX Runtime only ever sees a model of our
    own writing. Raises `ModelError` where ONNX Runtime cannot run it.
    """
    if not isinstance(model, ir.Model):
        model = load(model)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_SEVERITY
    options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
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
        raise ModelError(f"ONNX Runtime cannot run the model: {message(error)}") from error


def run(
    session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Run a session, turning ONNX Runtime's exceptions into `ModelError`."""
    try:
        results: list[np.ndarray] = session.run(outputs, dict(feeds))
    except RUNTIME_ERRORS as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {message(error)}") from error
    return results


def message(error: BaseException) -> str:
    """Return ONNX Runtime's message on one line, without the path into its own source."""
    return " ".join(str(error).split())


def _expose(proto: onnx.ModelProto, outputs: Sequence[str] | None) -> None:
    if outputs is None:
        return
    declared = {output.name: output for output in proto.graph.output}
    del proto.graph.output[:]
    # a bare name is enough: ONNX Runtime infers the type
    proto.graph.output.extend(declared.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
