"""The weights of a pruned network in the form in which gradient descent moves them.

A layer y = Wᵀx learns as fast as the directions of its inputs are alike in size; behind a Relu they are not, by
factors of thousands. So the leaf of a layer is V, in coordinates in which the inputs are white:

    W = S^(-1/2) · V,    S = Σ x xᵀ ÷ n + λ·mean(diag)·I

and a step that changes V by a share of its size changes the layer's output by about that share, in every layer of
every network: one learning rate fits all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate import gram
from calibrate.consumer import Consumer, find_consumers
from calibrate.forward import Env
from calibrate.moments import Moments
from calibrate.source import Source
from calibrate.statistics import collect
from graph.bridge import TorchModel

DAMPING = 1e-2  # λ
WIDEST = 2304  # columns of a layer whose inputs are whitened; the root of the matrix takes their cube
SAMPLES = 128  # that the statistics are of

# The inputs that hold weights. Statistics (of BatchNormalization) and other constants stay what they are.
WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
}


@dataclass(frozen=True)
class Plain:
    """A weight that moves in its own coordinates."""

    name: str
    leaf: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that the leaf makes."""
        return (self.name,)

    def weights(self) -> Env:
        """Return the parameter by name."""
        return {self.name: self.leaf}


@dataclass(frozen=True)
class White:
    """The weight of a layer, and its bias if it has one, in coordinates in which its inputs are white.

    `leaf` is V and `root` is S^(-1/2), both per group and in float32; `like` is the weight itself, for its layout.
    """

    consumer: Consumer
    leaf: Tensor
    root: Tensor
    like: Tensor
    bias: Tensor | None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that the leaf makes."""
        return (self.consumer.weight, self.consumer.bias) if self.consumer.bias else (self.consumer.weight,)

    def weights(self) -> Env:
        """Return weight and bias by name, as functions of the leaf."""
        w = self.root @ self.leaf
        if self.bias is None:
            w = torch.cat([w, torch.zeros_like(w[:, :1])], dim=1)
        weight, bias = self.consumer.tensors(w, self.like)
        if weight.dim() == 4:  # as the bridge lays weights out, which convolutions follow
            weight = weight.contiguous(memory_format=torch.channels_last)
        found = {self.consumer.weight: weight}
        if self.consumer.bias and self.bias is not None:
            found[self.consumer.bias] = bias.reshape(self.bias.shape)
        return found


Part = Plain | White


class Student:
    """A network's weights as leaves; what they make goes before the parameters in `TorchModel.run`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Take the parts, whose names must not overlap."""
        self.parts = tuple(parts)

    @classmethod
    def of(
        cls,
        pruned: TorchModel,
        model: ir.Model,
        shapes: dict[str, tuple[int, ...]],
        source: Source,
        fit: np.ndarray,
        *,
        chunk: int,
        seed: int,
    ) -> "Student":
        """Make a leaf of every weight of the model; those of layers are whitened on samples of `fit`."""
        free = trainable(pruned, model)
        uses = {name: len(list(model.graph.initializers[name].uses())) for name in free}
        consumers = [c for c in find_consumers(model, shapes) if _whitens(c, pruned, uses)]
        few = fit[: max(chunk, SAMPLES // chunk * chunk)]
        moments = collect(pruned, consumers, source, few, chunk=chunk, seed=seed)
        white = [_white(c, moments[c.node], pruned) for c in consumers if c.node in moments]
        done = {name for part in white for name in part.names}
        plain = [Plain(name, _leaf(pruned.parameters[name])) for name in sorted(free - done)]
        return cls([*white, *plain])

    def weights(self) -> Env:
        """Return all parameters that the leaves make, by name."""
        return {name: value for part in self.parts for name, value in part.weights().items()}

    def groups(self, rate: float) -> list[dict[str, object]]:
        """Return the parameter groups of an optimiser whose steps are shares of the size of what they move."""
        return [{"params": [part.leaf], "lr": rate * _size(part.leaf)} for part in self.parts]

    def moving(self) -> "Student":
        """Return the student without the leaves that the last backward pass did not reach."""
        return Student([part for part in self.parts if part.leaf.grad is not None])


def trainable(pruned: TorchModel, model: ir.Model) -> set[str]:
    """Return the initializers that hold weights, in the sense of WEIGHTS or as the bias in an Add behind a MatMul."""
    held = {name for step in pruned.steps for name in step.constants}
    products = {step.outputs[0] for step in pruned.steps if step.op_type == "MatMul"}
    found = set()
    for step in pruned.steps:
        places = WEIGHTS.get(step.op_type, ())
        if step.op_type == "Add" and products & set(step.inputs):
            places = (0, 1)
        found |= {step.inputs[place] for place in places if place < len(step.inputs)}
    return {
        name
        for name in found - held
        if name in model.graph.initializers
        and name in pruned.parameters
        and pruned.parameters[name].is_floating_point()
    }


def _whitens(consumer: Consumer, pruned: TorchModel, uses: dict[str, int]) -> bool:
    """Whether a layer's weight and bias are its own, and its inputs few enough."""
    names = {consumer.weight} | ({consumer.bias} if consumer.bias else set())
    if any(uses.get(name) != 1 for name in names):
        return False
    matrix = consumer.matrix(pruned.parameters[consumer.weight], None)
    return matrix.shape[1] <= WIDEST


def _white(consumer: Consumer, moments: Moments, pruned: TorchModel) -> White:
    weight = pruned.parameters[consumer.weight]
    bias = pruned.parameters[consumer.bias] if consumer.bias else None
    s, w = gram.matrix(moments.xx) / moments.n, consumer.matrix(weight, bias)
    if bias is None:
        s, w = s[:, :-1, :-1], w[:, :-1]
    values, q = torch.linalg.eigh(s)
    size = values.clamp_min(0) + DAMPING * s.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).clamp_min(1e-12)
    root = (q * size[:, None] ** -0.5) @ q.mT
    v = (q * size[:, None] ** 0.5) @ q.mT @ w
    return White(consumer, _leaf(v.to(weight.dtype)), root.to(weight.dtype), weight.detach(), bias)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def _size(leaf: Tensor) -> float:
    """Return the root mean square of a leaf; one that is zero has no size of its own, and gets a small one."""
    return float(leaf.detach().square().mean().sqrt()) or 1e-2
