"""Which channels another tool kept, read from its weights, and whether its model is the original without the others.

A tool that only slices weights leaves every kept number as it was. Trained weights hardly ever hold the same number
twice, so nearly every number of a sliced weight tells the place that it was taken from:

    sliced[j₀, j₁, …] = original[k₀[j₀], k₁[j₁], …]        for one index list k per axis

Index lists that fit every number of every sliced weight are found, or the model is not a slice of the original.
The original with zeros in its consumers' weights at the channels that are gone (the input axes of Conv,
ConvTranspose, Gemm and MatMul; producers and biases stay whole) must then compute what the sliced model computes.
This takes nothing from the tool's own account of what it removed, and finds a producer and a consumer that
were sliced differently: their sums differ.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, numpy_helper

TOLERANCE = 1e-3  # of an output's magnitude: that of our own law (graph/law.py)
SMALLEST_MAGNITUDE = 1e-3
_GROUPED = frozenset({"Conv", "ConvTranspose", "FusedConv"})
# these take a weight that mixes channels, or one number per channel, which needs no mask
_KNOWN = _GROUPED | {"Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "PRelu", "BatchNormalization", "Constant"}


class NotASlice(Exception):
    """A weight of the pruned model holds numbers that the original's does not, or at places that fit no slice."""


def verdict(original: ModelProto, pruned: ModelProto, feeds: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Return ("equal" | "broken" | "not decidable", a sentence) for a model pruned by slicing alone."""
    try:
        got = run(pruned, feeds)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return "broken", f"does not run: {_line(error)}"
    try:
        masked, doubtful = mask(original, pruned)
    except NotASlice as error:
        return "broken", str(error)
    off, moved = (largest(got, run(model, feeds)) for model in (masked, original))
    if moved <= TOLERANCE:
        return "not decidable", f"on these inputs pruning moves the outputs by {moved:.1e} of their magnitude only"
    if off <= TOLERANCE:
        return "equal", f"largest difference {off:.1e} of an output's magnitude"
    if doubtful:
        return "not decidable", f"differs by {off:.1e}, but what was kept is not certain from {doubtful[0]}"
    return "broken", f"differs from its masked original by {off:.1e} of an output's magnitude"


def mask(original: ModelProto, pruned: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return the original that ignores the removed channels, and the weights that leave doubt about them:
    numbers that occur more than once, or an operator that is not known here.

    Raises NotASlice.
    """
    masked, doubtful = ModelProto(), []
    masked.CopyFrom(original)
    before, after = constants(masked), constants(pruned)
    groups = {node.input[1]: _group(node) for node in pruned.graph.node if node.op_type in _GROUPED}
    for name in before.keys() & after.keys():
        whole, part = (numpy_helper.to_array(tensors[name]) for tensors in (before, after))
        if whole.shape == part.shape:
            if whole.dtype.kind == "f" and not np.array_equal(whole, part, equal_nan=True):
                raise NotASlice(f"{name} has other numbers than in the original")
            continue
        if _unknown(original, name):
            doubtful.append(name)
        zeroed = whole.copy()
        for group, axis in _uses(original, name, groups) or [(1, None)]:
            pairs = zip(np.split(zeroed, group), np.split(whole, group), np.split(part, group), strict=True)
            for block, a, b in pairs:
                kept, chosen = kept_indices(a, b, name)
                if axis is not None:
                    np.moveaxis(block, axis, 0)[np.setdiff1d(np.arange(a.shape[axis]), kept[axis])] = 0
                    doubtful += [name] if chosen else []
        before[name].CopyFrom(numpy_helper.from_array(zeroed, before[name].name))
    return masked, doubtful


def constants(model: ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers and the values of Constant nodes of the main graph, which can be changed in place."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def kept_indices(whole: np.ndarray, part: np.ndarray, name: str) -> tuple[list[np.ndarray], bool]:
    """Return k₀, k₁, … with part = whole[k₀][:, k₁]…, and whether any was chosen among equals. Raises NotASlice."""
    if whole.ndim != part.ndim:
        raise NotASlice(f"{name} has shape {part.shape}, its original {whole.shape}")
    values, first, counts = np.unique(whole, return_index=True, return_counts=True)
    telling, places = values[counts == 1], first[counts == 1]
    at = np.minimum(np.searchsorted(telling, part.ravel()), max(len(telling) - 1, 0))
    told = telling[at] == part.ravel() if len(telling) else np.zeros(part.size, bool)
    source = np.unravel_index(places[at[told]], whole.shape)
    target = np.unravel_index(np.flatnonzero(told), part.shape)
    kept, doubtful = [], False
    for axis, size in enumerate(part.shape):
        if size == whole.shape[axis]:
            kept.append(np.arange(size))
            continue
        found = np.full(size, -1)
        found[target[axis]] = source[axis]
        if not np.array_equal(found[target[axis]], source[axis]):
            raise NotASlice(f"{name} {part.shape} takes numbers of one channel from several of its original's")
        doubtful |= bool((found < 0).any())
        kept.append(_filled(found, whole.shape[axis]))
    if not np.array_equal(whole[np.ix_(*kept)], part):
        if doubtful:
            return kept, True
        raise NotASlice(f"{name} {part.shape} is not a slice of its original {whole.shape}")
    return kept, doubtful


def run(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model in ONNX Runtime on one thread, unoptimised."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: list[np.ndarray] = session.run(None, dict(feeds))
    return result


def largest(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Return the largest difference over the outputs."""
    return max((difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return max |a − b| ÷ max |b| over the finite elements; infinite for other shapes, integers or NaN places."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if b.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    scale = max(float(np.abs(b[finite]).max(initial=0.0)), SMALLEST_MAGNITUDE)
    return float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0.0)) / scale


def _filled(found: np.ndarray, size: int) -> np.ndarray:
    """Give each channel that no number told (all zeros, say) the next free place after its neighbour's."""
    taken, last = set(found.tolist()), -1
    for place, index in enumerate(found.tolist()):
        if index < 0:
            index = next((i for i in range(last + 1, size) if i not in taken), -1)
            if index < 0:
                index = next(i for i in range(size) if i not in taken)
            taken.add(index)
            found[place] = index
        last = index
    return found


def _uses(model: ModelProto, name: str, groups_after: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return (groups, input axis) for every use of the constant as the weight of a node that mixes channels."""
    uses = []
    for node in model.graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        axis = {
            ("Conv", 1): 1,
            ("FusedConv", 1): 1,
            ("ConvTranspose", 1): 0,
            ("Gemm", 1): 1 if attributes.get("transB") else 0,
            ("MatMul", 1): -2,
            ("MatMul", 0): -1,
        }
        for place, value in enumerate(node.input):
            group = _group(node) if node.op_type in ("Conv", "FusedConv") else 1
            # a convolution that lost whole groups (a depthwise one) lost outputs, and no input of a group that it has
            if value == name and (node.op_type, place) in axis and (group == 1 or groups_after.get(name) == group):
                uses.append((group, axis[node.op_type, place]))
    return uses


def _unknown(model: ModelProto, name: str) -> bool:
    """Whether an operator reads the constant of which this file does not know how it uses channels."""
    return any(name in node.input and node.op_type not in _KNOWN for node in model.graph.node)


def _group(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
