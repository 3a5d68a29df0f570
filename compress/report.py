"""What a run did, for the terminal and as JSON: figures before and after, widths, what stayed and why.

The JSON has `schema_version`, which grows when a field changes its meaning or goes; fields may be added.
"""

import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.errors import OptionError
from compress.measurement import Measurement
from graph.channels import Frozen

if TYPE_CHECKING:
    from compress.repair import Repair
    from graph.law import LawReport

SCHEMA_VERSION = 1
WIDTH = 120

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

    `measured_on` says what agreement, errors and top-1 were measured on, `samples` how many served for the fit, the
    search and the report (disjoint sets), `uncounted` how many nodes of which operator are not in the MACs, `repairs`
    what compensation did at each consumer, `seconds` the time by stage.
    """

    model: str
    output: str | None
    before: Measurement
    after: Measurement
    targets: tuple[Asked, ...] = ()
    widths: tuple[Width, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    measured_on: str = ""
    notes: tuple[str, ...] = ()
    data: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    law: "LawReport | None" = None
    repairs: "tuple[Repair, ...]" = ()
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


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


@dataclass(frozen=True)
class _Row:
    title: str
    value: Callable[[Measurement], float | None]
    written: Callable[[float], str]
    as_ratio: bool


_ROWS = (
    _Row("MACs", lambda m: m.macs, quantity, True),
    _Row("parameters", lambda m: m.params, quantity, True),
    _Row("file", lambda m: m.file_bytes, lambda v: f"{quantity(v)}B", True),
    _Row("latency p50", _milliseconds, lambda v: f"{v:.3g} ms", True),
    _Row("top-1", lambda m: m.top1, percent, False),
    _Row("agreement with the original", lambda m: m.agreement, percent, False),
)


def measurement_table(before: Measurement, after: Measurement) -> Table:
    """Return the table of what was measured of either, with the change."""
    shown = table("", "before", "after", "change")
    for row in _ROWS:
        old, new = row.value(before), row.value(after)
        if old is not None or new is not None:
            shown.add_row(row.title, _written(row, old), _written(row, new), _change(row, old, new))
    return shown


def _written(row: _Row, value: float | None) -> str:
    return "–" if value is None else row.written(value)


def _change(row: _Row, old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return ""
    if row.as_ratio:
        return f"× {new / old:.3f}" if old else ""
    return f"{100 * (new - old):+.1f} points"


def width_table(widths: Sequence[Width]) -> Table:
    """Return the table of the groups that lost channels."""
    shown = table("group", "channels", "kept", "")
    for width in widths:
        if width.after < width.before:
            share = percent(width.after / width.before)
            shown.add_row(Text(printable(width.group)), str(width.before), str(width.after), share)
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
    to.print(measurement_table(report.before, report.after))
    if report.measured_on:
        to.print(Text(printable(report.measured_on)))
    for target in report.targets:
        to.print(Text(_sentence(target)))
    if any(width.after < width.before for width in report.widths):
        to.print(width_table(report.widths))
    if report.frozen:
        to.print(Text("not pruned: " + "; ".join(_reasons(report.frozen))))


def _sentence(target: Asked) -> str:
    verdict = "reached" if target.met else "MISSED"
    return f"target {target.metric} ≤ {quantity(target.limit)}: {verdict}, {quantity(target.reached)}"


def _reasons(frozen: Iterable[Frozen]) -> list[str]:
    """Say each reason once, with the operator and how many nodes it holds for."""
    nodes: dict[tuple[str, str], int] = {}
    for entry in frozen:
        key = (entry.op_type, entry.reason)
        nodes[key] = nodes.get(key, 0) + 1
    return [printable(f"{count} × {op_type} ({reason})") for (op_type, reason), count in nodes.items()]


def report_json(report: Report) -> dict[str, JsonValue]:
    """Return the report as plain values, with `schema_version`; what was not measured is null."""
    return with_version(report)


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
    """Write JSON to a temporary file beside `path` and rename it. Raises OptionError where that is not possible."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(text, encoding="utf-8")
            os.replace(written, path)
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}") from error
