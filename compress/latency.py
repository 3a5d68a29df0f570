"""Latency as a target: the machine's own tables say what widths cost, and its clock what came of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.errors import OptionError
from compress.onboard import NoProvider, Settings, Timed, available, rounds, runs_per_turn
from compress.profiling import multiples, on_device
from compress.profiling.kit import Kit
from compress.profiling.profile import Profile
from compress.settings import AUTO, Options
from compress.statistics import Ratio, median_ratio
from graph.model import serialised

SITTINGS = 3  # of one comparison: where in memory a session happens to lie makes it a little faster or slower
SECONDS = 0.8  # of each


def settings_of(options: Options) -> Settings:
    """Return how models are to be run. Raises OptionError for a provider that is not there."""
    try:
        return Settings(threads=options.threads, provider=available(options.provider))
    except NoProvider as error:
        raise OptionError(str(error)) from error


def multiple(options: Options, profile: Profile | None, advance: Callable[[], None] = lambda: None) -> int:
    """Return what widths are to be rounded to: as given, or for "auto" what the machine likes.

    Where nothing was said, what the machine likes that a profile is of, and 1 without one.
    """
    if options.round_to is None:
        return 1 if profile is None else profile.multiple or 1
    if options.round_to != AUTO:
        return int(options.round_to)
    if options.profile is None:
        return multiples.measured(settings_of(options), advance=advance)
    if profile is None or profile.multiple is None:
        raise OptionError(
            f"the profile {options.profile} does not say what multiple of channels suits: give --round-to"
        )
    return profile.multiple


def measured(made: Kit, stage: Callable[[int], Callable[[], None]]) -> dict[str, Any]:
    """Return the profile of a kit on this machine, as JSON takes it; `stage` is told how many steps it takes."""
    return on_device.measure(made.request, made.read, made.feeds, stage(on_device.steps(made.request)))


@dataclass(frozen=True)
class Clock:
    """Times models beside the original, on this machine."""

    original: ir.Model
    feeds: Mapping[str, np.ndarray]
    settings: Settings
    seed: int

    @cached_property
    def _serialised(self) -> bytes:
        return serialised(self.original)

    def ratio(self, model: ir.Model) -> Ratio:
        """Return the time of a model as a share of the original's, with its interval."""
        models = (serialised(model), self._serialised)
        sittings = []
        for _ in range(SITTINGS):
            pair = [Timed(each, self.feeds, self.settings) for each in models]
            sittings.append(rounds(pair, [runs_per_turn(each) for each in pair], SECONDS))
        return median_ratio(sittings, seed=self.seed)
