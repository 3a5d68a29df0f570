"""What a run did, for the terminal and as JSON: figures before and after, widths, what stayed and why.

The JSON has `schema_version`, which grows when a field changes its meaning or goes; fields may be added.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.files import write_file
from compress.measurement import Measurement
from compress.targets import METRICS
from graph.channels import Frozen

if TYPE_CHECKING:
    from compress.drop import Candidate, Drop
    from compress.gates import Verdict
    from compress.int8 import Stage
    from compress.measure import OutputError
    from compress.refine import Refinement
    from compress.repair import Repair
    from graph.law import LawReport

SCHEMA_VERSION = 2
WIDTH = 120
BAD = "bold red"
IN_TURN = "latency, of runs in turn"

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True)
class Width:
    """The number of channels of one group before and after."""

    group: str
    before: int
    after: int


@dataclass(frozen=True)
class Asked:
    """A target and what came of it: `limit` and `reached` in the unit of `metric` (macs, params, …)."""

    metric: str
    limit: float
    reached: float
    met: bool


@dataclass(frozen=True)
class Report:
    """Everything that is said about a run; `notes` are whole sentences.

    `measured_on` says what agreement, errors and top-1 were measured on, `used_for` and `samples` how many served for
    the fit, the search, the drop and the report (disjoint sets). `drop` says how a drop was judged and which candidates
    were tried, `gates` are the verdicts on what else was asked, `outputs` how far each output is from the original's,
    `stages` are all models of a run that quantises too (`after` is in floats, `shipped` is what the last of them has)
    and `floats` is the file of the pruned model before that,
    `refinement` what gradient descent brought, `closed_form` has the figures before it, `metric` is the name of the
    user's own. `uncounted` says how many nodes of which operator are not in the MACs, `repairs` what compensation did
    at each consumer, `seconds` the time by stage.
    """

    model: str
    output: str | None
    before: Measurement
    after: Measurement
    outputs: "tuple[OutputError, ...]" = ()
    stages: "tuple[Stage, ...]" = ()
    floats: str | None = None
    targets: tuple[Asked, ...] = ()
    widths: tuple[Width, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    measured_on: str = ""
    used_for: str = ""
    notes: tuple[str, ...] = ()
    data: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    criterion: str = "cap"
    search: str = "lagrange"
    compensation: str = "asymmetric"
    metric: str | None = None
    drop: "Drop | None" = None
    gates: "tuple[Verdict, ...]" = ()
    refinement: "Refinement | None" = None
    closed_form: Measurement | None = None
    law: "LawReport | None" = None
    repairs: "tuple[Repair, ...]" = ()
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def shipped(self) -> tuple[Measurement, "tuple[OutputError, ...]"]:
        """The figures of the model that is the output, and how far its outputs are from the original's."""
        last = self.stages[-1] if self.stages else None
        return (self.after, self.outputs) if last is None or last.figures is None else (last.figures, last.outputs)


def printable(text: str) -> str:
    """Return the text with control characters written out: a name in a model must not steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quantity(value: float) -> str:
    """Write a count with three digits and k, M or G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}" if value < 999.5 * limit else f"{value / limit:.0f} {unit}"
    return f"{value:g}"


def percent(share: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def _milliseconds(measurement: Measurement) -> float | None:
    return None if measurement.latency_ms is None else measurement.latency_ms.p50_ms


def _ratio(old: float, new: float) -> str:
    return f"× {new / old:.3f}" if old else ""


def _points(old: float, new: float) -> str:
    return f"{100 * (new - old):+.1f} points"


@dataclass(frozen=True)
class _Row:
    title: str
    value: Callable[[Measurement], float | None]
    written: Callable[[float], str]
    change: Callable[[float, float], str]


_OUTPUT_ROWS = (
    _Row("top-1", lambda m: m.top1, percent, _points),
    _Row("agreement with the original", lambda m: m.agreement, percent, _points),
    _Row("metric", lambda m: m.metric, lambda v: f"{v:.4g}", lambda old, new: f"{new - old:+.4g}"),
)
_ROWS = (
    _Row("MACs", lambda m: m.macs, quantity, _ratio),
    _Row("parameters", lambda m: m.params, quantity, _ratio),
    _Row("file", lambda m: m.file_bytes, lambda v: f"{quantity(v)}B", _ratio),
    _Row("latency p50", _milliseconds, lambda v: f"{v:.3g} ms", lambda old, new: ""),
    *_OUTPUT_ROWS,
)


def measurement_rows(before: Measurement, after: Measurement) -> tuple[tuple[str, str, str, str], ...]:
    """Return what was measured of either: title, before, after and the change, in words."""
    pairs = [(row, row.value(before), row.value(after)) for row in _ROWS]
    rows = [
        (row.title, _written(row, old), _written(row, new), _change(row, old, new))
        for row, old, new in pairs
        if old is not None or new is not None
    ]
    if after.latency_ms is not None:
        rows.append((IN_TURN, "", "", f"× {after.latency_ms.ratio.value:.3f}"))
    return tuple(rows)


def measurement_table(before: Measurement, after: Measurement) -> Table:
    """Return the table of what was measured of either, with the change."""
    shown = table("", "before", "after", "change")
    slower = after.latency_ms is not None and after.latency_ms.slower
    for row in measurement_rows(before, after):
        shown.add_row(*row, style=BAD if slower and row[0] == IN_TURN else "")
    return shown


def stage_table(stages: "Sequence[Stage]") -> Table:
    """Return the table of what was measured of several models, a column each; the first is the original."""
    shown = table("", *(stage.name for stage in stages))
    for row in stage_rows(stages):
        shown.add_row(*row)
    return shown


def stage_rows(stages: "Sequence[Stage]") -> tuple[tuple[str, ...], ...]:
    """Return what was measured of any of several models: title, and the figure of each, in words."""
    figures = [stage.figures or Measurement() for stage in stages]
    measured = ((row, [row.value(each) for each in figures]) for row in _ROWS)
    rows = [
        (row.title, *(_written(row, value) for value in values))
        for row, values in measured
        if any(value is not None for value in values)
    ]
    times = [each.latency_ms for each in figures]
    if any(time is not None for time in times):
        rows.append((IN_TURN, *("–" if time is None else f"× {time.ratio.value:.3f}" for time in times)))
    return tuple(rows)


def _written(row: _Row, value: float | None) -> str:
    return "–" if value is None else row.written(value)


def _change(row: _Row, old: float | None, new: float | None) -> str:
    return "" if old is None or new is None else row.change(old, new)


def width_table(widths: Sequence[Width]) -> Table:
    """Return the table of the groups that lost channels."""
    shown = table("group", "channels", "kept", "")
    for width in widths:
        if width.after < width.before:
            share = percent(width.after / width.before)
            shown.add_row(Text(printable(width.group)), str(width.before), str(width.after), share)
    return shown


def candidate_table(candidates: "Sequence[Candidate]") -> Table:
    """Return the table of the models that were tried for a drop."""
    shown = table("candidate", "MACs left", "drop", "")
    for number, candidate in enumerate(candidates, 1):
        verdict = "passed" if candidate.passed else "failed"
        shown.add_row(str(number), percent(candidate.macs), f"{candidate.drop:.4f}", verdict)
    return shown


def table(*columns: str) -> Table:
    """Return an empty table in the report's style: the first column left, figures right."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(columns):
        shown.add_column(title, justify="left" if number == 0 else "right", overflow="fold")
    return shown


def console() -> Console:
    """Return a console on stdout; where that is no terminal, as wide as a line of text."""
    return Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)


def print_notes(notes: Iterable[str]) -> None:
    """Print sentences on stderr, a line each: stdout is for the result."""
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)


def print_report(report: Report, to: Console) -> None:
    """Print the report: figures and what they were measured on, targets, widths, what could not be pruned."""
    to.print(Text(printable(report.model) + (f" → {printable(report.output)}" if report.output else "")))
    to.print(stage_table(report.stages) if report.stages else measurement_table(report.before, report.after))
    for stage in report.stages:
        if stage.said:
            to.print(Text(printable(f"{stage.name}: {stage.said}")))
    if report.measured_on:
        to.print(Text(printable(report.measured_on)))
    if report.used_for:
        to.print(Text(report.used_for))
    if report.drop is not None:
        to.print(Text(report.drop.sentence()))
        to.print(candidate_table(report.drop.candidates))
    if report.refinement is not None:
        to.print(Text(refined(report.refinement, report.closed_form)))
    for target in report.targets:
        to.print(Text(_sentence(target), style="" if target.met else BAD))
    print_gates(report.gates, to)
    if any(width.after < width.before for width in report.widths):
        to.print(width_table(report.widths))
    if report.frozen:
        to.print(Text("not pruned: " + "; ".join(_reasons(report.frozen))))


def print_gates(gates: "Iterable[Verdict]", to: Console) -> None:
    """Print a line for each gate, red where it was missed."""
    for gate in gates:
        said = f"gate {gate.name}: {'met' if gate.met else 'MISSED'}, {gate.sentence}"
        to.print(Text(printable(said), style="" if gate.met else BAD))


def refined(refinement: "Refinement", closed_form: Measurement | None) -> str:
    """Say what gradient descent brought."""
    said = f"refined: {refinement.steps} steps, of which the state after {refinement.best} was kept; outputs "
    said += f"{refinement.before:.4g} apart before, {refinement.after:.4g} after, on the samples of the search"
    if closed_form is None:
        return said
    rows = ((row, row.value(closed_form)) for row in _OUTPUT_ROWS)
    figures = [f"{row.title} {row.written(value)}" for row, value in rows if value is not None]
    return f"{said}; before it: {', '.join(figures)}" if figures else said


def _sentence(target: Asked) -> str:
    verdict = "reached" if target.met else "MISSED"
    if target.met and target.reached > target.limit:
        verdict = "reached within the interval of its measurement"
    written = METRICS[target.metric].written
    return f"target {target.metric} ≤ {written(target.limit)}: {verdict}, {written(target.reached)}"


def _reasons(frozen: Iterable[Frozen]) -> list[str]:
    """Say each reason once, with the operator and how many nodes it holds for."""
    nodes: dict[tuple[str, str], int] = {}
    for entry in frozen:
        key = (entry.op_type, entry.reason)
        nodes[key] = nodes.get(key, 0) + 1
    return [printable(f"{count} × {op_type} ({reason})") for (op_type, reason), count in nodes.items()]


def report_json(report: Report, command: str = "prune") -> dict[str, JsonValue]:
    """Return the report of a command as plain values, with `schema_version`; what was not measured is null."""
    return with_version({"command": command, **vars(report)})


def with_version(data: object) -> dict[str, JsonValue]:
    """Return a dataclass as plain values, with `schema_version` first."""
    plain = plain_values(data)
    if not isinstance(plain, dict):
        raise TypeError(f"a JSON report is made of a dataclass or a mapping, not of {type(data).__name__}")
    return {"schema_version": SCHEMA_VERSION, **plain}


def plain_values(value: object) -> JsonValue:
    """Return what JSON can hold; numbers that are not finite become text ("nan", "inf"), which JSON lacks."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_values(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain_values(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_values(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for a {type(value).__name__}")


def write_json(data: Mapping[str, JsonValue], path: Path) -> None:
    """Write JSON in one piece. Raises OptionError where that is not possible."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(text.encode("utf-8"), path)
