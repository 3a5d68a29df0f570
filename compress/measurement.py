"""The figures of one model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.bench import Latency


@dataclass(frozen=True)
class Measurement:
    """One model in figures; None is what was not measured.

    `agreement` is with the original model, `metric` the user's own; `relative_error` is of the output on which it is
    largest.
    """

    params: int | None = None
    macs: int | None = None
    file_bytes: int | None = None
    latency_ms: "Latency | None" = None
    agreement: float | None = None
    top1: float | None = None
    metric: float | None = None
    relative_error: float | None = None
