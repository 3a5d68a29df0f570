"""What is done once per model, however many budgets are tried on it.

examine   load → open data → simplify → couple → permitted widths
prepare   convert → calibrate → curves → sensitivities
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from calibrate.range import range_warning
from compress.cluster import join
from compress.costs import CostModel
from compress.criteria import CRITERIA
from compress.data import Data, chunk_size, deal, open_as_told
from compress.errors import OptionError
from compress.file_size import file_bytes, finished, written_bytes
from compress.goal import Limit, Original, limit_of, out_of_reach, permitted
from compress.latency import Clock, measured, multiple, settings_of
from compress.metric import Metric, load_metric
from compress.profiling.kit import kit
from compress.profiling.on_device import CHAIN_ROUNDS
from compress.profiling.profile import Profile
from compress.profiling.profile import load as load_profile
from compress.profiling.tables import latency_model
from compress.progress import Timed
from compress.ranking import Ranking, rank, searched_images
from compress.searches import SEARCHES, WITH_RETRIALS, WITH_TRIALS
from compress.settings import AUTO, COMPENSATIONS, Options
from compress.targets import Target, Unreachable
from compress.trial import Trials
from compress.widths import display_names
from graph.analysis import Analysis, analyse
from graph.bridge import Portable, TorchModel, to_torch
from graph.model import load

TRIAL_FIT = 64  # samples that whole networks are fitted on while a search tries them
RETRIED = 4  # times as many other samples, for a last choice


@dataclass(frozen=True)
class Examined:
    """A model and its data, with all that is known before anything is calibrated.

    `path` is None for a model in memory; `names` are what people know the nodes by; `allowed` the widths permitted to
    each group; `profile` the machine whose latency is a target, where one is.
    """

    original: ir.Model
    path: Path | None
    options: Options
    metric: Metric | None
    data: Data
    analysis: Analysis
    names: Mapping[str, str]
    allowed: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    profile: Profile | None = None

    def limits(self, targets: Sequence[Target]) -> tuple[Limit, ...]:
        """Return targets in figures of this model. Raises Unreachable, naming each that is and what is possible."""
        limits = tuple(map(self.limit, targets))
        if reasons := [reason for limit in limits if (reason := self.out_of_reach(limit))]:
            raise Unreachable("; ".join(reasons))
        return limits

    def limit(self, target: Target) -> Limit:
        """Return a target in figures of this model, whether it can be reached or not."""
        return limit_of(target, self.analysis, self.size_of_original, self.latency)

    def out_of_reach(self, limit: Limit) -> str:
        """Return why the limit cannot be reached, with what can; "" where it can."""
        return out_of_reach(limit, self.allowed)

    def latency(self) -> tuple[float, CostModel]:
        """Return the original's milliseconds and those of any widths; ValueError without a profile."""
        if self.profile is None:
            raise ValueError("nothing is known of the latency: `profiled` comes first")
        return self.profile.original_ms, latency_model(self.profile, self.analysis)

    @cached_property
    def clock(self) -> Clock | None:
        """What times models for a target of latency; None where that is of another machine."""
        if self.options.profile is not None:
            return None
        feeds = self.data.few(self.data.batch or 1)
        return Clock(self.original, feeds, settings_of(self.options), self.options.seed)

    def size_of_original(self) -> Original:
        """Return the bytes of the file as it is, and as it would be written with every channel kept."""
        before = written_bytes(self.original) if self.path is None else file_bytes(self.path)
        whole, _ = finished(self.analysis.model, self.analysis.stored, self.original)
        return Original(before, written_bytes(whole))


@dataclass(frozen=True)
class Prepared:
    """An examined model with its torch form, and the order and the loss of every channel.

    `trials` try widths on the search's samples, for a search that wants them, and `retrials` on others.
    """

    examined: Examined
    model: TorchModel
    ranking: Ranking
    trials: Trials | None
    retrials: Trials | None
    notes: tuple[str, ...]


def examine(model: ir.Model | str | Path, data: Any, options: Options, timed: Timed) -> Examined:
    """Look at a model and its data. Raises ModelError, DataError or OptionError."""
    metric = check(options)
    path = None if isinstance(model, ir.Model) else Path(model)
    with timed("open data", 1):
        original = model if isinstance(model, ir.Model) else load(model)
        samples = open_as_told(original, data, options)
        dealt, notes = deal(samples, options.seed, drop=options.max_drop is not None)
    with timed("analyse", 1):
        analysis = analyse(original, dealt.few(1), keep_batchnorm=options.keep_batchnorm)
        names = display_names(analysis.model)
    profile = None if options.profile is None else load_profile(options.profile, analysis.channels)
    with timed("round to", CHAIN_ROUNDS) if options.round_to == AUTO else nullcontext(lambda: None) as advance:
        round_to = multiple(options, profile, advance)
    allowed = permitted(analysis, names, options, round_to)
    return Examined(original, path, options, metric, dealt, analysis, names, allowed, notes, profile)


def profiled(examined: Examined, timed: Timed) -> Examined:
    """Return it with a profile: that of another machine which the options name, or one measured here."""
    if examined.profile is not None:
        return examined
    data, options = examined.data, examined.options
    feeds = data.few(data.batch or 1)
    made = kit(examined.original, examined.analysis, examined.allowed, feeds, settings_of(options))
    with ExitStack() as stack:
        found = measured(made, lambda total: stack.enter_context(timed("latency", total)))
    return replace(examined, profile=Profile.of(found))


def check(options: Options) -> Metric | None:
    """Raise OptionError for options that cannot be used as they stand; return the metric that they name."""
    tables = (
        ("criterion", options.criterion, tuple(CRITERIA)),
        ("search", options.search, tuple(SEARCHES)),
        ("compensation", options.compensation, COMPENSATIONS),
    )
    for what, name, known in tables:
        if name not in known:
            raise OptionError(f"{what} {name!r} is not known: take one of {', '.join(sorted(known))}")
    if options.max_drop is not None and not 0 <= options.max_drop < 1:
        raise OptionError(f"--max-drop {options.max_drop:g}: give a share from 0 to below 1 (0.01 is one point)")
    if options.refine < 0 or options.jobs < 1:
        raise OptionError(f"--refine {options.refine} --jobs {options.jobs}: give 0 or more steps, 1 or more processes")
    if options.ray is not None and (options.jobs > 1 or options.device != "cpu"):
        raise OptionError("--ray: a cluster computes on its own CPUs, as many as it has: leave --jobs and --device out")
    if options.checkpoint is not None and options.max_drop is not None:
        raise OptionError("a checkpoint is of one search, and --max-drop makes several: give one of the two")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device {options.device}: torch {torch.__version__} finds no CUDA device here: take cpu")
    if options.ray is not None:
        join(options.ray)
    return load_metric(options.metric)


def prepare(examined: Examined, timed: Timed) -> Prepared:
    """Calibrate: collect the statistics, and from them curves and sensitivities."""
    analysis, data, names = examined.analysis, examined.data, examined.names
    notes = []
    with timed("convert", 1):
        if (warning := range_warning(examined.original, data.source, data.batch)) is not None:
            notes.append(warning)
        sample = data.few()
        model = to_torch(analysis.model, sample, device=examined.options.device)
    notes += [f"{f.op_type} {names.get(f.node, f.node)} runs in ONNX Runtime: {f.reason}" for f in model.fallbacks]
    portable = Portable(analysis.model, sample, model)
    ranking = rank(analysis, portable, data, examined.options, timed, notes)
    trials, retrials = _trials(examined, portable, ranking) if examined.options.search in WITH_TRIALS else (None, None)
    if examined.options.compensation != "symmetric":
        ranking = replace(ranking, moments={})  # they may take gigabytes, and nothing else reads them from here on
    return Prepared(examined, model, ranking, trials, retrials, (*examined.notes, *notes))


def _trials(examined: Examined, portable: Portable, ranking: Ranking) -> tuple[Trials, Trials | None]:
    """Return what tries whole networks, and for a search that wants it the same on other samples, where there are some.

    They are compensated in the way that the result will be.
    """
    analysis, data, compensation = examined.analysis, examined.data, examined.options.compensation

    def trials(fit: np.ndarray, judged: np.ndarray) -> Trials:
        return Trials(
            portable,
            analysis.channels,
            ranking.curves,
            ranking.consumers,
            ranking.moments if compensation != "none" else {},
            data.source,
            judged,
            fit=fit if compensation == "asymmetric" else fit[:0],
            shapes=analysis.trace.shapes,
            chunk=chunk_size(analysis, data.batch),
        )

    judged, size, fit = searched_images(analysis, data), data.batch or 1, data.parts.fit
    few = max(min(len(judged), TRIAL_FIT), size) // size * size
    more = min(RETRIED * few, len(fit[few:]) // 2) // size * size
    wanted = examined.options.search in WITH_RETRIALS and more >= few
    others = trials(fit[few : few + more], fit[few + more : few + 2 * more]) if wanted else None
    return trials(fit[:few], judged), others
