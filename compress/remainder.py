"""What a branch that is gone leaves behind: a constant in a sum, which is fitted like a layer that has only a bias."""

from collections.abc import Collection, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from calibrate.consumer import Consumer
from calibrate.rows import Window
from compress.tail import Tail, flat_sides


class Remainder(Consumer):
    """A constant (`weight`, and `bias` as well) that a node adds to the value `x`; `y` is the sum."""

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the constant as a float64 matrix (1, 1, K): a bias and nothing else."""
        return weight.detach().double().reshape(1, 1, -1)

    def tensors(self, matrix: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the constant, shaped like the given one, as weight and as bias."""
        constant = matrix.reshape(like.shape).to(like.dtype)
        return constant, constant

    def rows(self, x: Tensor, y_size: Sequence[int], positions: Tensor) -> Tensor:
        """Return the rows (1, B·P, 1), which hold a one and nothing else."""
        return torch.ones(1, x.shape[0] * len(positions), 1, dtype=x.dtype, device=x.device)


def find_remainders(model: ir.Model, made: Collection[str]) -> dict[Consumer, Tail]:
    """Return the constants that are added in the place of values that the original network makes, and their tails."""
    found: dict[Consumer, Tail] = {}
    for node in model.graph:
        operands = [value for value in node.inputs if value is not None]
        constants = [value for value in operands if value.is_initializer() and value.name in made]
        if node.op_type != "Add" or len(constants) != 1 or constants[0].const_value is None:
            continue
        (constant,), (x,) = constants, [value for value in operands if value is not constants[0]]
        shape = constants[0].const_value.shape.numpy()
        long = [axis for axis, size in enumerate(shape) if size > 1]
        if len(long) != 1 or long[0] not in (1, len(shape) - 1) or x.is_initializer():
            continue
        y, places = str(node.outputs[0].name), len(shape) - 2
        ones = (1,) * places
        window = Window(ones, ones, (0,) * places, ones) if long[0] == 1 and places else None
        name = str(constant.name)
        low, high = flat_sides(node.outputs[0])
        found[Remainder(y, "Add", str(x.name), y, name, name, window)] = Tail(y, str(x.name), None, None, low, high)
    return found
