"""What ONNX Runtime computes for every value of the model: types to build on, and the truth to compare with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from graph.errors import ModelError
from graph.runtime import RUNTIME_ERRORS, message, session


@dataclass(frozen=True)
class Reference:
    """Types (in ONNX Runtime's words) and values by name, of the inputs and of all node outputs."""

    kinds: Mapping[str, str]
    values: Mapping[str, Any]

    @property
    def ranks(self) -> dict[str, int]:
        """The ranks of the values that are tensors."""
        return {name: value.ndim for name, value in self.values.items() if isinstance(value, np.ndarray)}


def real_inputs(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the inputs that are not initializers, in the model's order."""
    return tuple(str(value.name) for value in model.graph.inputs if value.name not in model.graph.initializers)


def refer(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> Reference:
    """Run the model once in ONNX Runtime, unoptimised, with every value exposed.

    At most two samples are run, which bounds the memory, and exactly two where the batch is dynamic, so that
    a conversion that holds for one batch size only is seen. Raises ModelError where ONNX Runtime cannot run it.
    """
    missing = [name for name in real_inputs(model) if name not in feeds]
    if missing:
        raise ModelError(f"no value was given for input {missing[0]}; the inputs are {', '.join(real_inputs(model))}")
    # sequences (lists) and absent optionals go in as they are
    feeds = {n: f if isinstance(f := feeds[n], list) or f is None else np.asarray(f) for n in real_inputs(model)}
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    runner = session(model, optimise=False, threads=0, outputs=names)
    kinds = {item.name: item.type for item in (*runner.get_inputs(), *runner.get_outputs())}
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4  # a run that fails is raised, or repeated below
    pair = _two_samples(model, feeds)
    for batch in (pair, feeds) if pair is not None else (feeds,):
        try:
            results = runner.run(names, batch, quiet)
            return Reference(kinds, {**batch, **dict(zip(names, results, strict=True))})
        except RUNTIME_ERRORS as error:
            reason = message(error)
        except (ValueError, TypeError, RuntimeError) as error:  # feeds of a wrong type, values that numpy cannot hold
            reason = message(error)
    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
    shapes = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in arrays.items())
    raise ModelError(f"ONNX Runtime cannot run the model on {shapes}: {reason}")


def _two_samples(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the feeds with two unlike samples, or None where the inputs have no dynamic batch in common."""
    dynamic = {
        value.name
        for value in model.graph.inputs
        if isinstance(feeds.get(str(value.name)), np.ndarray)
        and (value.shape is None or (len(value.shape) and not isinstance(value.shape[0], int)))
    }
    sizes = {feeds[name].shape[0] for name in dynamic if name is not None and feeds[name].ndim}
    if not dynamic or len(sizes) != 1 or sizes == {0}:
        return None
    return {name: _pair(value) if name in dynamic and value.ndim else value for name, value in feeds.items()}


def _pair(value: np.ndarray) -> np.ndarray:
    # The mirror image is unlike the image, and as good an input (indices stay valid).
    return value[:2] if len(value) > 1 else np.concatenate([value, value[..., ::-1]])
