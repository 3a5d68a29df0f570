"""Do the data lie where the model expects them? The first BatchNormalization remembers.

It holds the mean μ and variance σ² that its input had, channel by channel, when the model was trained. With the right
preprocessing the data at hand have nearly the same ones; with the range or the mean wrong they are far off.
"""

import numpy as np
import onnx_ir as ir

from calibrate.source import Source
from graph.runtime import run, session

SAMPLES = 16  # thousands of positions each
FAR = 4.0  # ratio of variances, or its inverse; data sets of natural images stay within 2
FAR_MEAN = 4.0  # standard deviations


def range_warning(model: ir.Model, source: Source, batch: int | None = None) -> str | None:
    """Return a sentence if the data are far from what the model was trained on, None if not or if nobody can tell.

    `model` is the one that the user gave, before BatchNormalization is fused. Told are models that keep it, with
    statistics that are not all 0 and 1; compared are medians over its channels. `batch` is how many samples the
    model takes at a time, None where that is free.
    """
    node = next((node for node in model.graph if node.op_type == "BatchNormalization"), None)
    if node is None or node.inputs[0] is None:
        return None
    mean, variance = (_constant(value) for value in node.inputs[3:5])
    if mean is None or variance is None or (not mean.any() and (variance == 1).all()):
        return None
    name = str(node.inputs[0].name)
    opened = session(model, outputs=[name])
    values = np.concatenate([run(opened, source.batch(indices))[0] for indices in _batches(batch, len(source))])
    rows = np.moveaxis(values.astype(np.float64), 1, -1).reshape(-1, len(mean))
    used = variance > 1e-3 * variance.max()  # dead channels say nothing
    spread = float(np.median(rows.var(0)[used] / variance[used]))
    shift = float(np.median(np.abs(rows.mean(0) - mean)[used] / np.sqrt(variance[used])))
    if 1 / FAR < spread < FAR and shift < FAR_MEAN:
        return None
    return (
        f"the data are far from what the model was trained on: at {node.name or name} the variance is {spread:.2g}"
        f" times, and the mean {shift:.2g} standard deviations from, what it expects; check --preprocess"
    )


def _batches(batch: int | None, available: int) -> list[np.ndarray]:
    """Return about SAMPLES indices, spread over the source, in batches as large as the model insists on."""
    indices = np.linspace(0, available - 1, min(max(SAMPLES, batch or 1), available)).astype(np.int64)
    return [indices] if batch is None else np.split(indices[: len(indices) // batch * batch], len(indices) // batch)


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().astype(np.float64)
