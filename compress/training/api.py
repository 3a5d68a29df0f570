"""The Python interface: `compress.train(model, target, data, val, …) → Trained`, the same job as the command line's."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from calibrate.forward import as_tensors
from compress.api import Result, slower
from compress.data import Data, Parts, chunk_size, open_as_told
from compress.errors import OptionError
from compress.figures import compared_with_original, latencies, model_name, sample
from compress.file_size import finished
from compress.measure import in_figures, measure_size
from compress.pipeline import Goal, targets_of
from compress.prepare import Examined, examine
from compress.progress import Progress, Timed, silent
from compress.report import Asked, JsonValue, Report, Width, plain_values
from compress.settings import Options
from compress.targets import Target
from compress.training import checkpoint, schedule
from compress.training.batches import check_presets
from compress.training.course import Course, Epoch, Removal
from compress.training.fresh import fresh
from compress.training.loop import Job, State, begin, resumed, run_epoch
from compress.training.network import Network
from compress.training.objective import objective
from compress.training.processes import Processes, start
from compress.training.settings import Training
from graph.analysis import analyse
from graph.bridge import to_torch
from graph.count import count
from graph.errors import LawError
from graph.interface import check_interface
from graph.law import SMALLEST_MAGNITUDE, TOLERANCE, check_law
from graph.model import load, save, serialised
from graph.plan import Plan
from graph.runtime import run, session
from graph.trace import trace

USUAL_BATCH, LEAST_BATCH = 128, 8
BATCH_BYTES = 4 << 30  # of all values of a batch, which are kept for the gradients
COUNTED = ("macs", "params")
ELSEWHERE = ("batch", "checkpoint", "device", "resume")  # options that may be others when a training goes on

_DEFAULTS, _TRAINING = Options(), Training()


@dataclass(frozen=True)
class Trained(Result):
    """The trained model, the plan of what it has lost, the report, and the course of the training."""

    course: Course | None = None


def train(
    model: str | Path | ir.Model,
    target: Goal = (),
    data: Any = None,
    val: Any = None,
    options: Options = _DEFAULTS,
    training: Training = _TRAINING,
    *,
    val_labels: str | Path | None = None,
    latency: bool = True,
    progress: Progress = silent,
    notice: Callable[[Epoch | Removal], None] = lambda event: None,
) -> Trained | None:
    """Train an ONNX model on, and remove channels on the way until the targets hold (FRS, arXiv 2002.09958).

    `target` is as in `prune`, of MACs or parameters; without one nothing is removed. `data` is trained on; figures are
    measured on `val`, which takes no part, or without one on a tenth of `data`. Of `options` those count that say which
    channels may go, what is measured and where; BatchNormalization is always kept, and `compensation` is "asymmetric"
    or "none". `notice` hears of every removal and epoch. Several processes (torchrun) train together; all but the first
    return None. Raises what `prune` raises, and OptionError where there is nothing to learn from.
    """
    _check(options, training)
    processes = start(options.device)
    timed = Timed(progress if processes.first else silent)
    examined = examine(model, data, replace(options, keep_batchnorm=True), timed)
    held = _held(examined, data, val, val_labels)
    job = _job(examined, held, val is None, targets_of(target, options), training, processes, timed)
    state = _trained(job, examined, timed, notice if processes.first else lambda event: None)
    return _measured(job, state, examined, timed, latency) if processes.first else None


def _trained(job: Job, examined: Examined, timed: Timed, notice: Callable[[Epoch | Removal], None]) -> State:
    """Return the state after the last epoch."""
    training, settings = job.training, _settings(job, examined)
    path = None if training.checkpoint is None else Path(training.checkpoint)
    if training.resume and path is not None and path.exists():
        state = _read(job, path, settings)
    else:
        state = begin(job, lambda network: fresh(network, job.options.seed) if training.from_scratch else None)
    while state.epoch < training.epochs:
        state = run_epoch(job, state, timed, notice)
        if path is not None and job.processes.first:
            _write(state, path, settings)
    return state


def _check(options: Options, training: Training) -> None:
    check_presets(training.augment)
    for name, given in (("--max-drop", options.max_drop), ("--refine", options.refine), ("--profile", options.profile)):
        if given:
            raise OptionError(f"{name} is for compress prune: compress train has targets of MACs or parameters")
    if options.compensation == "symmetric":
        raise OptionError('compensation "symmetric" needs a search: give "asymmetric" or "none"')
    if training.epochs < 1 or (training.interval or 1) < 1 or (training.batch or 1) < 1:
        raise OptionError(
            f"--epochs {training.epochs} --interval {training.interval} --batch-size {training.batch}: give 1 or more"
        )
    if training.mixed_precision and options.device != "cuda":
        raise OptionError(f"--mixed-precision is for --device cuda, not for {options.device}: leave it out")
    if training.teacher is not None and not (training.distil or training.loss):
        raise OptionError(f"--teacher {training.teacher} teaches nothing: give --distil, or a --loss that follows it")
    if training.resume and training.checkpoint is None:
        raise OptionError("there is nothing to resume from: name a checkpoint")


def _held(examined: Examined, data: Any, val: Any, labels: str | Path | None) -> Data:
    """Return the data that figures are measured on."""
    if val is None:
        return examined.data
    if isinstance(val, str | Path) and str(val) == str(data):
        raise OptionError(f"--val {val} is what is trained on: give other samples, or leave it out to keep some apart")
    samples = open_as_told(examined.original, val, replace(examined.options, samples=None, labels_file=labels))
    none, size = np.zeros(0, np.int64), samples.batch or 1
    return Data(samples.source, Parts(none, none, np.arange(len(samples.source) // size * size), none), samples.batch)


def _job(
    examined: Examined,
    held: Data,
    keeps_apart: bool,
    targets: Sequence[Target],
    training: Training,
    processes: Processes,
    timed: Timed,
) -> Job:
    """Return all that stays the same. Raises Unreachable, and OptionError for what cannot be trained."""
    if others := [target for target in targets if target.metric not in COUNTED]:
        raise OptionError(f"{others[0]}: compress train has targets of MACs or parameters only")
    limits = examined.limits(targets)
    parts, at_a_time, options = examined.data.parts, examined.data.batch, examined.options
    samples = np.sort(np.concatenate([parts.fit, parts.search, *([] if keeps_apart else [parts.report])]))
    if len(samples) < processes.size * (at_a_time or 1):
        raise OptionError(f"{len(samples)} samples cannot be dealt out to {processes.size} processes: give more")
    widest = {group.name: len(group.channels) for group in examined.analysis.channels.groups}
    narrower = any(examined.allowed[name][-1] < width for name, width in widest.items())
    removes = narrower or any(limit.cost.total(widest) > limit.limit for limit in limits)
    with timed("convert", 1):
        original = to_torch(_teacher(training, examined), examined.data.few(), device=processes.device)
    chunk, source = chunk_size(examined.analysis, at_a_time), examined.data.source
    made = objective(original, source, samples, chunk=chunk, distil=training.distil, loss=training.loss)
    # samples kept apart may have labels where those trained on have none: the loss is the same for both
    made = replace(made, share=made.share_of_original(source.labels is not None))
    rows = held.parts.reported
    try:
        made.check(None if held.source.labels is None else held.source.labels[rows])
    except OptionError as error:
        raise OptionError(f"{held.source.description}, which figures are measured on: {error}") from error
    return Job(
        analysis=examined.analysis,
        allowed=examined.allowed,
        limits=limits,
        macs=examined.limit(Target("macs", 1.0, True)),
        due=schedule.removals(training.epochs, training.interval) if removes else (),
        original=original,
        objective=made,
        metric=examined.metric,
        source=source,
        samples=samples,
        held=held,
        at_a_time=at_a_time,
        batch=_batch(examined, training, len(samples), processes.size),
        options=options,
        training=training,
        processes=processes,
    )


def _teacher(training: Training, examined: Examined) -> ir.Model:
    """Return the model that the objective may ask. Raises OptionError for one that is fed or answers otherwise."""
    if training.teacher is None:
        return examined.analysis.model
    teacher = load(training.teacher)
    for kind in ("inputs", "outputs"):
        ours, theirs = ([str(value.name) for value in getattr(m.graph, kind)] for m in (examined.original, teacher))
        if set(ours) != set(theirs):
            raise OptionError(
                f"--teacher {training.teacher} has the {kind} {', '.join(theirs)}, the model has {', '.join(ours)}"
            )
    return analyse(teacher, examined.data.few(1)).model


def _batch(examined: Examined, training: Training, samples: int, processes: int) -> int:
    """Return the samples per step, a multiple of what all processes take at a time."""
    at_a_time = examined.data.batch or 1
    unit = at_a_time * processes
    if training.batch is not None:
        if training.batch % unit:
            raise OptionError(
                f"--batch-size {training.batch}: {processes} processes that take {at_a_time} samples at a time need a "
                f"multiple of {unit}"
            )
        return min(training.batch, samples // unit * unit)
    largest = sum(4 * int(np.prod(shape)) for shape in examined.analysis.trace.shapes.values()) / at_a_time
    usual = int(np.clip(BATCH_BYTES / max(largest, 1), LEAST_BATCH, USUAL_BATCH))
    return min(max(usual // unit, 1), samples // unit) * unit


def _settings(job: Job, examined: Examined) -> dict[str, JsonValue]:
    """Return what must be the same for a training to go on, by what it is called."""
    first = hashlib.sha256()
    for name, array in sorted(job.few().items()):
        first.update(name.encode() + array.tobytes())
    told = {**vars(examined.options), **vars(job.training)}
    return {
        "model": hashlib.sha256(serialised(examined.original)).hexdigest(),
        "samples": f"{len(job.samples)} of {job.source.description}, {first.hexdigest()[:16]}",
        "val": f"{len(job.held.parts.reported)} of {job.held.source.description}",
        "targets": [str(limit.target) for limit in job.limits],
        "batch": job.batch,
        **{f"option {name}": _told(value) for name, value in told.items() if name not in ELSEWHERE},
    }


def _told(value: object) -> JsonValue:
    """Return an option as JSON takes it; a function by its name."""
    return getattr(value, "__name__", "function") if callable(value) else plain_values(value)


def _write(state: State, path: Path, settings: Mapping[str, JsonValue]) -> None:
    tensors = {f"weights/{name}": array for name, array in state.network.state().items()}
    tensors |= {f"momentum/{name}": array for name, array in state.optimiser.state().items()}
    course = {
        "epoch": state.epoch,
        "plan": state.plan.to_json(),
        "course": plain_values(state.course),
        "scaling": plain_values(state.optimiser.scaling),
        "settings": dict(settings),
    }
    checkpoint.save(path, tensors, course)


def _read(job: Job, path: Path, settings: Mapping[str, JsonValue]) -> State:
    """Return the state of a checkpoint. Raises OptionError where that is of another training."""
    tensors, found = checkpoint.load(path)
    for name, value in settings.items():
        if found["settings"].get(name) != value:
            raise OptionError(
                f"the checkpoint {path} is of another training: {name} was {found['settings'].get(name)}, now it is "
                f"{value}: go on with what it was, or begin anew without --resume"
            )
    weights, momentum = (_of_kind(tensors, kind) for kind in ("weights/", "momentum/"))
    course, plan = Course.from_json(found["course"]), Plan.from_json(found["plan"])
    return resumed(job, found["epoch"], plan, weights, momentum, found["scaling"], course)


def _of_kind(tensors: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(kind): array for name, array in tensors.items() if name.startswith(kind)}


def _measured(job: Job, state: State, examined: Examined, timed: Timed, latency: bool) -> Trained:
    """Write the weights into the user's own graph, check it, and measure what came of it."""
    analysis, original, options, few = examined.analysis, examined.original, examined.options, job.few()
    with timed("check the law", 1):
        law = check_law(analysis.model, analysis.channels, state.plan, few)
    small = state.network.written()
    counted = count(small, trace(small, examined.data.few(1)))
    computes_alike(state.network, small, few)
    model, notes = finished(small, analysis.stored, original)
    check_interface(original, model)
    kept = replace(examined, data=job.held)
    with timed("measure", 1), tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save(original, files[0])
        save(model, files[1])
        one = examined.data.few(1)
        sizes = measure_size(original, examined.path or files[0], one), measure_size(model, files[1], one)
        compared, unlabelled = compared_with_original(kept, model)
        timing = latencies(files, ("before", "after"), sample(job.held), options) if latency else ((None, None), ())
    before, after = in_figures(sizes, compared, timing[0])
    left = {"macs": counted.macs, "params": counted.params}
    groups = analysis.channels.groups
    report = Report(
        model=model_name(examined),
        output=None,
        before=before,
        after=after,
        outputs=compared.outputs,
        targets=tuple(
            Asked(limit.metric, limit.limit, left[limit.metric], left[limit.metric] <= limit.limit)
            for limit in job.limits
        ),
        widths=tuple(Width(g.name, len(g.channels), int(state.plan.keep[g.name].sum())) for g in groups),
        frozen=analysis.channels.frozen,
        measured_on=f"measured on {compared.samples} samples that were not trained on: {job.held.source.description}",
        used_for=f"{len(job.samples)} samples were trained on: {job.source.description}",
        notes=(
            *examined.notes,
            *_moved(job),
            *state.network.notes,
            *state.course.notes,
            *notes,
            *unlabelled,
            *timing[1],
            *slower(timing[0][1]),
        ),
        data=job.source.description,
        samples={"train": len(job.samples), "report": compared.samples},
        uncounted=counted.uncounted,
        criterion="relevance",
        search="threshold",
        compensation=options.compensation,
        metric=None if examined.metric is None else examined.metric.name,
        law=law,
        seed=options.seed,
        seconds=timed.seconds,
    )
    return Trained(model, state.plan, report, course=state.course)


def _moved(job: Job) -> tuple[str, ...]:
    """Say it where pictures were varied whose labels may be places in them."""
    labels = job.source.labels
    if not job.training.augment or labels is None or labels.ndim < 2:
        return ()
    return ("the pictures were varied and their labels were not: where labels are places in them, leave --augment out",)


def computes_alike(network: Network, model: ir.Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Raise LawError where ONNX Runtime computes something else of the written model than the trained network does."""
    found = run(session(model, optimise=False), feeds)
    with torch.no_grad():
        expected = network.run(as_tensors(network.torch, feeds), training=False)
    for value, ours in zip(model.graph.outputs, found, strict=True):
        theirs = expected[str(value.name)].cpu().numpy()
        if theirs.dtype.kind == "f" and theirs.size:
            difference = float(np.abs(ours.astype(np.float64) - theirs).max())
            if not difference <= TOLERANCE * max(float(np.abs(theirs).max()), SMALLEST_MAGNITUDE):
                raise LawError(
                    f"output {value.name} of the written model is {difference:.3g} from what was trained: "
                    "ONNX Runtime computes it otherwise than torch"
                )
