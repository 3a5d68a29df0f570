"""The figures of a bench as rows: for the screen and Markdown as one reads them, for CSV as they are."""

import csv
import io
from collections.abc import Sequence

from compress.bench import Latency
from compress.markdown import table
from compress.onboard import Kernel
from compress.report import printable

COLUMNS = (
    "model",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "mean ms",
    "min ms",
    "per s",
    "MB",
    "variation",
    "ratio",
    "95 % interval",
)


def rows(latencies: Sequence[Latency]) -> list[list[str]]:
    """Return a row of text per model under `COLUMNS`; the first one's ratio has no interval."""
    return [_row(number, latency) for number, latency in enumerate(latencies)]


def _row(number: int, latency: Latency) -> list[str]:
    times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.mean_ms, latency.min_ms)
    ratio = latency.ratio
    return [
        printable(latency.model),
        *(f"{figure:.4g}" for figure in times),
        f"{latency.samples_per_second:.4g}",
        "–" if latency.memory_bytes is None else f"{latency.memory_bytes / 1e6:.1f}",
        f"{100 * latency.variation:.1f} %" + (" unstable" if latency.unstable else ""),
        f"{ratio.value:.3f}",
        f"{ratio.low:.3f} … {ratio.high:.3f}" if number else "",
    ]


def markdown(latencies: Sequence[Latency]) -> str:
    """Return the rows as a table in Markdown."""
    return table(COLUMNS, rows(latencies))


def comma_separated(latencies: Sequence[Latency]) -> str:
    """Return the figures in full as CSV, with a line of names above; an unknown one is empty."""
    records = [_record(latency) for latency in latencies]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(latency: Latency) -> dict[str, object]:
    machine = latency.environment
    return {
        "model": latency.model,
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "mean_ms": latency.mean_ms,
        "min_ms": latency.min_ms,
        "samples_per_second": latency.samples_per_second,
        "memory_bytes": latency.memory_bytes,
        "variation": latency.variation,
        "unstable": latency.unstable,
        "ratio": latency.ratio.value,
        "ratio_low": latency.ratio.low,
        "ratio_high": latency.ratio.high,
        "rounds": latency.rounds,
        "runs_per_round": latency.runs_per_round,
        "onnxruntime": machine.onnxruntime,
        "provider": machine.provider,
        "threads": machine.threads,
        "cpu": machine.cpu,
    }


def profile_columns(latencies: Sequence[Latency]) -> tuple[str, ...]:
    """Return the headings of `profile_rows`; the models are numbered as in the table above it."""
    numbered = (f" {number}" if len(latencies) > 1 else "" for number in range(1, len(latencies) + 1))
    return ("operator", *(title + number for number in numbered for title in ("nodes", "ms", "share")))


def profile_rows(latencies: Sequence[Latency]) -> list[list[str]]:
    """Return for every type of operator, those that take most first, how many there are, their time and its share."""
    spent = [by_operator(latency.kernels) for latency in latencies]
    names = sorted(
        {name for each in spent for name in each}, key=lambda name: -max(e.get(name, (0, 0.0))[1] for e in spent)
    )
    totals = [sum(ms for _, ms in each.values()) for each in spent]
    return [
        [
            printable(name),
            *(cell for each, total in zip(spent, totals, strict=True) for cell in _cells(each.get(name), total)),
        ]
        for name in names
    ]


def _cells(found: tuple[int, float] | None, total: float) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    nodes, ms = found
    return str(nodes), f"{ms:.3g}", f"{100 * ms / total:.1f} %" if total else ""


def by_operator(kernels: Sequence[Kernel]) -> dict[str, tuple[int, float]]:
    """Return how many nodes there are of each type of operator, and the milliseconds of one run of all of them."""
    found: dict[str, tuple[int, float]] = {}
    for kernel in kernels:
        nodes, ms = found.get(kernel.op_type, (0, 0.0))
        found[kernel.op_type] = nodes + 1, ms + 1e-3 * kernel.microseconds
    return found
