"""A prepared model cut to its limits: search → shrink → check the law → compensate → refine → store as before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from compress.data import Data
from compress.file_size import finished, written_bytes
from compress.goal import Limit
from compress.prepare import Prepared
from compress.progress import Timed
from compress.refine import Refinement
from compress.refit import refined, refit, repair_notes
from compress.repair import Repair
from compress.searches import SEARCHES, Problem
from compress.searches.effort import Effort
from compress.settings import Options
from compress.targets import Unreachable
from compress.widths import plan_of
from graph.analysis import Analysis
from graph.bridge import to_torch
from graph.count import Count, count
from graph.law import LawReport, check_law
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

if TYPE_CHECKING:
    from compress.gate import Gate


@dataclass(frozen=True)
class Reached:
    """A limit and what came of it, in the metric's own unit."""

    limit: Limit
    figure: float


@dataclass(frozen=True)
class Pruned:
    """A model cut to its limits, before it is measured.

    `widths` are (before, after) by group, `notes` the calibration's and then its own, `closed_form` the model before
    the `refinement`, where there was one, `gate` what it passed where a drop was allowed, `seconds` the time by stage.
    """

    model: ir.Model
    prepared: Prepared
    plan: Plan
    widths: Mapping[str, tuple[int, int]]
    count: Count
    reached: tuple[Reached, ...]
    law: LawReport
    repairs: tuple[Repair, ...]
    notes: tuple[str, ...]
    closed_form: ir.Model | None = None
    refinement: Refinement | None = None
    gate: "Gate | None" = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def analysis(self) -> Analysis:
        """What is known of the original."""
        return self.prepared.examined.analysis

    @property
    def data(self) -> Data:
        """The samples that it was made with."""
        return self.prepared.examined.data


def cut(prepared: Prepared, limits: Sequence[Limit], timed: Timed) -> Pruned:
    """Cut a prepared model so that all limits hold. Raises Unreachable or LawError."""
    plan, small = choose(prepared, limits, timed)
    return cut_as_planned(prepared, limits, plan, small, timed)


def cut_as_planned(prepared: Prepared, limits: Sequence[Limit], plan: Plan, small: ir.Model, timed: Timed) -> Pruned:
    """Make the most of `small`, the model shrunk by a plan; it is changed. Raises Unreachable or LawError."""
    examined = prepared.examined
    analysis, data = examined.analysis, examined.data
    with timed("check the law", 1):
        law = check_law(analysis.model, analysis.channels, plan, data.few())
    traced = trace(small, data.few(1))
    pruned = to_torch(small, data.few(), device=examined.options.device)
    shapes = dict(traced.shapes)
    repairs = refit(prepared, small, pruned, plan, shapes, timed)
    closed_form, refinement = None, None
    if examined.options.refine:
        closed_form, _ = finished(small, analysis.stored, examined.original)
        refinement = refined(prepared, small, pruned, plan, shapes, timed)
    counted = count(small, traced)
    small, kept_wide = finished(small, analysis.stored, examined.original)
    reached = tuple(Reached(limit, figure(limit.metric, counted, small)) for limit in limits)
    if over := [each for each in reached if each.figure > each.limit.limit]:
        raise Unreachable(_missed(over))  # weights that could not be stored again as they were take more bytes
    groups = analysis.channels.groups
    widths = {group.name: (len(group.channels), int(plan.keep[group.name].sum())) for group in groups}
    unrefined = (f"refine: {refinement.note}",) if refinement is not None and refinement.note else ()
    notes = (*prepared.notes, *repair_notes(repairs, examined.names), *unrefined, *kept_wide)
    return Pruned(small, prepared, plan, widths, counted, reached, law, repairs, notes, closed_form, refinement)


def choose(prepared: Prepared, limits: Sequence[Limit], timed: Timed) -> tuple[Plan, ir.Model]:
    """Search the widths and shrink; the limits are verified on the graph that came out, and tightened where missed."""
    examined, ranking = prepared.examined, prepared.ranking
    analysis, one = examined.analysis, examined.data.few(1)
    search, effort = SEARCHES[examined.options.search], effort_of(examined.options)
    budgets = [limit.budget for limit in limits]
    with timed("search", 1 if prepared.trials is None else effort.candidates) as advance:
        effort = replace(effort, advance=advance)
        for _ in range(5):
            widths = search(Problem(ranking.losses, examined.allowed, tuple(budgets), prepared.trials, effort))
            effort = replace(effort, checkpoint=None)  # of the budgets as they were
            plan = plan_of(widths, analysis.channels.groups, ranking.curves)
            small = shrink(analysis.model, analysis.channels, plan)
            counted = count(small, trace(small, one))
            written = small
            if any(limit.metric == "bytes" for limit in limits):
                written, _ = finished(small, analysis.stored, examined.original)
            figures = [figure(limit.metric, counted, written) for limit in limits]
            over = [max(found - limit.limit, 0.0) for found, limit in zip(figures, limits, strict=True)]
            if not any(over):
                return plan, small
            budgets = [replace(b, limit=b.limit - 1.05 * more) for b, more in zip(budgets, over, strict=True)]
    missed = [Reached(limit, found) for limit, found in zip(limits, figures, strict=True) if found > limit.limit]
    raise Unreachable(_missed(missed))


def effort_of(options: Options) -> Effort:
    """Return how far a search that tries whole networks goes."""
    checkpoint = None if options.checkpoint is None else Path(options.checkpoint)
    return Effort(seed=options.seed, jobs=options.jobs, checkpoint=checkpoint)


def figure(metric: str, counted: Count, written: ir.Model) -> float:
    """Return what a target limits, of a model as it is written."""
    if metric == "bytes":
        return written_bytes(written)
    return counted.macs if metric == "macs" else counted.params


def _missed(missed: Sequence[Reached]) -> str:
    return "; ".join(
        f"{each.limit.target} was not reached: {each.figure:,.0f} {each.limit.metric} are left" for each in missed
    )
