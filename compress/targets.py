"""What the user asks for: a metric, a limit, and whether the limit is a share of the original."""

import math
import re
from dataclasses import dataclass

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30, "TI": 2.0**40}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*"


@dataclass(frozen=True)
class Countable:
    """A figure that can be limited: its option, the unit's pattern, and how a count of it may look."""

    option: str
    unit: str
    example: str


METRICS = {
    "macs": Countable("--target-flops", "[KMGT]?", "60M"),
    "params": Countable("--target-params", "[KMGT]?", "60M"),
    "bytes": Countable("--target-size", "(?:[KMGT]i?)?B?", "4MB"),
}


class TargetError(ValueError):
    """A target that cannot be read or makes no sense (exit code 2)."""


class Unreachable(Exception):
    """No permitted widths reach the target (exit code 1)."""


@dataclass(frozen=True)
class Target:
    """Keep at most `limit` of `metric` ("macs", "params" or "bytes"); a share of the original's where `relative`."""

    metric: str
    limit: float
    relative: bool

    def budget(self, original: float) -> float:
        """Return the limit in the metric's own unit, for an original of that size."""
        return self.limit * original if self.relative else self.limit

    @property
    def short(self) -> str:
        """The figure alone, as the command line takes it."""
        return f"{self.limit:g}" if self.relative else f"{self.limit:.0f}"

    def __str__(self) -> str:
        """Return the target in words."""
        figure = f"{self.limit:g} of the original's" if self.relative else f"at most {self.limit:,.0f}"
        return f"{figure} {self.metric}"


def parse_target(metric: str, text: str | float) -> Target:
    """Read "0.5", "50%" (shares of the original) or "60M", "1.2G", "60000000" (absolute; MACs, parameters or bytes).

    A figure of at most 1 is a share. Bytes may be followed by B ("4MB", "3.5MiB"). Raises TargetError.
    """
    option, example = METRICS[metric].option, METRICS[metric].example
    match = re.fullmatch(rf"{_NUMBER}(%|{METRICS[metric].unit})\s*", str(text), re.IGNORECASE | re.ASCII)
    if match is None:
        raise TargetError(
            f"{option} {text!r} is not a share such as 0.5 or 50%, nor a count such as {example}: give a number above 0"
        )
    number, unit = float(match[1]), match[2].upper()
    if unit == "%":
        number, unit = number / 100, ""
        if number > 1:
            raise TargetError(f"{option} {text!r} is more than the whole network: give at most 100%")
    relative = unit == "" and number <= 1
    limit = number * _UNITS[unit.removesuffix("B")]
    if math.isinf(limit):
        raise TargetError(f"{option} {text!r} is too large a number: give a share between 0 and 1, or a count")
    if limit <= 0:
        raise TargetError(f"{option} {text!r} leaves nothing of the network: give a share between 0 and 1, or a count")
    if not relative and unit == "" and limit < 100:
        raise TargetError(f"{option} {text!r} is above 1: give a share between 0 and 1, or a count such as {example}")
    return Target(metric, limit, relative)


def kept_as(stem: str, target: Target) -> str:
    """Return the name of the file in which a sweep keeps the model of one target."""
    return f"{stem}-{target.short}.onnx"
