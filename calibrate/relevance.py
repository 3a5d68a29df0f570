"""Layer-wise relevance propagation through any network: how much of its answer flows back through every channel.

The network runs forward once; from the relevance of its outputs, the steps are gone through backwards, and each deals
out what its output was given to its inputs by the rule of its kind (`calibrate.relevance_rules`). Relevance starts
as the one-hot class (FRS, arXiv 2002.09958 §3), which for an unlabelled image is the one that the network predicts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from calibrate.forward import Env, feed
from calibrate.relevance_rules import Call, Stopped, deal
from calibrate.source import Source, chunked
from graph.bridge import TorchModel


def channel_relevance(
    model: TorchModel,
    source: Source,
    indices: np.ndarray,
    axes: Mapping[str, int],
    *,
    chunk: int,
    stopped: Callable[[str, str], None] = lambda node, reason: None,
) -> dict[str, np.ndarray]:
    """Return the relevance along an axis of each value: mean over positions, over a class's images, over classes.

    `axes` maps values to axes. What is left out was not computed for these images. `stopped` hears of nodes (and
    why) that relevance could not pass. All values of a chunk are held at a time.
    """
    sums: dict[str, dict[int, Tensor]] = {name: {} for name in axes}
    counts: dict[int, int] = {}
    for part in chunked(indices, chunk):
        env = feed(model, source, part)
        with torch.no_grad():
            model.run(env)
        seeds, classes = predicted(model, env, len(part))
        found = propagate(model, env, seeds, axes.keys(), stopped)
        for label in set(classes.tolist()):
            counts[label] = counts.get(label, 0) + int((classes == label).sum())
        for name, relevance in found.items():
            if len(relevance) % len(part):  # its first axis is not that of the samples
                continue
            rows = relevance.double().movedim(axes[name], -1)
            rows = rows.reshape(len(part), -1, rows.shape[-1]).mean(1)
            for label in set(classes.tolist()):
                sums[name][label] = sums[name].get(label, 0) + rows[classes == label].sum(0)
    return {
        name: torch.stack([total / counts[label] for label, total in by_class.items()]).mean(0).cpu().numpy()
        for name, by_class in sums.items()
        if by_class
    }


def predicted(model: TorchModel, env: Env, samples: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Return the relevance of the outputs, 1 per sample, and the classes that the network predicts.

    Where an output has class scores (samples, classes) its relevance is one-hot; other outputs share theirs among
    their numbers by size. Without class scores all samples are of class 0.
    """
    seeds: dict[str, Tensor] = {}
    classes = None
    for name in model.outputs:
        y = env.get(name)
        if y is None or not y.is_floating_point() or not y.ndim or len(y) != samples:
            continue
        if y.ndim == 2 and y.shape[1] > 1:
            best = y.argmax(1)
            seeds[name] = torch.nn.functional.one_hot(best, y.shape[1]).to(y.dtype)
            classes = best.cpu().numpy() if classes is None else classes
        else:
            size = y.abs().reshape(samples, -1)
            seeds[name] = (size / size.sum(1, keepdim=True).clamp(min=1e-30)).reshape(y.shape)
    return seeds, np.zeros(samples, np.int64) if classes is None else classes


def propagate(
    model: TorchModel,
    env: Env,
    seeds: Mapping[str, Tensor],
    wanted: Collection[str],
    stopped: Callable[[str, str], None] = lambda node, reason: None,
) -> dict[str, Tensor]:
    """Return the relevance of the wanted values, each in its own shape, from that of the outputs.

    `env` holds every value of the run, and is emptied on the way.
    """
    live = _live(model, env)
    relevance = dict(seeds)
    found: dict[str, Tensor] = {}
    for step in reversed(model.steps):
        given = [relevance.pop(name, None) for name in step.outputs]
        found.update({n: r for n, r in zip(step.outputs, given, strict=True) if r is not None and n in wanted})
        flows = [i for i, name in enumerate(step.inputs) if name in live]
        if flows and any(r is not None for r in given):
            args = [env[n] if n in env else model.parameters[n] if n else None for n in step.inputs]
            call = Call(step, args, flows, given)
            try:
                dealt: Sequence[Tensor] = deal(call)
            except Stopped as why:
                stopped(step.node, str(why))
                dealt = []
            for i, r in zip(flows, dealt, strict=False):
                name = step.inputs[i]
                relevance[name] = relevance[name] + r if name in relevance else r
        for name in step.outputs:
            env.pop(name, None)
    return found


def _live(model: TorchModel, env: Env) -> set[str]:
    """Return the values that real numbers from the inputs flow into; shapes and constants are none."""
    live = {name for name in model.inputs if _real(env[name])}
    for step in model.steps:
        if live.intersection(step.inputs):
            live.update(name for name in step.outputs if name and _real(env.get(name)))
    return live


def _real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
