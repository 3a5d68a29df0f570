"""Feature matching after the closed form: gradient descent without labels (METHOD §5).

The pruned network is pulled towards the original on the samples of the fit and on variants of them, at its outputs and
at the last value of every spatial size (before pooling):

    loss = Σ over outputs |a − b|² ÷ energy  +  mean over values |a − b|² ÷ energy        a original, b pruned

The divergence of the outputs on samples kept apart, from the closed form too, chooses the state that stays, the start
among them. It often rises while the steps are long and falls when they get shorter, so a rise alone does not end a run.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate.forward import Env, feed, outputs_of, walk
from calibrate.source import Source, chunked
from compress.augment import augmented, bears_mirrors
from compress.divergence import divergence, energies
from compress.sensitivity import join
from compress.store import rounded, store
from compress.student import Student
from graph.bridge import TorchModel
from graph.channels import Channels
from graph.plan import Plan

RATE = 3e-3  # of the first steps: the share of a layer's size that a step may change
BATCH = 32  # samples per step
WARM_UP = 0.05  # of the steps, until the rate is reached
LOOKS = 20  # at the divergence on held samples, evenly over the run
HOPELESS = 10  # times the divergence of the start, at which a run ends
ALL_THE_SAME = 1e-6  # variance ÷ mean square
REFERENCE_BYTES = 512 << 20  # of the original's outputs for the samples kept apart; more samples are left out


@dataclass(frozen=True)
class Refinement:
    """What gradient descent brought: the mean divergence of the outputs on held samples, before and after.

    `steps` were run of those `asked` for, and the state after step `best` was kept; 0 is the start. `note` says what
    could not be done, in a sentence.
    """

    asked: int
    steps: int
    best: int
    before: float
    after: float
    note: str = ""


def refine(
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
    steps: int,
    chunk: int,
    batch: int | None,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Refinement:
    """Move the weights of the pruned `model` (its torch form is `pruned`) by at most `steps` steps.

    The weights change in `pruned.parameters` and in the initializers of `model`. `channels`, `plan` and the names of
    values are those of the original network; `shapes` are the pruned model's. `chunk` samples run at a time, and
    `batch` is how many the model takes at a time, None where that is free.
    """
    kept_apart = held if len(held) else fit
    judge = Judge(original, pruned, source, chunked(kept_apart, chunk))
    before = judge({})
    if not steps or not 0 < before < math.inf:
        note = f"the outputs are {before} apart at the start, so there is nothing to gain" if steps else ""
        return Refinement(steps, 0, 0, before, before, note)
    generator = np.random.default_rng(seed)
    drawn = augmented(source, fit, bears_mirrors(original, source, kept_apart[:chunk]), generator)
    size = min(chunk, BATCH) if batch is None else batch
    order = minibatches(fit, max(BATCH // size, 1) * size, generator)
    student = Student.of(pruned, model, shapes, source, fit, chunk=chunk, seed=seed)
    matching = Matching.of(original, pruned, channels, plan, judge.energy)

    def passes() -> list[Env]:
        return [feed(pruned, drawn, part) for part in chunked(next(order), size)]

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        try:
            moving, note = _moving(student, matching, passes(), pruned, model)
        except RuntimeError as error:  # an operator without a derivative, or too little memory
            return Refinement(steps, 0, 0, before, before, f"no gradient could be had: {str(error).splitlines()[0]}")
        run, best, after, kept = _descend(moving, matching, judge, passes, model, steps, before, advance)
    for name, value in kept.items():
        store(name, value, pruned, model)
    if not best:
        note = f"{note}; " * bool(note) + "no state was better than the start on the samples kept apart, so it stays"
    return Refinement(steps, run, best, before, after, note)


class Judge:
    """The divergence of the pruned network's outputs from the original's, on samples kept apart."""

    def __init__(self, original: TorchModel, pruned: TorchModel, source: Source, parts: Sequence[np.ndarray]) -> None:
        """Run the original once."""
        self.pruned, self.source, self.parts = pruned, source, parts
        with torch.no_grad():
            self.reference: list[list[Tensor]] = []
            for part in parts:
                self.reference.append(outputs_of(original, feed(original, source, part)))
                if len(self.reference) * sum(each.nbytes for each in self.reference[0]) > REFERENCE_BYTES:
                    break
            self.energy = energies([join(each) for each in zip(*self.reference, strict=True)])

    def __call__(self, weights: Env) -> float:
        """Return the mean divergence with these weights in the place of the parameters."""
        total, count = 0.0, 0
        with torch.no_grad():
            for part, reference in zip(self.parts, self.reference, strict=False):
                outputs = outputs_of(self.pruned, feed(self.pruned, self.source, part) | weights)
                found = divergence(reference, outputs, self.energy)
                total, count = total + float(found.sum()), count + len(found)
        return total / count


@dataclass(frozen=True)
class Matching:
    """The two networks and where they are compared."""

    original: TorchModel
    pruned: TorchModel
    values: tuple[str, ...]
    kept: dict[str, tuple[int, np.ndarray]]
    energy: Sequence[float]

    @classmethod
    def of(
        cls, original: TorchModel, pruned: TorchModel, channels: Channels, plan: Plan, energy: Sequence[float]
    ) -> "Matching":
        """Compare the values of `matched`, the original's cut to the channels that the plan keeps."""
        values, removed = matched(original, pruned, channels), list(plan.removed(channels))
        labels = {name: channels.values[name] for name in values}
        kept = {
            name: (each.axis, np.flatnonzero(~np.isin(each.ids, removed)))
            for name, each in labels.items()
            if each.axis is not None
        }
        return cls(original, pruned, values, kept, energy)

    def loss(self, inputs: Env, weights: Env) -> Tensor:
        """Return the mean loss of the samples, with these weights in the place of the pruned network's parameters."""
        constants = {name: value.detach() for name, value in self.pruned.parameters.items()}
        before, now = dict(inputs), {**constants, **inputs, **weights}
        with torch.no_grad():
            for _ in walk(self.original, before, frozenset(self.values)):
                pass
        self.pruned.run(now)
        expected, found = ([env[name] for name in self.original.outputs] for env in (before, now))
        loss = divergence(expected, found, self.energy).mean()
        apart = [relative_error(self._cut(name, before[name]), now[name]) for name in self.values]
        comparable = [each for each in apart if each is not None]
        return loss + sum(comparable, torch.zeros_like(loss)) / max(len(comparable), 1)

    def _cut(self, name: str, value: Tensor) -> Tensor:
        if name not in self.kept:
            return value
        axis, places = self.kept[name]
        return value.index_select(axis, torch.as_tensor(places, device=value.device))


def relative_error(a: Tensor, b: Tensor) -> Tensor | None:
    """Return mean |a − b|² ÷ energy of a value of several samples; None where they cannot be compared.

    The energy is that about the mean of the samples, or where they are all the same, mean |a|².
    """
    if a.shape != b.shape or not a.is_floating_point() or not bool(a.isfinite().all()):
        return None
    square = float((a**2).mean())
    variance = float(((a - a.mean(0)) ** 2).mean())
    energy = variance if variance > ALL_THE_SAME * square else square
    return ((a - b) ** 2).mean() / energy if energy > 0 else None


def matched(original: TorchModel, pruned: TorchModel, channels: Channels) -> tuple[str, ...]:
    """Return the last value of every spatial size that both networks compute: the ends of their stages."""
    made = {name for step in pruned.steps for name in step.outputs}
    last: dict[tuple[int, ...], str] = {}
    for step in original.steps:
        for name in step.outputs:
            labels = channels.values.get(name)
            if labels is None or name not in made or len(labels.shape) < 3:
                continue
            axis = 1 if labels.axis is None else labels.axis
            last[tuple(side for place, side in enumerate(labels.shape) if place not in (0, axis))] = name
    return tuple(name for name in last.values() if name not in original.outputs)


def minibatches(indices: np.ndarray, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield sample indices, `size` at a time, without end; all are used before one comes again."""
    waiting = indices[:0]
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, generator.permutation(indices)])
        yield waiting[:size]
        waiting = waiting[size:]


def _moving(
    student: Student, matching: Matching, passes: Sequence[Env], pruned: TorchModel, model: ir.Model
) -> tuple[Student, str]:
    """Return the part of the student that a gradient reaches, and a sentence about the rest."""
    backward(student, matching, passes)
    moving = student.moving()
    stay = {name for part in student.parts if part.leaf.grad is None for name in part.names}
    blind = [step for step in pruned.steps if step.fallback]
    if not stay or not blind:
        return moving, ""
    return moving, (
        f"{len(stay)} weights were not trained (the first: {min(stay)}): no gradient passes through "
        f"{blind[0].op_type} {blind[0].node}, which runs in ONNX Runtime"
    )


def backward(student: Student, matching: Matching, passes: Sequence[Env]) -> None:
    """Set the gradients of the student's leaves to those of the mean loss over several passes."""
    for part in student.parts:
        part.leaf.grad = None
    made = student.weights()
    weights = {name: value.detach().requires_grad_() for name, value in made.items()}
    for inputs in passes:
        loss = matching.loss(inputs, weights) / len(passes)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
    reached = [name for name, value in weights.items() if value.grad is not None]
    if reached:
        torch.autograd.backward([made[name] for name in reached], [weights[name].grad for name in reached])


def _descend(
    student: Student,
    matching: Matching,
    judge: Judge,
    passes: Callable[[], list[Env]],
    model: ir.Model,
    steps: int,
    before: float,
    advance: Callable[[], None],
) -> tuple[int, int, float, Env]:
    """Return how many steps were run, which state was best, its divergence and its weights (none for the start)."""
    best, after, kept = 0, before, Env()
    if not student.parts:
        return 0, best, after, kept
    optimiser = torch.optim.Adam(student.groups(RATE))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step / steps))
    every = max(1, steps // LOOKS)
    for step in range(1, steps + 1):
        backward(student, matching, passes())
        optimiser.step()
        schedule.step()
        advance()
        if step % every and step < steps:
            continue
        now = {name: rounded(name, value, model) for name, value in student.weights().items()}
        found = judge(now)
        if found < after:
            best, after, kept = step, found, now
        if not found <= HOPELESS * before:  # or not a number
            break
    return step, best, after, kept


def pace(done: float) -> float:
    """Return the learning rate at a share of the run, as a share of the highest: a short rise, then half a cosine."""
    return min(1.0, (done + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
