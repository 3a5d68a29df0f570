"""The asymmetric fit of `compensate` in small, for trials: few rows of few images, one ridge, no repetitions.

    W = argmin Σ |t − s − Wᵀx|² + λ·|W − W₀|²

with x and the shortcut s of the network as it is tried, the target t of the original network, and W₀ what symmetric
compensation gives. Without it trials mislead a search: on ResNet-56 evolution lowered the divergence after symmetric
compensation alone by 28 %, and the network that came out of the real compensation was worse than before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

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
    c, tail = aim.consumer, aim.tail
    prior = envs[0].get(c.weight, model.parameters[c.weight])
    bias = envs[0].get(c.bias, model.parameters[c.bias]) if c.bias else None
    w = c.matrix(prior, bias)
    entries = np.flatnonzero(np.isin(aim.ids, gone))
    columns = torch.as_tensor(c.columns(entries), device=prior.device) if len(entries) else None
    xx = w.new_zeros(w.shape[0], w.shape[1], w.shape[1])
    xy = torch.zeros_like(w)
    for env, t in zip(envs, aim.targets, strict=True):
        x = c.rows(env[c.x], (len(env[c.x]), *aim.shape[1:]), aim.positions)
        if columns is not None:
            x[:, :, columns] = 0
        if bias is None:
            x[:, :, -1] = 0
        if tail.shortcut is not None:
            shortcut = env[tail.shortcut]
            t = t - c.targets(shortcut.expand(len(shortcut), *aim.shape[1:]), aim.positions)
        xx += (x.mT @ x).double()
        xy += (x.mT @ t).double()
    try:
        if columns is not None and len(columns) == w.shape[1] - 1:  # a bias is all there is
            w = torch.cat([torch.zeros_like(w[:, :-1]), xy[:, -1:] / xx[:, -1:, -1:].clamp_min(1)], dim=1)
        else:
            w = Factor.of(xx, RIDGE).solve(xy, w)
    except SingularSystem:
        return {}  # what symmetric compensation gave remains
    weight, new_bias = c.tensors(w, prior)
    return {c.weight: weight} | ({c.bias: new_bias.reshape(model.parameters[c.bias].shape)} if c.bias else {})
