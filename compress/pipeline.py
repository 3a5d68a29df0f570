"""The main job: a trained model and a target in, a smaller model out.

load → open data → simplify → couple → calibrate → curves → search → shrink → check the law → compensate
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrate.consumer import find_consumers
from calibrate.eliminate import Curve
from calibrate.errors import DataError
from calibrate.preprocess import Preprocess
from calibrate.range import range_warning
from calibrate.sources import Source, open_source, split
from calibrate.statistics import collect
from compress import sensitivity
from compress.compensate import compensate
from compress.costs import CostModel, macs_model, params_model
from compress.criteria.magnitude import magnitude
from compress.curves import curves
from compress.errors import OptionError
from compress.measure import samples_at_a_time
from compress.progress import Progress, Timed, silent
from compress.repair import Repair
from compress.searches import SEARCHES, Problem, least
from compress.targets import Target, Unreachable, parse_target
from compress.widths import allowed_widths, display_names, matches, plan_of
from graph.analysis import Analysis, analyse
from graph.bridge import TorchModel, to_torch
from graph.channels import Channels
from graph.count import Count, count
from graph.errors import ModelError
from graph.inputs import fixed_batch, input_specs, settle
from graph.law import LawReport, check_law
from graph.model import load
from graph.plan import Plan
from graph.shrink import shrink
from graph.simplify import forget_inferred
from graph.stored import pack
from graph.trace import trace

PARTS = (0.8, 0.1, 0.1)  # of the calibration samples: fit, search, report
SEARCH_MACS = 6e12  # multiply-accumulates spent on measuring sensitivities
CHUNK_BYTES = 48 << 20  # of the largest value while a chunk of samples runs

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Options:
    """How to prune; the defaults suit most models.

    `shapes` states sizes that inputs leave free, by input name; `exclude` and the keys of `max_width_ratio` are shell
    patterns of node names; `round_to` makes every width a multiple; `compensation` False keeps the plain slices (for
    comparison).
    """

    preprocess: Preprocess | None = None
    samples: int | None = None
    labels_file: str | Path | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    keep_batchnorm: bool = False
    search: str = "lagrange"
    exclude: Sequence[str] = ()
    max_width_ratio: Mapping[str, float] | None = None
    round_to: int = 1
    compensation: bool = True
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Data:
    """The samples of a run, dealt out to fit, search and report.

    `batch` is how many the model takes at a time, None where that is free.
    """

    source: Source
    parts: Parts
    batch: int | None

    def few(self, count: int = 2) -> dict[str, np.ndarray]:
        """Return `count` samples of the fit by input name, or as many as the model takes at a time."""
        return self.source.batch(self.parts[0][: self.batch or count])


@dataclass(frozen=True)
class Goal:
    """What the search may do and must reach: the widths allowed to each group, their costs, and the budget."""

    target: Target
    allowed: Mapping[str, np.ndarray]
    costs: CostModel
    budget: float


@dataclass(frozen=True)
class Pruned:
    """What the pipeline made, before it is measured."""

    model: ir.Model
    analysis: Analysis
    plan: Plan
    widths: Mapping[str, tuple[int, int]]
    count: Count
    law: LawReport
    repairs: tuple[Repair, ...]
    data: Data
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


def prune_model(
    model: ir.Model | str | Path,
    target: Target | float | str,
    data: Any = None,
    options: Options = Options(),
    progress: Progress = silent,
) -> Pruned:
    """Prune a model to a target. Raises ModelError, DataError, TargetError, Unreachable or LawError."""
    timed = Timed(progress)
    if not isinstance(target, Target):
        target = parse_target("macs", target)
    with timed("open data", 1):
        loaded = load(model) if isinstance(model, (str, Path)) else model
        opened, notes = open_data(loaded, data, options)
    with timed("analyse", 1):
        analysis = analyse(loaded, opened.few(1), keep_batchnorm=options.keep_batchnorm)
        goal = goal_of(target, analysis, options)
    with timed("convert", 1):
        if (warning := range_warning(loaded, opened.source, opened.batch)) is not None:
            notes.append(warning)
        torch_model = to_torch(analysis.model, opened.few(), device=options.device)
    names = display_names(analysis.model)
    notes += [
        f"{f.op_type} {names.get(f.node, f.node)} runs in ONNX Runtime: {f.reason}" for f in torch_model.fallbacks
    ]
    ranking = rank(analysis, torch_model, opened, options, timed, notes)
    plan, small, law = choose(analysis, ranking, goal, opened, options, timed)
    small_trace = trace(small, opened.few(1))
    repairs: tuple[Repair, ...] = ()
    if options.compensation:
        shapes = dict(small_trace.shapes)
        repairs = refit(analysis, torch_model, small, plan, shapes, opened, options, timed)
        notes += repair_notes(repairs, names)
    counted = count(small, small_trace)
    small, kept_wide = pack(small, analysis.stored)
    forget_inferred(small, loaded)
    notes += kept_wide
    return Pruned(
        small,
        analysis,
        plan,
        {g.name: (len(g.channels), int(plan.keep[g.name].sum())) for g in analysis.channels.groups},
        counted,
        law,
        repairs,
        opened,
        tuple(notes),
        timed.seconds,
    )


def open_data(model: ir.Model, data: Any, options: Options) -> tuple[Data, list[str]]:
    """Open the samples, find how many the model takes at a time, and deal them out; returns notes as well."""
    specs = input_specs(model, options.shapes)
    source = open_source(
        data,
        settle(model, specs) if data is None else specs,
        options.preprocess,
        samples=options.samples,
        seed=options.seed,
        labels_file=options.labels_file,
    )
    batch = samples_at_a_time(model, specs, source)
    parts, notes = deal(source, batch, options.seed)
    if batch == 1 != fixed_batch(specs):
        notes.append("the model leaves the number of samples free, but runs with one at a time only")
    return Data(source, parts, batch), notes


def goal_of(target: Target, analysis: Analysis, options: Options) -> Goal:
    """Return what is asked for, in figures of this model.

    Raises ModelError where nothing can be pruned, OptionError for a pattern that fits no layer, and Unreachable.
    """
    groups = analysis.channels.groups
    if not groups:
        raise ModelError(analysis.converted or _nothing(analysis.channels))
    names = display_names(analysis.model)
    for pattern in (*options.exclude, *(options.max_width_ratio or {})):
        if not any(matches(group, pattern, names) for group in groups):
            raise OptionError(f"{pattern!r} fits no layer that can be pruned: compress inspect lists them")
    allowed = {
        group.name: allowed_widths(
            group,
            names,
            exclude=options.exclude,
            max_width_ratio=options.max_width_ratio,
            round_to=options.round_to,
        )
        for group in groups
    }
    costs, budget = cost_model(target, analysis)
    check_reachable(allowed, costs, budget, target, analysis)
    return Goal(target, allowed, costs, budget)


def refit(
    analysis: Analysis,
    original: TorchModel,
    small: ir.Model,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    data: Data,
    options: Options,
    timed: Timed,
) -> tuple[Repair, ...]:
    """Compensate in `small`, which is changed, for the channels that are gone."""
    pruned = to_torch(small, data.few(), device=options.device)
    with timed("compensate", len(find_consumers(small, shapes))) as advance:
        return tuple(
            compensate(
                original,
                pruned,
                small,
                analysis.channels,
                plan,
                shapes,
                data.source,
                data.parts[0],
                data.parts[1],
                chunk=chunk_size(analysis, data.batch),
                seed=options.seed,
                advance=advance,
            )
        )


def repair_notes(repairs: Sequence[Repair], names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each kind of thing that compensation could not do, naming the nodes."""
    by_note: dict[str, list[str]] = {}
    for repair in repairs:
        if repair.note:
            by_note.setdefault(repair.note, []).append(names.get(repair.node, repair.node))
    return [f"{_listed(nodes)}: {note}" for note, nodes in by_note.items()]


@dataclass(frozen=True)
class Ranking:
    """For every group: the order in which its channels go, and the loss at the outputs by number removed."""

    curves: Mapping[str, Curve]
    losses: Mapping[str, np.ndarray]


def rank(
    analysis: Analysis, model: TorchModel, data: Data, options: Options, timed: Timed, notes: list[str]
) -> Ranking:
    """Collect statistics, and make the curve and the loss at the outputs of every group."""
    channels, chunk = analysis.channels, chunk_size(analysis, data.batch)
    groups, (fit, held, _) = channels.groups, data.parts
    read_by_groups = {site.node for group in groups for site in group.consumers}
    consumers = {
        c.node: c
        for c in find_consumers(analysis.model, dict(analysis.trace.shapes))
        if c.node in read_by_groups and not (c.window and c.window.transposed and c.groups > 1)
    }
    with timed("statistics", len(fit)) as advance:
        moments = collect(
            model, list(consumers.values()), data.source, fit, chunk=chunk, seed=options.seed, advance=advance
        )
    with timed("curves", len(groups)) as advance:
        found = curves(groups, channels, consumers, moments, model, advance)
    if unfitted := [group.name for group in groups if group.name not in found]:
        found |= {group.name: magnitude(group, channels, model) for group in groups if group.name in unfitted}
        notes.append(
            f"{_listed(unfitted)}: no consumer could be fitted; channels are ranked by the size of their weights"
        )
    if options.search == "uniform":
        return Ranking(found, {name: curve.loss for name, curve in found.items()})
    searched = held if len(held) else fit
    images = sensitivity_images(analysis, len(searched), data.batch)
    with timed("sensitivity", len(groups) * len(sensitivity.CUTS)) as advance:
        measured = sensitivity.measure(
            groups,
            channels,
            found,
            consumers,
            moments,
            model,
            data.source,
            searched[:images],
            chunk=chunk,
            advance=advance,
        )
    return Ranking(found, {name: sensitivity.losses(found[name], measured[name]) for name in found})


def choose(
    analysis: Analysis, ranking: Ranking, goal: Goal, data: Data, options: Options, timed: Timed
) -> tuple[Plan, ir.Model, LawReport]:
    """Search the widths, shrink, and check the law; the budget is verified on the graph that came out."""
    tightened, metric, one = goal.budget, goal.target.metric, data.few(1)
    with timed("search", 1):
        for _ in range(5):
            widths = SEARCHES[options.search](Problem(ranking.losses, goal.allowed, goal.costs, tightened))
            plan = plan_of(widths, analysis.channels.groups, ranking.curves)
            small = shrink(analysis.model, analysis.channels, plan)
            reached = metric_of(count(small, trace(small, one)), metric)
            if reached <= goal.budget:
                break
            tightened -= 1.05 * (reached - goal.budget)
        else:
            raise Unreachable(f"{goal.target} was not reached: {reached:,.0f} {metric} are left")
    with timed("check the law", 1):
        law = check_law(analysis.model, analysis.channels, plan, data.few())
    return plan, small, law


def metric_of(counted: Count, metric: str) -> int:
    """Return the figure that a target's metric names."""
    return counted.macs if metric == "macs" else counted.params


def cost_model(target: Target, analysis: Analysis) -> tuple[CostModel, float]:
    """Return the cost of widths in the target's metric, and the budget in that unit."""
    make = macs_model if target.metric == "macs" else params_model
    costs = make(analysis.channels, analysis.count, analysis.trace.shapes)
    return costs, target.budget(metric_of(analysis.original, target.metric))


def check_reachable(
    allowed: Mapping[str, np.ndarray], costs: CostModel, budget: float, target: Target, analysis: Analysis
) -> None:
    """Raise Unreachable, naming the least that can be reached, where the narrowest widths exceed the budget."""
    floor = least(Problem({}, allowed, costs, budget))
    if floor > budget:
        original = metric_of(analysis.original, target.metric)
        raise Unreachable(
            f"the target, {target}, is out of reach: the least that the permitted widths reach is "
            f"{floor / original:.3f} of the original ({floor:,.0f} of {original:,} {target.metric})"
        )


def deal(source: Source, batch: int | None, seed: int) -> tuple[Parts, list[str]]:
    """Deal the samples out to fit, search and report; returns notes where there are too few."""
    size = batch or 1
    if len(source) < size:
        raise DataError(f"{source.description}: the model takes {size} samples at a time, {len(source)} are there")
    parts = [part[: len(part) // size * size] for part in split(len(source), PARTS, seed)]
    notes = [*source.notes]
    if not all(len(part) for part in parts):
        parts = [np.arange(len(source) // size * size), parts[0][:0], parts[0][:0]]
        notes.append(
            f"with {len(source)} sample{'s' if len(source) > 1 else ''} nothing could be kept apart: the ridge was "
            f"chosen, and the result is reported, on the samples of the fit; give at least {8 * size}"
        )
    elif len(source) < 64:
        notes.append(f"{len(source)} calibration samples are few: a few hundred make a better model")
    return (parts[0], parts[1], parts[2]), notes


def chunk_size(analysis: Analysis, batch: int | None) -> int:
    """Return how many samples run at a time, so that the largest value stays small."""
    if batch is not None:
        return batch
    largest = max((4 * int(np.prod(shape)) for shape in analysis.trace.shapes.values()), default=1)
    return int(np.clip(CHUNK_BYTES // largest, 1, 64))


def sensitivity_images(analysis: Analysis, available: int, batch: int | None) -> int:
    """Return on how many samples sensitivities are measured: what a fixed amount of work allows, 16 at least."""
    runs = len(analysis.channels.groups) * len(sensitivity.CUTS) / 2  # a cut re-runs half of the network on average
    affordable = int(SEARCH_MACS / max(analysis.count.macs * runs, 1))
    size = batch or 1
    return min(available, max(16, min(affordable, 256))) // size * size


def _listed(names: Sequence[str]) -> str:
    """Write the first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _nothing(channels: Channels) -> str:
    first = channels.frozen[0] if channels.frozen else None
    why = f"; the first obstacle: {first.op_type} {first.node}: {first.reason}" if first else ""
    return f"the model has no channels that could be removed{why}"
