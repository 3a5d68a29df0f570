"""Asymmetric compensation: every consumer of the pruned network, in topological order (METHOD §2).

The constants that removed branches left in sums are fitted as well, like consumers that have only a bias.

x comes from the network as pruned and repaired so far, the target from the original network; the two are walked
side by side. Consumers whose input merely carries the errors of earlier layers are refitted as well.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate.consumer import Consumer, find_consumers
from calibrate.forward import Env, drop, feed
from calibrate.source import Source, chunked
from calibrate.statistics import rows_wanted
from compress.frontier import Frontier
from compress.remainder import find_remainders
from compress.repair import Activation, Repair, Rows, repair
from compress.store import store
from compress.tail import Tail, find_tail
from graph.bridge import TorchModel
from graph.channels import Channels
from graph.plan import Plan

_MEMORY = 1 << 30  # bytes of activations held in memory; the rest goes to temporary files


def compensate(
    original: TorchModel,
    pruned: TorchModel,
    model: ir.Model,
    channels: Channels,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    source: Source,
    fit: np.ndarray,
    held: np.ndarray,
    *,
    chunk: int,
    seed: int,
    hold_out: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Repair]:
    """Refit the consumers of the pruned `model` (its torch form is `pruned`) and return what was done to each.

    The weights change in `pruned.parameters` and in the initializers of `model`. `channels`, `plan` and the names
    of values are those of the original network; `shapes` are the pruned model's. With `hold_out` the samples `held`
    choose how each is fitted and take no part in the fit.
    """
    removed = plan.removed(channels)
    tails = fitted(model, original, shapes)
    shared = _shared(model, list(tails))
    stages = [Stage.of(consumer, tail, original, pruned, shapes) for consumer, tail in tails.items()]
    stages.sort(key=lambda stage: stage.pruned_end)
    repairs = []
    parts = [(part, True) for part in chunked(fit, chunk)] + [(part, False) for part in chunked(held, chunk)]
    with torch.inference_mode(), Frontier(_MEMORY) as frontier:
        for i, (part, _) in enumerate(parts):
            env = feed(original, source, part)
            frontier.put(i, "original", env)
            frontier.put(i, "pruned", dict(env))
        walkers = (Walker(original, [s.target for s in stages]), Walker(pruned, [s.consumer.x for s in stages]))
        for number, stage in enumerate(stages):
            generator = torch.Generator().manual_seed(seed + number)
            rows: dict[bool, list[Rows]] = {True: [], False: []}
            counts = {True: len(fit), False: len(held)}
            for walker, position in zip(walkers, (stage.original_end, stage.pruned_end), strict=True):
                walker.aim(position, number)
            for i, (_, is_fit) in enumerate(parts):
                before, now = frontier.take(i, "original", original.device), frontier.take(i, "pruned", pruned.device)
                walkers[0].run(before)
                walkers[1].run(now)
                if not stage.names & shared:
                    rows[is_fit].append(
                        _rows(stage, before, now, channels, removed, counts[is_fit], is_fit, pruned, generator)
                    )
                walkers[0].prune(before)
                walkers[1].prune(now)
                frontier.put(i, "original", before)
                frontier.put(i, "pruned", now)
            if names := stage.names & shared:
                note = f"its weight {min(names)} is shared by several nodes; the plain slice was kept"
                repairs.append(Repair(stage.consumer.node, 0.0, 0.0, None, 0, note))
            else:
                given, apart = _join(rows[True]), _join(rows[False] or rows[True])
                repairs.append(_apply(stage, given, apart, pruned, model, hold_out))
            advance()
    return repairs


def fitted(model: ir.Model, original: TorchModel, shapes: dict[str, tuple[int, ...]]) -> dict[Consumer, Tail]:
    """Return what is fitted in the pruned `model`, with what follows it: consumers, and constants left of branches."""
    made = {name for step in original.steps for name in step.outputs}
    nodes = {step.node for step in original.steps}
    consumers = {c: find_tail(model, c) for c in find_consumers(model, shapes) if c.node in nodes}
    return {**consumers, **find_remainders(model, made)}


class Stage:
    """One consumer, its tail, and how far each network must have run before it can be fitted."""

    def __init__(self, consumer: Consumer, tail: Tail, target: str, original_end: int, pruned_end: int) -> None:
        """Keep what is given, and the names of the parameters that the stage changes."""
        self.consumer, self.tail, self.target = consumer, tail, target
        self.original_end, self.pruned_end = original_end, pruned_end
        self.names = {consumer.weight} | ({consumer.bias} if consumer.bias else set())

    @classmethod
    def of(
        cls,
        consumer: Consumer,
        tail: Tail,
        original: TorchModel,
        pruned: TorchModel,
        shapes: dict[str, tuple[int, ...]],
    ) -> "Stage":
        """Use the tail only where its end has the consumer's shape and the shortcut is computed before the consumer."""
        made = {name: i for i, step in enumerate(pruned.steps) for name in step.outputs}
        pruned_end = made[consumer.node]
        if tail.shortcut is not None and made.get(tail.shortcut, -1) >= pruned_end:
            tail = Tail(consumer.y)
        original_made = {name: i for i, step in enumerate(original.steps) for name in step.outputs}
        if tail.target not in original_made or shapes[tail.target] != shapes[consumer.y]:
            tail = Tail(consumer.y)
        return cls(consumer, tail, tail.target, original_made[tail.target] + 1, pruned_end)


class Walker:
    """Advances one network's environments from stage to stage, keeping what later stages need."""

    def __init__(self, model: TorchModel, wanted: Sequence[str]) -> None:
        """Start before the first step; `wanted` is the value that each stage reads."""
        self.model, self.wanted = model, wanted
        self.position = self.end = 0
        self.keep: set[str] = set()
        self.steps = model.steps

    def aim(self, end: int, stage: int) -> None:
        """Set the step to stop before, and what must survive it."""
        self.position, self.end = self.end, max(self.end, end)
        self.keep = set(self.wanted[stage:])
        for step in self.steps[self.end :]:
            self.keep.update(step.inputs)

    def run(self, env: Env) -> None:
        """Run the steps of this stage on one environment."""
        self.model.run(env, self.steps[self.position : self.end])

    def prune(self, env: Env) -> None:
        """Drop what no later stage reads."""
        drop(env, self.keep)


def _rows(
    stage: Stage,
    before: Env,
    now: Env,
    channels: Channels,
    removed: frozenset[int],
    samples: int,
    is_fit: bool,
    pruned: TorchModel,
    generator: torch.Generator,
) -> Rows:
    consumer, tail = stage.consumer, stage.tail
    x = now[consumer.x]
    t = _kept(before[tail.target], tail.target, channels, removed)
    columns = pruned.parameters[consumer.weight].numel() // max(t.shape[1 if consumer.window else -1], 1)
    wanted = rows_wanted(columns + 1, consumer.groups)
    positions = consumer.positions(t, -(-wanted // (samples if is_fit else samples * 4)), generator)
    shortcut = None
    if tail.shortcut is not None:
        shortcut = consumer.targets(now[tail.shortcut].expand_as(t), positions).contiguous()
    return Rows(consumer.rows(x, t.shape, positions), consumer.targets(t, positions), shortcut)


def _kept(value: Tensor, name: str, channels: Channels, removed: frozenset[int]) -> Tensor:
    """Return the value of the original network without the channels that the plan removes."""
    labels = channels.values[name]
    if labels.axis is None:
        return value
    kept = np.flatnonzero(~np.isin(labels.ids, list(removed)))
    return value.index_select(labels.axis, torch.as_tensor(kept, device=value.device))


def _join(rows: list[Rows]) -> Rows:
    shortcuts = [r.s for r in rows if r.s is not None]
    return Rows(
        torch.cat([r.x for r in rows], dim=1),
        torch.cat([r.t for r in rows], dim=1),
        torch.cat(shortcuts, dim=1) if shortcuts else None,
    )


def _apply(stage: Stage, fit: Rows, held: Rows, pruned: TorchModel, model: ir.Model, hold_out: bool) -> Repair:
    consumer, tail = stage.consumer, stage.tail
    weight = pruned.parameters[consumer.weight]
    bias = pruned.parameters[consumer.bias] if consumer.bias else None
    prior = consumer.matrix(weight, bias)

    def per_output(values: np.ndarray | None) -> Tensor | None:
        if values is None:
            return None
        return torch.as_tensor(values, dtype=weight.dtype, device=weight.device).reshape(consumer.groups, 1, -1)

    activation = Activation(per_output(tail.scale), per_output(tail.shift), tail.low, tail.high)
    if bias is None:  # no bias to fit: leave the constant column out of the problem
        fit, held = (Rows(torch.cat([r.x[..., :-1], 0 * r.x[..., -1:]], dim=2), r.t, r.s) for r in (fit, held))
    w, record = repair(consumer.node, fit, held, activation, prior, hold_out=hold_out)
    if record.ridge is not None:
        new_weight, new_bias = consumer.tensors(w, weight)
        store(consumer.weight, new_weight, pruned, model)
        if consumer.bias:
            store(consumer.bias, new_bias.reshape(pruned.parameters[consumer.bias].shape), pruned, model)
    return record


def _shared(model: ir.Model, consumers: Sequence[Consumer]) -> set[str]:
    """Return the weights and biases' owners that more than one node reads."""
    names = {c.weight for c in consumers} | {c.bias for c in consumers if c.bias}
    return {str(v.name) for v in model.graph.initializers.values() if v.name in names and len(list(v.uses())) > 1}
