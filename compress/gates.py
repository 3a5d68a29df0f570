"""Gates of a pipeline: what must hold of a model beside its original, and the verdict on each.

A gate is a line of `GATES`: how its limit is read, and which figure is held against it. A figure that is measured with
an interval holds where any of its interval does, as a target of latency does; one that could not be had never holds.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from compress.errors import OptionError
from compress.measurement import Measurement
from compress.targets import METRICS, parse_target

if TYPE_CHECKING:
    from compress.measure import OutputError

SLACK = 1e-12  # 0.93 - 0.92 > 0.01 in floating point


@dataclass(frozen=True)
class Gate:
    """A limit that the user set on one of `GATES`: a figure, or a share of the original's where `relative`."""

    name: str
    limit: float
    relative: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of something that was asked for, a "gate" or a "target", which is its `kind`.

    `limit` and `reached` are in the unit of what is judged; `reached` is None where that is not known.
    """

    name: str
    kind: str
    limit: float
    reached: float | None
    met: bool
    sentence: str


@dataclass(frozen=True)
class Figures:
    """All that gates are judged by: the original, the other model, and the relative error of each output."""

    before: Measurement
    after: Measurement
    outputs: "Sequence[OutputError]" = ()


class Fact(NamedTuple):
    """A figure (None: not known) and the words for it; `best` is the better end of its interval, where it has one.

    `original` is what a share is a share of.
    """

    value: float | None
    said: str
    best: float | None = None
    original: float = 0.0


class Limit(NamedTuple):
    """A figure, or a share of the original's."""

    value: float
    relative: bool = False


@dataclass(frozen=True)
class Kind:
    """A gate that there is: its limit is one from below where `least`, read from the text of an option."""

    metavar: str
    help: str
    read: Callable[[str, str], Limit]
    fact: Callable[[Figures], Fact]
    written: Callable[[float], str] = "{:g}".format
    least: bool = False


def read_gate(name: str, text: str) -> Gate:
    """Return the gate of that name with the limit in a text. Raises OptionError or TargetError."""
    return Gate(name, *GATES[name].read(f"--{name}", text))


def judge(gate: Gate, figures: Figures) -> Verdict:
    """Hold a gate against the figures; what is not known is missed, with the reason."""
    kind = GATES[gate.name]
    fact = kind.fact(figures)
    limit = gate.limit * fact.original if gate.relative else gate.limit
    best = fact.value if fact.best is None else fact.best
    met = best is not None and (best >= limit - SLACK if kind.least else best <= limit + SLACK)
    share = f" ({gate.limit:g} of the original's)" if gate.relative else ""
    asked = f"asked for {'at least' if kind.least else 'at most'} {kind.written(limit)}{share}"
    return Verdict(gate.name, "gate", limit, fact.value, met, f"{fact.said}, {asked}")


def judged(gates: Iterable[Gate], figures: Figures) -> tuple[Verdict, ...]:
    """Return the verdict on each gate."""
    return tuple(judge(gate, figures) for gate in gates)


def _number(lowest: float, highest: float, wanted: str) -> Callable[[str, str], Limit]:
    """Return a reader of plain numbers from `lowest` to `highest`."""

    def read(option: str, text: str) -> Limit:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:  # NaN is not
            raise OptionError(f"{option} {text!r}: give {wanted}")
        return Limit(value)

    return read


def _countable(metric: str) -> Callable[[str, str], Limit]:
    """Return a reader of shares and counts, as targets are written."""

    def read(option: str, text: str) -> Limit:
        target = parse_target(metric, text, option)
        return Limit(target.limit, target.relative)

    return read


def _agreement(figures: Figures) -> Fact:
    share = figures.after.agreement
    if share is None:
        return Fact(None, "agreement is not known, for no single output holds class scores (compare takes --scores)")
    return Fact(share, f"agreement is {share:.6g}")


def _drop(figures: Figures) -> Fact:
    before, after = figures.before, figures.after
    for judged, old, new in (("the metric", before.metric, after.metric), ("top-1", before.top1, after.top1)):
        if old is not None and new is not None:
            return Fact(old - new, f"{judged} fell by {old - new:.6g} (from {old:.6g} to {new:.6g})")
    return Fact(
        None, "top-1 is not known, for it takes labels and one output with class scores (--scores), or a --metric"
    )


def _error(figures: Figures) -> Fact:
    for output in figures.outputs:
        if output.relative_error is None:
            return Fact(None, f"output {output.name} cannot be compared ({output.reason})")
    name, error = max(((each.name, each.relative_error or 0.0) for each in figures.outputs), key=lambda entry: entry[1])
    return Fact(error, f"the largest relative error of an output is {error:.6g} ({name})")


def _speedup(figures: Figures) -> Fact:
    latency = figures.after.latency_ms
    if latency is None:
        return Fact(None, "the speedup is not known, for latency was not measured")
    speedup, least, most = (1 / ratio for ratio in (latency.ratio.value, latency.ratio.high, latency.ratio.low))
    return Fact(speedup, f"the speedup is {speedup:.4g} ({least:.4g} to {most:.4g})", most)


def _size(figures: Figures) -> Fact:
    size = figures.after.file_bytes
    said = "the size of the file is not known" if size is None else f"the file has {METRICS['bytes'].written(size)}"
    return Fact(size, said, original=figures.before.file_bytes or 0)


def _macs(figures: Figures) -> Fact:
    macs = figures.after.macs
    said = "the MACs are not known" if macs is None else f"the model has {METRICS['macs'].written(macs)}"
    return Fact(macs, said, original=figures.before.macs or 0)


_SHARE = _number(0, 1, "a share from 0 to 1")
_LARGEST = 1e6  # that makes sense for a ratio

GATES = {
    "min-agreement": Kind("SHARE", "top-1 agrees on less than this.", _SHARE, _agreement, least=True),
    "max-drop": Kind("SHARE", "top-1, or the --metric, falls by more (0.01 = 1 point).", _SHARE, _drop),
    "max-error": Kind(
        "NUMBER",
        "the relative error of any output is larger (0.05 = 5 %).",
        _number(0, _LARGEST, "a number from 0 on, such as 0.05"),
        _error,
    ),
    "min-speedup": Kind(
        "RATIO",
        "it is faster by less (1.5: in 1/1.5 of the time), as timed here.",
        _number(1 / _LARGEST, _LARGEST, "a number above 0, such as 1.5"),
        _speedup,
        least=True,
    ),
    "max-size": Kind(
        "SHARE|BYTES", "the file is larger: 0.5, 50% or 5MB.", _countable("bytes"), _size, METRICS["bytes"].written
    ),
    "max-flops": Kind(
        "SHARE|COUNT", "there are more MACs: 0.5, 50% or 60M.", _countable("macs"), _macs, METRICS["macs"].written
    ),
}
