"""The main job: a trained model and a target in, a smaller model out.

load → simplify → couple → calibrate → curves → search → shrink → check the law → compensate → measure
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
from compress.curves import curves
from compress.errors import OptionError
from compress.magnitude import magnitude
from compress.progress import Progress, Timed, silent
from compress.repair import Repair
from compress.search import SEARCHES, Problem, least
from compress.targets import Target, Unreachable, parse_target
from compress.widths import allowed_widths, display_names, matches, plan_of
from graph.analysis import Analysis, analyse
from graph.bridge import TorchModel, to_torch
from graph.channels import Channels
from graph.count import Count, count
from graph.errors import ModelError
from graph.law import LawReport, check_law
from graph.model import load
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import input_specs, trace

PARTS = (0.8, 0.1, 0.1)  # of the calibration samples: fit, search, report
SEARCH_MACS = 6e12  # multiply-accumulates spent on measuring sensitivities
CHUNK_BYTES = 48 << 20  # of the largest value while a chunk of samples runs


@dataclass(frozen=True)
class Options:
    """How to prune; the defaults suit most models.

    `exclude` and the keys of `max_width_ratio` are shell patterns of node names; `round_to` makes every width a
    multiple; `compensation` False keeps the plain slices (for comparison).
    """

    preprocess: Preprocess | None = None
    samples: int | None = None
    labels_file: str | Path | None = None
    keep_batchnorm: bool = False
    search: str = "lagrange"
    exclude: Sequence[str] = ()
    max_width_ratio: Mapping[str, float] | None = None
    round_to: int = 1
    compensation: bool = True
    seed: int = 0
    device: str = "cpu"


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
    source: Source
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]
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
    with timed("analyse", 1):
        loaded = load(model) if isinstance(model, (str, Path)) else model
        analysis = analyse(loaded, keep_batchnorm=options.keep_batchnorm)
        groups = analysis.channels.groups
        if not groups:
            raise ModelError(_nothing(analysis.channels))
        costs, budget = cost_model(target, analysis)
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
        check_reachable(allowed, costs, budget, target, analysis)
    with timed("open data", 1):
        source = open_source(
            data,
            input_specs(analysis.model),
            options.preprocess,
            samples=options.samples,
            seed=options.seed,
            labels_file=options.labels_file,
        )
        parts, notes = deal(source, analysis, options.seed)
        if (warning := range_warning(loaded, source)) is not None:
            notes.append(warning)
        torch_model = to_torch(
            analysis.model, source.batch(parts[0][: fixed_batch(analysis) or 2]), device=options.device
        )
        notes += [
            f"{f.op_type} {names.get(f.node, f.node)} runs in ONNX Runtime: {f.reason}" for f in torch_model.fallbacks
        ]
    ranking = rank(analysis, torch_model, source, parts, options, timed, notes)
    plan, small, law = choose(analysis, ranking, allowed, costs, budget, target, source, parts, options, timed)
    repairs: tuple[Repair, ...] = ()
    small_trace = trace(small)
    if options.compensation:
        feeds = source.batch(parts[0][: fixed_batch(analysis) or 2])
        pruned_torch = to_torch(small, feeds, device=options.device)
        total = len(find_consumers(small, dict(small_trace.shapes)))
        with timed("compensate", total) as advance:
            repairs = tuple(
                compensate(
                    torch_model,
                    pruned_torch,
                    small,
                    analysis.channels,
                    plan,
                    dict(small_trace.shapes),
                    source,
                    parts[0],
                    parts[1],
                    chunk=chunk_size(analysis),
                    seed=options.seed,
                    advance=advance,
                )
            )
        notes += [f"{names.get(r.node, r.node)}: {r.note}" for r in repairs if r.note]
    widths = {g.name: (len(g.channels), int(plan.keep[g.name].sum())) for g in groups}
    return Pruned(
        small,
        analysis,
        plan,
        widths,
        count(small, small_trace),
        law,
        repairs,
        source,
        parts,
        tuple(notes),
        timed.seconds,
    )


@dataclass(frozen=True)
class Ranking:
    """For every group: the order in which its channels go, and the loss at the outputs by number removed."""

    curves: Mapping[str, Curve]
    losses: Mapping[str, np.ndarray]


def rank(
    analysis: Analysis,
    model: TorchModel,
    source: Source,
    parts: Sequence[np.ndarray],
    options: Options,
    timed: Timed,
    notes: list[str],
) -> Ranking:
    """Collect statistics, and make the curve and the loss at the outputs of every group."""
    channels, chunk = analysis.channels, chunk_size(analysis)
    groups = channels.groups
    read_by_groups = {site.node for group in groups for site in group.consumers}
    consumers = {
        c.node: c
        for c in find_consumers(analysis.model, dict(analysis.trace.shapes))
        if c.node in read_by_groups and not (c.window and c.window.transposed and c.groups > 1)
    }
    with timed("statistics", len(parts[0])) as advance:
        moments = collect(
            model, list(consumers.values()), source, parts[0], chunk=chunk, seed=options.seed, advance=advance
        )
    with timed("curves", len(groups)) as advance:
        found = curves(groups, channels, consumers, moments, model, advance)
    for group in groups:
        if group.name not in found:
            found[group.name] = magnitude(group, channels, model)
            notes.append(
                f"{group.name}: no consumer could be fitted; its channels are ranked by the size of their weights"
            )
    if options.search == "uniform":
        return Ranking(found, {name: curve.loss for name, curve in found.items()})
    searched = parts[1] if len(parts[1]) else parts[0]
    images = sensitivity_images(analysis, len(searched))
    with timed("sensitivity", len(groups) * len(sensitivity.CUTS)) as advance:
        measured = sensitivity.measure(
            groups, channels, found, consumers, moments, model, source, searched[:images], chunk=chunk, advance=advance
        )
    return Ranking(found, {name: sensitivity.losses(found[name], measured[name]) for name in found})


def choose(
    analysis: Analysis,
    ranking: Ranking,
    allowed: Mapping[str, np.ndarray],
    costs: CostModel,
    budget: float,
    target: Target,
    source: Source,
    parts: Sequence[np.ndarray],
    options: Options,
    timed: Timed,
) -> tuple[Plan, ir.Model, LawReport]:
    """Search the widths, shrink, and check the law; the budget is verified on the graph that came out."""
    tightened = budget
    with timed("search", 1):
        for _ in range(5):
            widths = SEARCHES[options.search](Problem(ranking.losses, allowed, costs, tightened))
            plan = plan_of(widths, analysis.channels.groups, ranking.curves)
            small = shrink(analysis.model, analysis.channels, plan)
            reached = metric_of(count(small, trace(small)), target.metric)
            if reached <= budget:
                break
            tightened -= 1.05 * (reached - budget)
        else:
            raise Unreachable(f"{target} was not reached: {reached:,.0f} {target.metric} are left")
    feeds = source.batch(parts[0][: fixed_batch(analysis) or 2])
    with timed("check the law", 1):
        law = check_law(analysis.model, analysis.channels, plan, feeds)
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


def deal(source: Source, analysis: Analysis, seed: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[str]]:
    """Deal the samples out to fit, search and report; returns notes where there are too few."""
    batch = fixed_batch(analysis) or 1
    if len(source) < batch:
        raise DataError(f"{source.description}: the model takes {batch} samples at a time, {len(source)} are there")
    parts = [part[: len(part) // batch * batch] for part in split(len(source), PARTS, seed)]
    notes = [*source.notes]
    if not all(len(part) for part in parts):
        parts = [np.arange(len(source) // batch * batch), parts[0][:0], parts[0][:0]]
        notes.append(
            f"with {len(source)} sample{'s' if len(source) > 1 else ''} nothing could be kept apart: the ridge was "
            f"chosen, and the result is reported, on the samples of the fit; give at least {8 * batch}"
        )
    elif len(source) < 64:
        notes.append(f"{len(source)} calibration samples are few: a few hundred make a better model")
    return (parts[0], parts[1], parts[2]), notes


def fixed_batch(analysis: Analysis) -> int | None:
    """Return the batch size that the model insists on, None where it is free."""
    sizes = {spec.shape[0] for spec in input_specs(analysis.model) if spec.shape}
    fixed = {size for size in sizes if size is not None}
    return max(fixed) if fixed else None


def chunk_size(analysis: Analysis) -> int:
    """Return how many samples run at a time, so that the largest value stays small."""
    if (batch := fixed_batch(analysis)) is not None:
        return batch
    largest = max((4 * int(np.prod(shape)) for shape in analysis.trace.shapes.values()), default=1)
    return int(np.clip(CHUNK_BYTES // largest, 1, 64))


def sensitivity_images(analysis: Analysis, available: int) -> int:
    """Return on how many samples sensitivities are measured: what a fixed amount of work allows, 16 at least."""
    runs = len(analysis.channels.groups) * len(sensitivity.CUTS) / 2  # a cut re-runs half of the network on average
    affordable = int(SEARCH_MACS / max(analysis.count.macs * runs, 1))
    batch = fixed_batch(analysis) or 1
    return min(available, max(16, min(affordable, 256))) // batch * batch


def _nothing(channels: Channels) -> str:
    first = channels.frozen[0] if channels.frozen else None
    why = f"; the first obstacle: {first.op_type} {first.node}: {first.reason}" if first else ""
    return f"the model has no channels that could be removed{why}"
