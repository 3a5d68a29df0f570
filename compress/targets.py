"""What the user asks for: a metric, a limit, and whether the limit is a share of the original."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = _COUNTS | {"KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30, "TI": 2.0**40}
_MILLISECONDS = {"US": 1e-3, "MS": 1.0, "S": 1e3}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*"


@dataclass(frozen=True)
class Countable:
    """A figure that can be limited: its option, its units in capitals, and how a figure of it may look.

    A unit is followed by `tail`, or not; `figure` is the pattern in which the program writes one.
    """

    option: str
    units: Mapping[str, float]
    example: str
    figure: str
    tail: str = ""

    def written(self, value: float) -> str:
        """Return a figure with its unit."""
        return self.figure.format(value)


METRICS = {
    "macs": Countable("--target-flops", _COUNTS, "60M", "{:,.0f} macs"),
    "params": Countable("--target-params", _COUNTS, "60M", "{:,.0f} params"),
    "bytes": Countable("--target-size", _BYTES, "4MB", "{:,.0f} bytes", tail="B"),
    "latency": Countable("--target-latency", _MILLISECONDS, "8ms", "{:.4g} ms"),
}


class TargetError(ValueError):
    """A target that cannot be read or makes no sense (exit code 2)."""


class Unreachable(Exception):
    """No permitted widths reach the target (exit code 1)."""


@dataclass(frozen=True)
class Target:
    """Keep at most `limit` of `metric`, one of METRICS; a share of the original's where `relative`.

    Latency is in milliseconds, the others are counts.
    """

    metric: str
    limit: float
    relative: bool

    def budget(self, original: float) -> float:
        """Return the limit in the metric's own unit, for an original of that size."""
        return self.limit * original if self.relative else self.limit

    @property
    def short(self) -> str:
        """The figure alone, as the command line takes it."""
        if self.relative:
            return f"{self.limit:g}"
        return f"{self.limit:g}ms" if self.metric == "latency" else f"{self.limit:.0f}"

    def __str__(self) -> str:
        """Return the target in words."""
        if self.relative:
            return f"{self.limit:g} of the original's {self.metric}"
        return f"at most {METRICS[self.metric].written(self.limit)}"


def parse_target(metric: str, text: str | float, option: str | None = None) -> Target:
    """Read "0.5", "50%" (shares of the original) or "60M", "60000000" (a count), "4MB" (bytes), "8ms" (a time).

    A figure of at most 1 without a unit is a share; a time needs its unit. Raises TargetError, which names the option:
    the metric's own, unless `option` is another that is read in the same way.
    """
    known = METRICS[metric]
    option, example = option or known.option, known.example
    units = "|".join(sorted(known.units, key=len, reverse=True))
    pattern = rf"{_NUMBER}(%|(?:{units})?{known.tail and f'{known.tail}?'})\s*"
    match = re.fullmatch(pattern, str(text), re.IGNORECASE | re.ASCII)
    if match is None:
        raise TargetError(
            f"{option} {text!r} is not a share such as 0.5 or 50%, nor a figure such as {example}: "
            "give a number above 0"
        )
    number, unit = float(match[1]), match[2].upper()
    if unit == "%":
        number, unit = number / 100, ""
        if number > 1:
            raise TargetError(f"{option} {text!r} is more than the whole network: give at most 100%")
    relative = unit == "" and number <= 1
    limit = number if relative else number * known.units.get(unit.removesuffix(known.tail), 1.0)
    if math.isinf(limit):
        raise TargetError(f"{option} {text!r} is too large a number: give a share between 0 and 1, or {example}")
    if limit <= 0:
        raise TargetError(
            f"{option} {text!r} leaves nothing of the network: give a share between 0 and 1, or {example}"
        )
    if unit == "" and not relative and (limit < 100 or "" not in known.units):
        raise TargetError(f"{option} {text!r} is above 1: give a share between 0 and 1, or a figure such as {example}")
    return Target(metric, limit, relative)


def kept_as(stem: str, target: Target) -> str:
    """Return the name of the file in which a sweep keeps the model of one target."""
    return f"{stem}-{target.short}.onnx"
