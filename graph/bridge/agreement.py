"""How far a torch result is from ONNX Runtime's, and how far it may be."""

from typing import Any

import numpy as np
import torch

from graph.bridge.values import to_numpy

# Largest difference that counts as agreement, relative to the largest magnitude of the output. Both sides
# round: a few units in the last place, times the square root of the number of terms of a long sum.
TOLERANCE = {"e": 5e-3, "f": 1e-4, "d": 1e-7, "F": 1e-4, "D": 1e-7}
# Below this magnitude outputs are what is left after cancellation, and are compared absolutely.
_FLOOR = 1e-6
# These have values of order one and are computed to the precision of one: ONNX Runtime's Sigmoid ends at -18.
_ORDER_ONE = frozenset({"Sigmoid", "Softmax", "Tanh", "Erf", "HardSigmoid", "Softplus", "Sin", "Cos"})


def floor_of(op_type: str) -> float:
    """Return the least magnitude to which differences of an operator's outputs are related."""
    return 1.0 if op_type in _ORDER_ONE else _FLOOR


def difference(got: Any, want: Any, floor: float = _FLOOR) -> float:
    """Return max |got - want| / max(max |want|, floor) over the finite elements.

    It is infinite for another shape or dtype, for integers, booleans or strings that are not equal, and for
    infinities and NaN at other places.
    """
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return float("inf")
        return max((difference(g, w, floor) for g, w in zip(got, want, strict=True)), default=0.0)
    want, got = np.asarray(want), np.asarray(to_numpy(got))
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.dtype.kind not in "fc":
        return 0.0 if np.array_equal(got, want) else float("inf")
    finite = np.isfinite(want)
    if finite.all() and np.isfinite(got).all():
        scale = np.abs(want).max(initial=0.0)
        return float(np.abs(got - want).max(initial=0.0) / max(float(scale), floor))
    if not np.array_equal(np.where(finite, 0, got), np.where(finite, 0, want), equal_nan=True):
        return float("inf")
    if not np.isfinite(got[finite]).all():
        return float("inf")
    return difference(np.where(finite, got, 0), np.where(finite, want, 0), floor)


def tolerance(want: Any) -> float:
    """Return the difference that counts as agreement for a value of this dtype; 0 for integers."""
    if isinstance(want, list):
        return max((tolerance(item) for item in want), default=0.0)
    return TOLERANCE.get(np.asarray(want).dtype.char, 0.0)


class full_precision:
    """While it is entered, CUDA computes float32 in float32: TensorFloat-32 would drown the comparison."""

    def __enter__(self) -> None:
        """Switch TensorFloat-32 off."""
        self.before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        """Restore what was set."""
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self.before
