"""How the relevance of a node's output is dealt out to its inputs: one rule per kind of operator.

Layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140, eq. 60) as FRS uses it (arXiv
2002.09958, α = 2, β = 1). With z_ij = x_i·w_ij and z_j⁺, z_j⁻ the sums of what is positive and negative in output j,

    linear       R_i = Σ_j ( α·z_ij⁺ / z_j⁺ − β·z_ij⁻ / z_j⁻ )·R_j    Conv, ConvTranspose, Gemm, MatMul by a weight
    sum          R_k = |x_k| / Σ |x|·R            of the operands of Add, Sub, Sum, Mean; constants get nothing
    proportion   R_i = Σ_j |x_i|·a_ij / Σ_i |x_i|·a_ij·R_j      average pooling and other means with weights a ≥ 0
    route        R_i = Σ of R_j over the outputs j that are a copy of i         movement, maximum
    pass on      R_i = R_i         whatever has one input and keeps its shape: activations, normalisations, Softmax …
    dividend     R of what is divided = R            Div, as in normalisations: a divisor is a scale, and gets nothing
    gradient     R_i = c·x_i·∂y_j/∂x_i / y_j·R_j     anything else (products of activations); c so that the sum is kept

All keep Σ R of a sample. For the linear rule biases get nothing, and where an output has no positive (negative) part
the other takes all. Relevance ends in an output that nothing flows into, in a pad, and in a constant of a Concat.

A node that runs in ONNX Runtime has no gradient: where one value goes in and keeps its shape, relevance is passed on,
sums are shared out as above, and else it stops there (`Stopped`); no rule is made up for loops, branches and the like.

The sums over j are products with the transposed operator: the vector-Jacobian product of the step itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graph.bridge import Step

ALPHA, BETA = 2.0, 1.0
_TINY = 1e-30  # shares of operands that are all 0 are equal
_NO_WAY = "relevance does not pass through {} in ONNX Runtime"


@dataclass(frozen=True)
class Call:
    """One step as it ran: its arguments, which of them are activations, its outputs, and the relevance of these.

    `relevance` has None for an output that has none.
    """

    step: Step
    args: Sequence[Tensor | None]
    flows: Sequence[int]
    relevance: Sequence[Tensor | None]


class Stopped(Exception):
    """A node through which relevance cannot be followed; the message says why."""


Rule = Callable[[Call], Sequence[Tensor]]
RULES: dict[str, Rule] = {}


def deal(call: Call) -> Sequence[Tensor]:
    """Return the relevance of each activation that the step reads, in the order of `flows`; raises Stopped."""
    rule = RULES.get(call.step.op_type)
    if rule is None:
        rule = pass_on if _keeps_shape(call) else gradient
    elif call.step.fallback and rule not in (total, dividend):
        raise Stopped(_NO_WAY.format(call.step.op_type))
    return rule(call)


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            if op_type in RULES:
                raise ValueError(f"{op_type} has two rules")
            RULES[op_type] = rule
        return rule

    return register


@_rule("Conv", "ConvTranspose", "Gemm", "MatMul")
def linear(call: Call) -> Sequence[Tensor]:
    """The α-β rule; a product of two activations goes by the gradient."""
    if len(call.flows) != 1 or call.flows[0] > 1:
        return gradient(call)
    at = call.flows[0]
    x, w = call.args[at], call.args[1 - at]
    (r,) = call.relevance
    assert x is not None and w is not None and r is not None
    rest = [None if arg is None else torch.zeros_like(arg) for arg in call.args[2:]]
    x_parts = [part for part in (x.clamp(min=0), x.clamp(max=0)) if bool(part.any())]
    w_parts = {1: w.detach().clamp(min=0), -1: w.detach().clamp(max=0)}

    def contributions(sign: int) -> tuple[list[Tensor], Tensor]:
        """Return the parts of x, and the sum of all products with that sign."""
        parts = [part.detach().requires_grad_() for part in x_parts]
        total = torch.zeros_like(r)
        for part in parts:
            factor = w_parts[sign if bool((part > 0).any()) else -sign]
            pair = [part, factor] if at == 0 else [factor, part]
            total = total + call.step.module(*pair, *rest)
        return parts, total

    with torch.enable_grad():
        above, below = contributions(1), contributions(-1)
        has = {1: above[1].detach() > 0, -1: below[1].detach() < 0}
        result = torch.zeros_like(x)
        for sign, (parts, total), both in ((1, above, ALPHA), (-1, below, -BETA)):
            share = torch.where(has[sign], torch.where(has[-sign], both, 1.0), 0.0)
            seed = share * r / torch.where(has[sign], total.detach(), 1.0)
            if parts:
                for part, slope in zip(parts, torch.autograd.grad(total, parts, seed), strict=True):
                    result += part.detach() * slope
    return [result]


@_rule("Add", "Sub", "Sum", "Mean")
def total(call: Call) -> Sequence[Tensor]:
    """To the operands in proportion to their size."""
    (r,) = call.relevance
    assert r is not None
    sizes = [(x.abs() + _TINY).expand_as(r) for x in _activations(call)]
    whole = torch.stack(sizes).sum(0)
    return [(r * size / whole).sum_to_size(x.shape) for size, x in zip(sizes, _activations(call), strict=True)]


@_rule("Div")
def dividend(call: Call) -> Sequence[Tensor]:
    """To what is divided; to the divisor only where the dividend is a constant."""
    (r,) = call.relevance
    assert r is not None
    return [r.sum_to_size(x.shape) if at == call.flows[0] else torch.zeros_like(x) for at, x in _flowing(call)]


@_rule("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Resize", "Upsample")
def proportion(call: Call) -> Sequence[Tensor]:
    """To the inputs of a mean, or of an interpolation, in proportion to their size."""
    sizes = {i: x.abs() + _TINY for i, x in zip(call.flows, _activations(call), strict=True)}
    args = [sizes.get(i, arg) for i, arg in enumerate(call.args)]

    def seeds(outputs: Sequence[Tensor]) -> list[Tensor | None]:
        pairs = zip(outputs, call.relevance, strict=False)
        # cubic interpolation has negative weights; what they leave negative stops here
        return [None if r is None else torch.where(y > 0, r / y.clamp(min=_TINY * 1e-6), 0.0) for y, r in pairs]

    return [size * slope for size, slope in zip(sizes.values(), _back(call, args, seeds), strict=True)]


@_rule(
    *("Cast", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("Identity", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose"),
    *("Unsqueeze", "GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin"),
)
def route(call: Call) -> Sequence[Tensor]:
    """To where each number came from."""
    return _back(call, call.args, lambda outputs: call.relevance)


def pass_on(call: Call) -> Sequence[Tensor]:
    """To the same place."""
    (r,) = [r for r in call.relevance if r is not None]
    return [r]


def gradient(call: Call) -> Sequence[Tensor]:
    """By gradient × input, scaled so that each sample keeps its sum."""

    def seeds(outputs: Sequence[Tensor]) -> list[Tensor | None]:
        pairs = zip(outputs, call.relevance, strict=False)
        return [None if r is None else torch.where(y != 0, r / torch.where(y != 0, y, 1.0), 0.0) for y, r in pairs]

    inputs = _activations(call)
    found = [x * slope for x, slope in zip(inputs, _back(call, call.args, seeds), strict=True)]
    given = [r for r in call.relevance if r is not None]
    samples = len(given[0]) if given[0].ndim else 0
    if not samples or any(not x.ndim or len(x) != samples for x in (*inputs, *given)):
        return found
    kept, wanted = _sums(found), _sums(given)
    # a sum that is little more than rounding says nothing about the scale, which for a product is one in its factors
    safe = kept.abs() > 0.01 * _sums([x.abs() for x in found])
    scale = torch.where(safe, wanted / torch.where(safe, kept, 1.0), 1 / len(inputs))
    return [x * scale.reshape(-1, *[1] * (x.ndim - 1)) for x in found]


def _sums(values: Sequence[Tensor]) -> Tensor:
    """Return the sum over all values of each sample."""
    return torch.stack([value.flatten(1).sum(1) if value.ndim > 1 else value for value in values]).sum(0)


def _activations(call: Call) -> list[Tensor]:
    return [x for _, x in _flowing(call)]


def _flowing(call: Call) -> list[tuple[int, Tensor]]:
    return [(i, x) for i, x in ((i, call.args[i]) for i in call.flows) if x is not None]


def _keeps_shape(call: Call) -> bool:
    given = [r for r in call.relevance if r is not None]
    return len(call.flows) == 1 and len(given) == 1 and _activations(call)[0].shape == given[0].shape


def _back(
    call: Call, args: Sequence[Tensor | None], seeds: Callable[[Sequence[Tensor]], Sequence[Tensor | None]]
) -> Sequence[Tensor]:
    """Return the product of the seeds with the step's Jacobian, for each activation."""
    if call.step.fallback:
        raise Stopped(_NO_WAY.format(call.step.op_type))
    with torch.enable_grad():
        ready = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
        flows = [x.requires_grad_() for x in (ready[i] for i in call.flows) if x is not None]
        result = call.step.module(*ready)
        outputs = result if isinstance(result, tuple) else (result,)
        given = seeds([y.detach() for y in outputs])
        pairs = [(y, r) for y, r in zip(outputs, given, strict=False) if r is not None and y.requires_grad]
        if not pairs:
            raise Stopped(f"{call.step.op_type} has no gradient")
        ys, rs = zip(*pairs, strict=True)
        return torch.autograd.grad(ys, flows, rs, allow_unused=True, materialize_grads=True)
