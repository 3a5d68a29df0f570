"""What the searches that try whole networks are given as well: how far to go."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _unheard(units: int = 1) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Effort:
    """How far a search goes: the number of trials in all, in how many processes, and where it is remembered.

    `ray` is the address of a cluster that makes the trials instead. `checkpoint` is a JSON file that is read where it
    exists and written as the search goes on. `advance` hears of trials done.
    """

    seed: int = 0
    candidates: int = 240
    jobs: int = 1
    ray: str | None = None
    checkpoint: Path | None = None
    advance: Callable[..., None] = _unheard
