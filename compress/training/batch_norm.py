"""BatchNormalization as it is while a network is trained: by the statistics of the batch, which move the stored ones.

    y = (x − m) ÷ √(v + ε) · scale + bias        m = mean(x), v = mean((x − m)²), over samples and positions
    stored m ← stored m + (m − stored m) · share,   and likewise v, in its unbiased form as torch has it

The batch is that of all processes together, so that several of them compute what one would.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from calibrate.forward import Env
from graph.bridge import TorchModel
from graph.errors import ModelError

if TYPE_CHECKING:
    from compress.training.network import Network

USUAL_MOMENTUM = 0.9  # ONNX's default


@dataclass(frozen=True)
class BatchNorm:
    """A BatchNormalization node in training; `mean` and `variance` name its stored statistics.

    `share` is how far these move towards those of a batch: one less ONNX's momentum.
    """

    node: str
    mean: str
    variance: str
    epsilon: float
    share: float

    def __call__(
        self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, share: float | None = None
    ) -> Tensor:
        """Return the normalised x (N×C×…), and move `mean` and `variance` (in place) by a `share`, else by its own.

        Raises ModelError where there is one number per channel, which has no variance.
        """
        share = self.share if share is None else share
        if processes() > 1:
            return self._over_all(x, scale, bias, mean, variance, share)
        if x.numel() == x.shape[1]:
            raise ModelError(
                f"BatchNormalization {self.node} sees {list(x.shape)}, one number per channel, which has no "
                "variance to train with: train with more samples per step"
            )
        return F.batch_norm(x, mean, variance, scale, bias, True, share, self.epsilon)

    def _over_all(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, share: float) -> Tensor:
        """Normalise by statistics over all processes: the mean first, so that the variance does not cancel out."""
        others = [0, *range(2, x.dim())]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums: Tensor = _Sum.apply(torch.cat([wide.sum(others), wide.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        m = sums[:-1] / count
        centred = wide - m.reshape(shape)
        v: Tensor = _Sum.apply(centred.square().sum(others)) / count
        with torch.no_grad():
            mean.lerp_(m, share)
            variance.lerp_(v * (count / (count - 1)), share)
        factor = scale * (v + self.epsilon).rsqrt()
        return (centred * factor.reshape(shape) + bias.reshape(shape)).to(x.dtype)


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def batch_norms(torch_model: TorchModel, model: ir.Model) -> dict[str, BatchNorm]:
    """Return the BatchNormalization nodes that can be trained, by the name of their output.

    Those that run in ONNX Runtime, or whose statistics are computed, stay as they are.
    """
    nodes = {str(node.outputs[0].name): node for node in model.graph if node.op_type == "BatchNormalization"}
    found = {}
    for step in torch_model.steps:
        if step.node not in nodes or step.fallback or step.constants:
            continue
        mean, variance = step.inputs[3:5]
        if not {mean, variance} <= torch_model.parameters.keys():
            continue
        attributes = nodes[step.node].attributes
        momentum = attributes.get_float("momentum", USUAL_MOMENTUM)
        if not 0 <= momentum < 1:  # the statistics would never follow the weights
            momentum = USUAL_MOMENTUM
        epsilon = attributes.get_float("epsilon", 1e-5)
        found[step.node] = BatchNorm(step.node, mean, variance, epsilon, 1 - momentum)
    return found


def estimate(network: "Network", batches: Iterable[Env]) -> None:
    """Make the network's stored statistics those of the batches (inputs by name): of each the mean over all of them."""
    if not network.norms:
        return
    with torch.no_grad():
        for number, inputs in enumerate(batches, 1):
            network.run(inputs, training=True, share=1 / number)


class _Sum(torch.autograd.Function):
    """The sum over all processes of a tensor; the gradient of what all of them make of it is a sum as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return the sum."""
        return _added(value.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return _added(gradient.clone(memory_format=torch.contiguous_format))


def _added(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value
