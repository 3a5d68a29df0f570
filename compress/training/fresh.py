"""New weights in the place of those in the file (--from-scratch).

    Conv, ConvTranspose      normal, variance 2 ÷ fan out       He et al. 2015 (arXiv 1502.01852, equation 14)
    Gemm, MatMul             normal, variance 2 ÷ fan in        (equation 10)
    biases                   0
    norms                    scale 1, bias 0; mean 0, variance 1
    PRelu                    0.25

The fan out of a convolution is that of one group: how many outputs an input goes to.
"""

from math import prod

import numpy as np
import onnx_ir as ir

from compress.training.network import Network

SLOPE = 0.25  # of PRelu
_NORMS = {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}


def fresh(network: Network, seed: int) -> None:
    """Draw the weights of a network anew, in place; the same seed draws the same."""
    generator, state = np.random.default_rng(seed), network.state()
    for name in network.leaves:
        node, index = next(iter(network.model.graph.initializers[name].uses()))
        state[name] = _drawn(node, index, state[name].shape, generator).astype(state[name].dtype)
    for norm in network.norms.values():
        state[norm.mean], state[norm.variance] = np.zeros_like(state[norm.mean]), np.ones_like(state[norm.variance])
    network.load(state)


def _drawn(node: ir.Node, index: int, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return a new weight for an input of a node."""
    fan = _fan(node, index, shape)
    if fan:
        return generator.normal(0, np.sqrt(2 / fan), shape)
    if node.op_type == "PRelu":
        return np.full(shape, SLOPE)
    return np.ones(shape) if node.op_type in _NORMS and index == 1 else np.zeros(shape)


def _fan(node: ir.Node, index: int, shape: tuple[int, ...]) -> int:
    """Return the fan of a matrix or kernel, by which its variance goes; 0 for another weight."""
    if node.op_type == "Conv" and index == 1:
        return shape[0] // node.attributes.get_int("group", 1) * prod(shape[2:])
    if node.op_type == "ConvTranspose" and index == 1:
        return prod(shape[1:])
    if node.op_type == "Gemm" and index < 2:
        flipped = node.attributes.get_int("transB" if index else "transA", 0)
        return shape[index if flipped else 1 - index]
    if node.op_type == "MatMul":
        return shape[-1] if index == 0 or len(shape) == 1 else shape[-2]
    return 0
