"""The law: a shrunk model computes what the whole model computes whose consumers ignore the removed channels.

    run(shrink(G, plan)) == run(mask(G, plan))        and keeping everything is bit-identical

Both sides add the same products; what is gone contributes exact zeros. They differ only by the order in which
float sums are taken, which depends on the width. With unit roundoff u a sum of n terms moves by about u √n, and
every layer passes that on: for float32 (u = 6e-8), sums of some thousand terms and a hundred layers, some 1e-5 of the
output's magnitude. The tolerance of 1e-3 leaves room for ill-conditioned heads; a wrong channel moves outputs by
far more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graph.channels import Channels
from graph.errors import LawError, ModelError
from graph.plan import Plan
from graph.runtime import run, session
from graph.shrink import mask, shrink
from graph.widen import widened, widened_feeds

TOLERANCE = 1e-3  # of the largest magnitude in an output
# outputs smaller than this are compared with it: a saturated Sigmoid is a difference of numbers near 1, whose last
# bits (6e-8) are all that is left of its outputs near 0
SMALLEST_MAGNITUDE = 1e-3


@dataclass(frozen=True)
class LawReport:
    """The largest difference over all outputs, absolute and relative to the magnitude of its output."""

    largest_difference: float
    relative_difference: float


def check_law(
    model: ir.Model, channels: Channels, plan: Plan, feeds: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> LawReport:
    """Run the shrunk and the masked model on `feeds` in ONNX Runtime, unoptimised, and compare every output.

    Halves are widened to float32 first: their roundoff would hide a fault.

    Floats must agree within `tolerance` times the largest finite magnitude of the output (at least 1e-3), with NaN
    and infinities at the same places; integers, flags and strings must be equal, but that floats which were rounded
    last may lie one step apart. Raises `LawError` naming the first output that differs.
    """
    steps = [int(_is_rounded(output)) for output in model.graph.outputs]
    left = _outputs(shrink(model, channels, plan), feeds, "shrunk")
    right = _outputs(mask(model, channels, plan), feeds, "masked")
    names = [str(output.name) for output in model.graph.outputs]
    found = [_compare(*each, tolerance) for each in zip(names, left, right, steps, strict=True)]
    return LawReport(
        largest_difference=max((report.largest_difference for report in found), default=0.0),
        relative_difference=max((report.relative_difference for report in found), default=0.0),
    )


def _outputs(model: ir.Model, feeds: Mapping[str, np.ndarray], which: str) -> list[np.ndarray]:
    try:
        return run(session(widened(model), optimise=False), widened_feeds(feeds))
    except ModelError as error:
        raise LawError(f"the {which} model does not run: {error}") from error


def _is_rounded(output: ir.Value) -> bool:
    producer = output.producer()
    return producer is not None and producer.op_type in {"Cast", "QuantizeLinear"}


def _compare(name: str, shrunk: np.ndarray, masked: np.ndarray, steps: int, tolerance: float) -> LawReport:
    shrunk, masked = np.asarray(shrunk), np.asarray(masked)
    if shrunk.shape != masked.shape or shrunk.dtype != masked.dtype:
        raise LawError(
            f"output {name} has shape {shrunk.shape} and type {shrunk.dtype} when shrunk, "
            f"{masked.shape} and {masked.dtype} when masked"
        )
    if shrunk.dtype.kind != "f":
        is_integer = shrunk.dtype.kind in "iu"
        apart = np.abs(shrunk.astype(np.int64) - masked.astype(np.int64)) > steps if is_integer else shrunk != masked
        if apart.any():
            raise LawError(f"output {name} differs in {int(apart.sum())} of {shrunk.size} places")
        return LawReport(0.0, 0.0)
    finite = np.isfinite(masked)
    if not np.array_equal(np.where(finite, 0, masked), np.where(np.isfinite(shrunk), 0, shrunk), equal_nan=True):
        raise LawError(f"output {name} has NaN or infinities at different places when shrunk and when masked")
    if not finite.any():
        return LawReport(0.0, 0.0)
    a, b = shrunk[finite].astype(np.float64), masked[finite].astype(np.float64)
    largest, magnitude = float(np.abs(a - b).max()), float(np.abs(b).max())
    relative = largest / max(magnitude, SMALLEST_MAGNITUDE)
    if relative > tolerance:
        raise LawError(
            f"output {name} of the shrunk model differs from the masked one by {largest:.3g}, "
            f"{relative:.1e} of its magnitude {magnitude:.3g} (allowed: {tolerance:.0e})"
        )
    return LawReport(largest, relative)
