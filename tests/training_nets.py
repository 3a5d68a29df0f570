"""Small networks with BatchNormalization, and how the tests of training run them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.distributed as dist
from small_graphs import build
from torch import Tensor

from compress.training.network import Network, State
from compress.training.optimiser import Optimiser
from graph.analysis import Analysis, analyse
from graph.inputs import example_inputs
from graph.plan import Plan
from graph.runtime import session

# a block with a shortcut, in which `w3` makes a channel group of its own that may go altogether
RESIDUAL = """(float[N,3,8,8] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] scale1, float[8] bias1, float[8] mean1, float[8] var1,
    float[6,8,3,3] w2, float[6] b2, float[6] scale2, float[6] bias2, float[6] mean2, float[6] var2,
    float[8,6,3,3] w3, float[8] scale3, float[8] bias3, float[8] mean3, float[8] var3,
    float[8,5] w4, float[5] b4
> {
    c1 = Conv <pads = [1,1,1,1]> (x, w1)
    n1 = BatchNormalization <momentum = 0.75> (c1, scale1, bias1, mean1, var1)
    r1 = Relu (n1)
    c2 = Conv <pads = [1,1,1,1]> (r1, w2, b2)
    n2 = BatchNormalization <epsilon = 0.01> (c2, scale2, bias2, mean2, var2)
    r2 = Relu (n2)
    c3 = Conv <pads = [1,1,1,1]> (r2, w3)
    n3 = BatchNormalization (c3, scale3, bias3, mean3, var3)
    s = Add (n3, r1)
    r3 = Relu (s)
    p = GlobalAveragePool (r3)
    f = Flatten (p)
    m = MatMul (f, w4)
    y = Add (m, b4)
}"""
BATCH = 12


def residual(text: str = RESIDUAL) -> Analysis:
    return analyse(build(text), keep_batchnorm=True)


def samples(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1, (number, 3, 8, 8)).astype(np.float32)


def whole(analysis: Analysis) -> Network:
    return Network.of(analysis.model, example_inputs(analysis.model))


def cut(analysis: Analysis, plan: Plan, state: State) -> Network:
    return Network.cut(analysis.model, analysis.channels, plan, state, example_inputs(analysis.model))


def without(network: Network, analysis: Analysis, before: Plan, after: Plan) -> Network:
    return network.without(analysis.model, analysis.channels, before, after, example_inputs(analysis.model))


def loss(outputs: dict[str, Tensor]) -> Tensor:
    """Something that depends on every output in another way."""
    y = outputs["y"]
    return (y.square() * torch.arange(1, y.shape[1] + 1)).sum() / BATCH


def train(network: Network, optimiser: Optimiser, batches: range) -> None:
    for number in batches:
        inputs = {"x": torch.from_numpy(samples(BATCH, number))}
        optimiser.backward(loss(network.run(inputs, training=True)))
        optimiser.step(0.01)


def runtime(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(session(model, optimise=False).run(["y"], {"x": x})[0])


@contextmanager
def one_of_several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of processes that has one, and normalises as if there were more."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    monkeypatch.setattr("compress.training.batch_norm.processes", lambda: 2)
    yield
    dist.destroy_process_group()
