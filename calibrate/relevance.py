"""Layer-wise relevance propagation through any network: how much of its answer flows back through every channel.

The network runs forward once; from the relevance of its outputs, the steps are gone through backwards, and each deals
out what its output was given to its inputs by the rule of its kind (`calibrate.relevance_rules`). Relevance starts
as the one-hot true class of a sample (FRS, arXiv 2002.09958); without labels, as the class that the network
predicts. With n(c) the samples of class c and S the classes that occur,

    relevance of channel k  =  1/|S| · Σ_{c ∈ S} 1/n(c) · Σ over the samples of c ( mean over positions of R_k )

The inner sums and n(c) are what is kept (`Relevance`): those of several sets of samples add up.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calibrate.forward import Env, feed
from calibrate.relevance_rules import Call, Stopped, deal
from calibrate.source import Source, chunked
from graph.bridge import TorchModel

_OTHERS = "the labels are not classes of the one output with class scores; relevance starts from the classes predicted"


@dataclass(frozen=True)
class Relevance:
    """Relevance by value and class, summed over samples; `+` joins that of two sets of samples.

    `sums[value]` is (classes, channels), `counts` is (classes): float64 on one device. The network alone decides about
    their order and shapes, so that several processes can add them in place, one tensor of `tensors` after another.
    """

    sums: Mapping[str, Tensor]
    counts: Tensor

    def __add__(self, other: "Relevance") -> "Relevance":
        """Return the relevance of both sets of samples, which have to be of the same values and classes."""
        sums = {name: total + other.sums[name] for name, total in self.sums.items()}
        return Relevance(sums, self.counts + other.counts)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that adds up."""
        return (self.counts, *self.sums.values())

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean over a class's samples, then over the classes that occur, of each channel, by value."""
        seen = self.counts > 0
        share = self.counts[seen, None]
        return {name: (total[seen] / share).mean(0).cpu().numpy() for name, total in self.sums.items()}


def channel_relevance(
    model: TorchModel,
    source: Source,
    indices: np.ndarray,
    axes: Mapping[str, int],
    *,
    chunk: int,
    note: Callable[[str], None] = lambda sentence: None,
) -> Relevance:
    """Return the relevance along an axis of each value; 0 where none came.

    `axes` maps values to axes. `note` hears in sentences of nodes that relevance could not pass, and of labels that
    could not be used. All values of a chunk are held at a time; raises ValueError without any sample.
    """
    found: Relevance | None = None
    stops: dict[str, str] = {}
    for part in chunked(indices, chunk):
        env = feed(model, source, part)
        with torch.no_grad():
            model.run(env)
        labels = true_classes(model, env, len(part), source.classes)
        seeds, classes, count = answers(model, env, len(part), None if labels is None else labels[part])
        if found is None and labels is None and source.labels is not None:
            note(_OTHERS)
        widths = {name: env[name].shape[axis] for name, axis in axes.items() if name in env}
        relevance = propagate(model, env, seeds, axes.keys(), stops.setdefault)
        of_class = torch.nn.functional.one_hot(classes, count).double()
        sums = {
            name: of_class.T @ _rows(relevance.get(name), axes[name], (len(part), width), of_class)
            for name, width in widths.items()
        }
        now = Relevance(sums, of_class.sum(0))
        found = now if found is None else found + now
    for node, why in stops.items():
        note(f"{node}: {why}")
    if found is None:
        raise ValueError("relevance of no samples: give at least one index")
    return found


def _rows(relevance: Tensor | None, axis: int, shape: tuple[int, int], like: Tensor) -> Tensor:
    """Return the mean over positions, (samples, channels); 0 where there is none, or no axis of samples."""
    if relevance is None or len(relevance) % shape[0]:
        return like.new_zeros(shape)
    rows = relevance.double().movedim(axis, -1)
    return rows.reshape(shape[0], -1, rows.shape[-1]).mean(1)


def true_classes(model: TorchModel, env: Env, samples: int, labels: np.ndarray | None) -> np.ndarray | None:
    """Return the labels where all of them are classes of the one output with class scores, else None."""
    heads = _heads(model, env, samples)
    if labels is None or len(heads) != 1:
        return None
    inside = (labels >= 0) & (labels < env[heads[0]].shape[1])
    return labels if inside.all() else None


def answers(
    model: TorchModel, env: Env, samples: int, labels: np.ndarray | None = None
) -> tuple[dict[str, Tensor], Tensor, int]:
    """Return the relevance of the outputs, 1 per sample, the class of each sample (N), and how many classes there are.

    Where an output has class scores (samples, classes) its relevance is one-hot: the class of `labels` (N), without
    them the one predicted. Other outputs share theirs among their numbers by size. Without class scores all samples are
    of one class.
    """
    seeds: dict[str, Tensor] = {}
    heads = _heads(model, env, samples)
    classes, count = torch.zeros(samples, dtype=torch.int64, device=model.device), 1
    for name in model.outputs:
        y = env.get(name)
        if y is None or not y.is_floating_point() or not y.ndim or len(y) != samples:
            continue
        if name in heads:
            best = y.argmax(1) if labels is None else torch.as_tensor(labels, dtype=torch.int64, device=y.device)
            seeds[name] = torch.nn.functional.one_hot(best, y.shape[1]).to(y.dtype)
            if name == heads[0]:
                classes, count = best, y.shape[1]
        else:
            size = y.abs().reshape(samples, -1)
            seeds[name] = (size / size.sum(1, keepdim=True).clamp(min=1e-30)).reshape(y.shape)
    return seeds, classes, count


def _heads(model: TorchModel, env: Env, samples: int) -> list[str]:
    """Return the outputs that have class scores."""
    found = {name: env.get(name) for name in model.outputs}
    return [
        name
        for name, y in found.items()
        if y is not None and y.is_floating_point() and y.ndim == 2 and len(y) == samples and y.shape[1] > 1
    ]


def propagate(
    model: TorchModel,
    env: Env,
    seeds: Mapping[str, Tensor],
    wanted: Collection[str],
    stopped: Callable[[str, str], object] = lambda node, reason: None,
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
