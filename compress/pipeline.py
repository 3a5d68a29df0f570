"""The main job: a trained model and targets in, a smaller model out.

examine   load → open data → simplify → couple → permitted widths        compress.prepare
profiled  the latency of the layers, where that is a target              compress.latency
prepare   convert → calibrate → curves → sensitivities
cut       search → shrink → check the law → compensate → refine          compress.cut
smallest  cut at several budgets, where a drop is allowed                compress.drop
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.cut import Pruned, cut
from compress.drop import smallest
from compress.prepare import examine, prepare, profiled
from compress.progress import Progress, Timed, silent
from compress.settings import AUTO, Options
from compress.targets import Target, parse_target

__all__ = ["Goal", "Options", "prune_model", "targets_of"]

Goal = Target | float | str | Sequence[Target] | None

_DEFAULTS = Options()


def prune_model(
    model: ir.Model | str | Path,
    goal: Goal = None,
    data: Any = None,
    options: Options = _DEFAULTS,
    progress: Progress = silent,
) -> Pruned:
    """Prune a model to a goal. Raises ModelError, DataError, OptionError, TargetError, Unreachable or LawError."""
    timed = Timed(progress)
    targets = targets_of(goal, options)
    timely = any(target.metric == "latency" for target in targets)
    if timely and options.round_to is None:
        options = replace(options, round_to=AUTO)
    examined = examine(model, data, options, timed)
    if timely:
        examined = profiled(examined, timed)
    limits = examined.limits(targets)
    prepared = prepare(examined, timed)
    if options.max_drop is None:
        return replace(cut(prepared, limits, timed), seconds=timed.seconds)
    pruned, drop = smallest(prepared, limits, options.max_drop, timed)
    return replace(pruned, drop=drop, seconds=timed.seconds)


def targets_of(goal: Goal, options: Options) -> tuple[Target, ...]:
    """Return the targets that a goal means: a figure is of MACs; none is half of them, or what a drop allows."""
    if goal is None:
        return () if options.max_drop is not None else (Target("macs", 0.5, True),)
    if isinstance(goal, Target):
        return (goal,)
    return (parse_target("macs", goal),) if isinstance(goal, str | float | int) else tuple(goal)
