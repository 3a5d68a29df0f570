"""A prepared model cut to its limits: search → shrink → check the law → compensate → refine → store as before."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from compress.costs import Widths, weighted
from compress.data import Data
from compress.file_size import finished, written_bytes
from compress.goal import Limit
from compress.prepare import Examined, Prepared
from compress.progress import Timed
from compress.refine import Refinement
from compress.refit import refined, refit, repair_notes
from compress.repair import Repair
from compress.searches import SEARCHES, WITH_RETRIALS, Budget, Problem
from compress.searches.effort import Effort
from compress.settings import Options
from compress.targets import METRICS, Target, Unreachable
from compress.widths import plan_of
from graph.analysis import Analysis
from graph.bridge import to_torch
from graph.count import Count, count
from graph.law import LawReport, check_law
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

if TYPE_CHECKING:
    from compress.drop import Drop


ROUNDS = 6  # of searching and measuring
SAFE = 0.985  # of a limit of latency: what was chosen for being below it should be so when it is measured again
CLOSE = 0.96  # of a limit of latency: less was cut too deep


@dataclass(frozen=True)
class Reached:
    """A limit and what came of it, in the metric's own unit.

    A latency that was timed is `within` the limit where its interval reaches below it.
    """

    limit: Limit
    figure: float
    within: bool


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
    drop: "Drop | None" = None
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
    kept = {name: int(mask.sum()) for name, mask in plan.keep.items()}
    timely = [limit for limit in limits if limit.metric == "latency"]
    with timed("clock", 1) if timely else nullcontext():
        reached = tuple(figure(examined, limit, kept, counted, small) for limit in limits)
    if over := [each for each in reached if not each.within and each.limit.metric != "latency"]:
        raise Unreachable(_missed(over))  # weights that could not be stored again as they were take more bytes
    widths = {group.name: (len(group.channels), kept[group.name]) for group in analysis.channels.groups}
    unrefined = (f"refine: {refinement.note}",) if refinement is not None and refinement.note else ()
    notes = (*prepared.notes, *repair_notes(repairs, examined.names), *unrefined, *kept_wide)
    return Pruned(small, prepared, plan, widths, counted, reached, law, repairs, notes, closed_form, refinement)


def choose(prepared: Prepared, limits: Sequence[Limit], timed: Timed) -> tuple[Plan, ir.Model]:
    """Search the widths and shrink; of what holds the limits, the widths that lose least.

    Costs are exact for counts, but for what the file adds, and tables for latency, which are off where a layer takes
    microseconds. So where a clock can tell, a target of latency is searched by MACs as well, as if time went with them.
    """
    examined = prepared.examined
    effort = effort_of(examined.options)
    budgets = tuple(limit.budget for limit in limits)
    ways = [budgets]
    timely = any(limit.metric == "latency" for limit in limits)
    if timely and examined.clock is not None and prepared.trials is None:  # trials are too dear to be made twice
        ways.append(tuple(_by_macs(examined, limit) for limit in limits))
    found: list[_Chosen] = []
    missed: list[Unreachable] = []
    total = 1 if prepared.trials is None else effort.candidates
    if prepared.retrials is not None:
        total += WITH_RETRIALS[examined.options.search]
    with timed("search", total) as advance:
        for way in ways:
            try:
                found.append(_fitting(prepared, limits, way, replace(effort, advance=advance)))
            except Unreachable as error:
                missed.append(error)
    if not found:
        raise missed[0]
    best = min(found, key=_Chosen.rank)
    return best.plan, best.model


def _by_macs(examined: Examined, limit: Limit) -> Budget:
    """Return the budget of a limit, one of latency as if time went with the MACs."""
    if limit.metric != "latency":
        return limit.budget
    macs = examined.limit(Target("macs", 1.0, True))
    return Budget(weighted([(limit.original / macs.original, macs.cost)]), limit.limit)


@dataclass(frozen=True)
class _Chosen:
    """A plan, the model shrunk by it, what it loses by the account of the search, and whether the clock is sure."""

    plan: Plan
    model: ir.Model
    loss: float
    safe: bool

    def rank(self) -> tuple[bool, float]:
        """What is better comes first."""
        return not self.safe, self.loss


def _fitting(prepared: Prepared, limits: Sequence[Limit], budgets: Sequence[Budget], effort: Effort) -> _Chosen:
    """Search and shrink within budgets; what came out is counted and timed, and the search repeated where that is off.

    A budget whose limit was missed is tightened; one of latency that was undercut is loosened, as long as there are
    rounds left. Raises Unreachable.
    """
    examined, ranking = prepared.examined, prepared.ranking
    analysis, one = examined.analysis, examined.data.few(1)
    search = SEARCHES[examined.options.search]
    best: _Chosen | None = None
    missed: tuple[Reached, ...] = ()
    seen: list[Widths] = []
    for _ in range(ROUNDS):
        problem = Problem(
            ranking.losses,
            examined.allowed,
            tuple(budgets),
            prepared.trials,
            effort,
            analysis.channels.together,
            prepared.retrials,
        )
        widths = search(problem)
        effort = replace(effort, checkpoint=None)  # of the budgets as they were
        if widths in seen:
            break
        seen.append(widths)
        plan = plan_of(widths, analysis.channels.groups, ranking.curves)
        small = shrink(analysis.model, analysis.channels, plan)
        counted = count(small, trace(small, one))
        written = small
        if any(limit.metric in ("bytes", "latency") for limit in limits):
            written, _ = finished(small, analysis.stored, examined.original)
        reached = tuple(figure(examined, limit, widths, counted, written) for limit in limits)
        if over := tuple(each for each in reached if each.figure > each.limit.limit):
            missed = over
        else:
            clocked = [each for each in reached if each.limit.metric == "latency" and examined.clock is not None]
            shares = [each.figure / each.limit.limit for each in clocked]
            found = _Chosen(plan, small, problem.loss(widths), all(share <= SAFE for share in shares))
            best = found if best is None else min(best, found, key=_Chosen.rank)
            if all(CLOSE <= share <= SAFE for share in shares):
                break
        budgets = [_adjusted(budget, each) for budget, each in zip(budgets, reached, strict=True)]
    if best is None:
        raise Unreachable(_missed(missed))
    return best


def _adjusted(budget: Budget, reached: Reached) -> Budget:
    """Return a budget moved by what the figure is off the limit."""
    over = reached.figure - reached.limit.limit
    if reached.limit.metric == "latency":
        return replace(budget, limit=budget.limit - over - (1 - (SAFE + CLOSE) / 2) * reached.limit.limit)
    return replace(budget, limit=budget.limit - 1.05 * max(over, 0.0))


def effort_of(options: Options) -> Effort:
    """Return how far a search that tries whole networks goes."""
    checkpoint = None if options.checkpoint is None else Path(options.checkpoint)
    return Effort(seed=options.seed, jobs=options.jobs, ray=options.ray, checkpoint=checkpoint)


def figure(examined: Examined, limit: Limit, widths: Mapping[str, int], counted: Count, written: ir.Model) -> Reached:
    """Return what came of a limit: of a model's counts, of the model as it is written, or by the clock."""
    if limit.metric == "latency":
        if (clock := examined.clock) is None:
            found = limit.cost.total(widths)
            return Reached(limit, found, found <= limit.limit)
        ratio = clock.ratio(written)
        return Reached(limit, ratio.value * limit.original, ratio.low * limit.original <= limit.limit)
    if limit.metric == "bytes":
        found = written_bytes(written)
    else:
        found = counted.macs if limit.metric == "macs" else counted.params
    return Reached(limit, found, found <= limit.limit)


def _missed(missed: Sequence[Reached]) -> str:
    return "; ".join(
        f"{each.limit.target} was not reached: {METRICS[each.limit.metric].written(each.figure)} are left"
        for each in missed
    )
