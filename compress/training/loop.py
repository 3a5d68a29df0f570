"""Gradual pruning while training (FRS, arXiv 2002.09958; METHOD §6), as a walk from state to state.

    before an epoch     the least relevant channels go for real, the rest is compensated     where a removal is due
    in it               stochastic gradient descent over all training samples
    after it            figures on samples kept apart

What an epoch does is a function of the seed, of its number and of the state before it: no generator is carried along.
So an interrupted training goes on to the same bytes, and several processes draw alike.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from calibrate.forward import Env, as_tensors, feed
from calibrate.relevance import channel_relevance
from calibrate.source import Source, chunked
from compress.criteria.relevance import made
from compress.data import Data, chunk_size
from compress.errors import OptionError
from compress.goal import Limit
from compress.metric import Metric
from compress.progress import Progress
from compress.searches import Budget
from compress.settings import Options
from compress.training import schedule
from compress.training.batch_norm import estimate
from compress.training.batches import augmented, batches
from compress.training.course import Course, Epoch, Removal
from compress.training.evaluate import Figures, evaluate
from compress.training.network import Network, narrowed
from compress.training.objective import Objective, labels_of, references
from compress.training.optimiser import Optimiser
from compress.training.processes import Processes
from compress.training.settings import Training
from compress.training.thinning import channel_scores, compensated, least_relevant, of_the_narrow
from graph.analysis import Analysis
from graph.bridge import TorchModel
from graph.channels import Channels
from graph.plan import Plan

RANKED_ON = 512  # training samples that relevance is averaged over
REPAIRED_ON = 512  # training samples that compensation and the statistics thereafter are fitted on
CHOSEN_ON = 64  # training samples that compensation is judged on
LEAST_NORMALISED = 8  # samples at a time, below which the statistics of a batch say too little


Arrays = Mapping[str, np.ndarray]
Scaling = Mapping[str, float]


@dataclass(frozen=True)
class Job:
    """What stays the same while a network is trained.

    `samples` of `source` are trained on, `batch` of them per step and `at_a_time` in one run (None: any number); the
    figures are those on `held`. `limits` hold at last, by removals before the epochs `due`; `allowed` are the widths
    that groups may take. `original` is the torch form of the analysed model, which the objective may ask.
    """

    analysis: Analysis
    allowed: Mapping[str, np.ndarray]
    limits: tuple[Limit, ...]
    macs: Limit
    due: tuple[int, ...]
    original: TorchModel
    objective: Objective
    metric: Metric | None
    source: Source
    samples: np.ndarray
    held: Data
    at_a_time: int | None
    batch: int
    options: Options
    training: Training
    processes: Processes

    @property
    def steps(self) -> int:
        """How many steps an epoch takes."""
        return max(len(self.samples) // self.batch, 1)

    @property
    def chunk(self) -> int:
        """How many samples run at a time where no gradient is asked for."""
        return chunk_size(self.analysis, self.at_a_time)

    @property
    def unit(self) -> int:
        """How many samples all processes take together in one run."""
        return (self.at_a_time or 1) * self.processes.size

    @property
    def normalises(self) -> bool:
        """Whether enough samples run at a time to train BatchNormalization by their statistics."""
        return self.at_a_time is None or self.at_a_time >= LEAST_NORMALISED

    def macs_of(self, widths: Mapping[str, int]) -> int:
        """Return the MACs of the network at these widths."""
        return round(self.macs.cost.total(widths))

    def few(self) -> dict[str, np.ndarray]:
        """Return a few samples, as the model takes them."""
        return self.source.batch(self.samples[: self.at_a_time or 2])


@dataclass(frozen=True)
class State:
    """A network before its epoch number `epoch` (from 0), with what led there."""

    epoch: int
    plan: Plan
    network: Network
    optimiser: Optimiser
    course: Course


def begin(job: Job, prepare: Callable[[Network], None] = lambda network: None) -> State:
    """Return the state before the first epoch, no channel gone; `prepare` may change the weights first."""
    plan = Plan.everything(job.analysis.channels)
    network = Network.of(job.analysis.model, job.few(), job.processes.device)
    prepare(network)
    widths = _widths(plan)
    course = Course(_figures(job, network), job.macs_of(widths), widths)
    return State(0, plan, network, _optimiser(job, network), course)


def resumed(
    job: Job, epoch: int, plan: Plan, weights: Arrays, momentum: Arrays, scaling: Scaling, course: Course
) -> State:
    """Return a state that was written down, from its parts."""
    analysis, device = job.analysis, job.processes.device
    network = Network.cut(analysis.model, analysis.channels, plan, weights, job.few(), device)
    optimiser = _optimiser(job, network)
    optimiser.load(momentum)
    optimiser.scaling = scaling
    return State(epoch, plan, network, optimiser, course)


def run_epoch(
    job: Job, state: State, progress: Progress, notice: Callable[[Epoch | Removal], None] = lambda event: None
) -> State:
    """Return the state after one more epoch, and after the removal before it where one is due."""
    title = f"epoch {state.epoch + 1} of {job.training.epochs}"
    if state.epoch in job.due:
        with progress(f"{title}: removal", 1):
            state = _thinned(job, state)
        notice(state.course.removals[-1])
    start = time.perf_counter()
    with progress(title, job.steps) as advance:
        loss = _descend(job, state, advance)
    held = _figures(job, state.network)
    macs = job.macs_of(_widths(state.plan))
    epoch = Epoch(state.epoch + 1, loss, held, macs, _rate(job, state.epoch, 0), time.perf_counter() - start)
    notice(epoch)
    return replace(state, epoch=state.epoch + 1, course=state.course.with_epoch(epoch))


def _descend(job: Job, state: State, advance: Callable[[], None]) -> float:
    """Train for one epoch and return the mean loss. Raises OptionError where it is no number any more."""
    seed, optimiser = job.options.seed, state.optimiser
    total = torch.zeros((), dtype=torch.float64, device=state.network.torch.device)
    parts = batches(job.samples, job.batch, seed, state.epoch)
    for number, part in enumerate(parts):
        mean = 0.0
        for piece in _pieces(job, job.processes.own(part)):
            share = len(piece) / len(part)
            arrays = augmented(job.source.batch(piece), job.training.augment, seed, state.epoch, piece)
            loss = share * _loss(job, state.network, as_tensors(state.network.torch, arrays), piece)
            optimiser.backward(loss)
            mean += float(loss.detach())
        if not math.isfinite(mean):
            raise OptionError(
                f"the loss is {mean} in step {number + 1} of epoch {state.epoch + 1}: the steps are too long for this "
                f"network: give an --lr below {job.training.highest_rate(job.batch):g}"
            )
        job.processes.sum(optimiser.gradients())
        optimiser.step(_rate(job, state.epoch, number))
        total += mean
        advance()
    job.processes.sum([total])
    return float(total) / len(parts)


def _loss(job: Job, network: Network, inputs: Env, piece: np.ndarray) -> Tensor:
    expected = references(job.original, inputs) if job.objective.needs_references else None
    with torch.autocast(network.torch.device.type, torch.float16, enabled=job.training.mixed_precision):
        outputs = network.run(inputs, training=job.normalises)
    return job.objective(outputs, expected, labels_of(job.source, piece, network.torch.device))


def _thinned(job: Job, state: State) -> State:
    """Return the state without the channels that are to go before this epoch."""
    start, notes = time.perf_counter(), list[str]()
    channels = job.analysis.channels
    before = state.plan.removed(channels)
    narrow = channels.without(before)
    own = job.processes.own(_drawn(job, RANKED_ON, state.epoch))
    network, axes = state.network, made(narrow.groups, narrow)
    relevance = channel_relevance(network.torch, job.source, own, axes, chunk=job.chunk, note=notes.append)
    job.processes.sum(relevance.tensors)
    scores = channel_scores(network.torch, narrow, relevance, notes.append)
    budgets = _budgets(job, state)
    plan = least_relevant(scores, state.plan, job.allowed, budgets, together=channels.together)
    small = network.without(job.analysis.model, channels, state.plan, plan, job.few())
    if job.options.compensation != "none":
        _repair(job, state, small, narrow, plan)
    optimiser = _optimiser(job, small)
    optimiser.load(narrowed(state.optimiser.state(), channels, before, plan.removed(channels)))
    optimiser.scaling = state.optimiser.scaling
    widths = _widths(plan)
    seconds = time.perf_counter() - start
    removal = Removal(state.epoch + 1, job.macs_of(widths), widths, _figures(job, small), seconds, tuple(notes))
    return State(state.epoch, plan, small, optimiser, state.course.with_removal(removal))


def _repair(job: Job, state: State, small: Network, narrow: Channels, plan: Plan) -> None:
    """Compensate for what has just gone from `narrow`, and estimate the statistics of BatchNormalizations anew."""
    drawn = _drawn(job, REPAIRED_ON + CHOSEN_ON, state.epoch)
    apart = min(CHOSEN_ON, len(drawn) // 8) // job.unit * job.unit
    fit, held = drawn[apart:], drawn[:apart]
    if job.processes.first:
        compensated(
            state.network.torch,
            small.torch,
            small.model,
            narrow,
            of_the_narrow(state.plan, plan),
            job.source,
            fit,
            held,
            chunk=job.chunk,
            batch=job.at_a_time,
            seed=job.options.seed,
        )
    small.load(job.processes.same(small.state()))
    parts = batches(fit, job.batch, job.options.seed, state.epoch)
    pieces = [piece for part in parts for piece in _pieces(job, job.processes.own(part))]
    if job.normalises:
        estimate(small, (feed(small.torch, job.source, piece) for piece in pieces))


def _budgets(job: Job, state: State) -> list[Budget]:
    """Return what may be left after the removal before this epoch."""
    widest = _widths(Plan.everything(job.analysis.channels))
    count, number = len(job.due), job.due.index(state.epoch)
    return [
        Budget(limit.cost, schedule.budgets(limit.cost.total(widest), limit.limit, count)[number])
        for limit in job.limits
    ]


def _drawn(job: Job, count: int, epoch: int) -> np.ndarray:
    """Return training samples for what happens before an epoch, in whole runs of the model in every process."""
    drawn = np.random.default_rng([job.options.seed, epoch]).permutation(job.samples)
    return drawn[: max(min(count, len(drawn)) // job.unit, 1) * job.unit]


def _pieces(job: Job, own: np.ndarray) -> list[np.ndarray]:
    return chunked(own, job.at_a_time or max(len(own), 1))


def _figures(job: Job, network: Network) -> Figures:
    """Return what a network is worth; every process measures the same."""
    return evaluate(
        network,
        job.held.source,
        job.held.parts.reported,
        job.objective,
        original=job.original,
        metric=job.metric,
        chunk=job.chunk,
        batch=job.held.batch,
    )


def _optimiser(job: Job, network: Network) -> Optimiser:
    return Optimiser(network.leaves, job.training.weight_decay, halves=job.training.mixed_precision)


def _rate(job: Job, epoch: int, step: int) -> float:
    steps = job.steps
    return schedule.rate(epoch * steps + step, job.training.epochs * steps, job.training.highest_rate(job.batch))


def _widths(plan: Plan) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in plan.keep.items()}
