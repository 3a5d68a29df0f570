"""The asymmetric fit of `compensate` in small, for trials: few rows of few images, one ridge, no repetitions.

    W = argmin Σ |t − s − Wᵀx|² + λ·|W − W₀|²

with x and the shortcut s of the network as it is tried, the target t of the original network, and W₀ what symmetric
compensation gives. Without it trials mislead a search: on ResNet-56 evolution lowered the divergence after symmetric
compensation alone by 28 %, and the network that came out of the real compensation was worse than before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate import gram
from calibrate.consumer import Consumer, find_consumers
from calibrate.forward import Env, walk
from calibrate.least_squares import Factor, SingularSystem
from compress.compensate import Stage
from compress.tail import Tail, find_tail
from graph.bridge import TorchModel
from graph.channels import Axis, Channels

RIDGE = 0.1
POSITIONS = 24  # rows per image


@dataclass(frozen=True)
class Aim:
    """What one consumer should put out: the value t at the end of its tail in the original network, by chunk of images.

    `positions` are those of the rows, `shape` that of the output; `ids` are the labels of the weight's input axis.
    """

    consumer: Consumer
    tail: Tail
    shape: tuple[int, ...]
    ids: np.ndarray
    positions: Tensor
    targets: tuple[Tensor, ...]


def find_aims(
    original: ir.Model,
    model: TorchModel,
    channels: Channels,
    shapes: Mapping[str, tuple[int, ...]],
    starts: Sequence[Env],
) -> dict[int, Aim]:
    """Run the original network on chunks of images; return the aim of each consumer, by the position of its step."""
    if not starts:
        return {}
    known = dict(shapes)
    made = {step.node for step in model.steps}
    consumers = [c for c in find_consumers(original, known) if c.node in made]
    uses = {c.weight: 0 for c in consumers}
    for c in consumers:
        uses[c.weight] += 1
    stages = [Stage.of(c, find_tail(original, c), model, model, known) for c in consumers if uses[c.weight] == 1]
    stages = [stage for stage in stages if stage.tail.scale is None]
    generator = torch.Generator().manual_seed(0)
    positions: dict[str, Tensor] = {}
    targets: dict[str, list[Tensor]] = {stage.consumer.node: [] for stage in stages}
    for start in starts:
        env = dict(start)
        for i, _ in enumerate(walk(model, env)):
            for stage in stages:
                if stage.original_end == i + 1:
                    node, value = stage.consumer.node, env[stage.target]
                    if node not in positions:
                        positions[node] = stage.consumer.positions(value, POSITIONS, generator)
                    targets[node].append(stage.consumer.targets(value, positions[node]).contiguous())
    return {
        stage.pruned_end: Aim(
            stage.consumer,
            stage.tail,
            shapes[stage.consumer.y],
            channels.labels.get(Axis(stage.consumer.weight, stage.consumer.input_axis), np.zeros(0, int)),
            positions[stage.consumer.node],
            tuple(targets[stage.consumer.node]),
        )
        for stage in stages
    }


def refitted(aim: Aim, envs: Sequence[Env], gone: np.ndarray, model: TorchModel) -> dict[str, Tensor]:
    """Return the consumer's parameters fitted to its aim; `envs`, one per chunk, hold x, s and the weights W₀.

    The columns of the labels `gone`, whose weights are 0, stay so.
    """
    c = aim.consumer
    prior = envs[0].get(c.weight, model.parameters[c.weight])
    bias = envs[0].get(c.bias, model.parameters[c.bias]) if c.bias else None
    w = c.matrix(prior, bias)
    entries = None
    columns = torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
    if (cut := np.isin(aim.ids, gone)).any():
        entries = torch.as_tensor(np.flatnonzero(~cut), device=w.device)
        columns[c.columns(np.flatnonzero(cut))] = False
    x, t = (torch.cat(parts, dim=1) for parts in zip(*_rows(aim, envs, entries), strict=True))
    if bias is None:
        x[:, :, -1] = 0
    fitted = torch.zeros_like(w)
    try:
        # rows as they are where they are fewer than columns: a layer behind a Flatten has tens of thousands
        xx = x if gram.holds_rows(x) else (x.mT @ x).double()
        fitted[:, columns] = Factor.of(xx, RIDGE).solve((x.mT @ t).double(), w[:, columns])
    except SingularSystem:
        return {}  # what symmetric compensation gave remains
    weight, new_bias = c.tensors(fitted, prior)
    return {c.weight: weight} | ({c.bias: new_bias.reshape(model.parameters[c.bias].shape)} if c.bias else {})


def _rows(aim: Aim, envs: Sequence[Env], entries: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, by chunk, the rows of the input's `entries` (all: None), and what the consumer should make of them."""
    c, tail = aim.consumer, aim.tail
    for env, t in zip(envs, aim.targets, strict=True):
        if tail.shortcut is not None:
            shortcut = env[tail.shortcut]
            t = t - c.targets(shortcut.expand(len(shortcut), *aim.shape[1:]), aim.positions)
        x = env[c.x] if entries is None else c.inputs(env[c.x], entries)
        yield c.rows(x, (len(x), *aim.shape[1:]), aim.positions), t
