"""compress train: gradual pruning while training, or plain fine-tuning, for those who have labelled data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from compress.errors import OptionError
from compress.options import (
    DataOptions,
    check_apart,
    check_output,
    data_options,
    device_option,
    exclude_option,
    gathered_into,
    json_option,
    metric_option,
    multiple_option,
    picture_option,
    ratio_option,
    seed_option,
    shape_option,
    width_ratio,
    writable,
)
from compress.targets import parse_target

if TYPE_CHECKING:
    from compress.settings import Options
    from compress.training.course import Epoch, Removal
    from compress.training.settings import Training

P = ParamSpec("P")
R = TypeVar("R")

AUGMENTATIONS = ("flip", "crop")
HALF = 0.5  # what --distil alone means


@dataclass(frozen=True)
class TrainOptions:
    """What the user typed about how to train."""

    epochs: int
    interval: int | None
    batch_size: int | None
    lr: float | None
    weight_decay: float
    augment: tuple[str, ...]
    distil: float
    teacher: Path | None
    loss: str | None
    from_scratch: bool
    no_compensation: bool
    mixed_precision: bool
    metric: str | None
    exclude: tuple[str, ...]
    ratios: tuple[str, ...]
    round_to: int | str | None
    device: str

    def settings(self, data: DataOptions, shapes: Mapping[str, Sequence[int]], seed: int) -> "Options":
        """Return what `prune` would be told as well. Raises DataError or OptionError."""
        limits = dict(map(width_ratio, self.ratios))
        return replace(
            data.settings(shapes, seed),
            metric=self.metric,
            compensation="none" if self.no_compensation else "asymmetric",
            exclude=self.exclude,
            max_width_ratio=limits,
            round_to=self.round_to,
            device=self.device,
        )

    def training(self, checkpoint: Path, resume: bool) -> "Training":
        """Return how to train."""
        from compress.training.settings import Training

        return Training(
            epochs=self.epochs,
            interval=self.interval,
            batch=self.batch_size,
            rate=self.lr,
            weight_decay=self.weight_decay,
            augment=self.augment,
            distil=self.distil,
            teacher=self.teacher,
            loss=self.loss,
            from_scratch=self.from_scratch,
            mixed_precision=self.mixed_precision,
            checkpoint=checkpoint,
            resume=resume,
        )


_OPTIONS = (
    click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Over the training samples."),
    click.option(
        "--interval", type=click.IntRange(1), metavar="N", help="Epochs between removals. [default: about ten removals]"
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), metavar="N", help="Samples per step. [default: 128, less where large]"
    ),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        metavar="RATE",
        help="The highest learning rate. [default: 0.01, or 0.1 from scratch, for a batch of 128]",
    ),
    click.option("--weight-decay", type=click.FloatRange(0), default=5e-4, show_default=True, help="Of weights."),
    click.option(
        "--augment", multiple=True, type=click.Choice(AUGMENTATIONS), help="Vary the training images. Repeatable."
    ),
    click.option(
        "--distil",
        type=click.FloatRange(0, 1),
        is_flag=False,
        flag_value=HALF,
        default=0.0,
        metavar="[SHARE]",
        help=f"So much of the loss follows the original network, which needs no labels. [alone: {HALF:g}]",
    ),
    click.option(
        "--teacher",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="MODEL",
        help="The original to follow, for one that was pruned before. [default: MODEL as it is]",
    ),
    click.option(
        "--loss", metavar="MODULE:FUNCTION", help="Your own loss (outputs, references, labels) in torch, imported."
    ),
    click.option("--from-scratch", is_flag=True, help="Begin with new weights in the place of those in the file."),
    click.option("--no-compensation", is_flag=True, help="Leave the weights as they are where channels are removed."),
    click.option("--mixed-precision", is_flag=True, help="Compute in halves where that is safe; for CUDA."),
    metric_option,
    exclude_option,
    ratio_option,
    multiple_option,
    device_option,
)


def _train_options(command: Callable[Concatenate[TrainOptions, P], R]) -> Callable[P, R]:
    return gathered_into(command, TrainOptions, _OPTIONS)


@click.command("train")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target-flops", metavar="SHARE|COUNT", help="MACs to be left at last: 0.5, 50% or 60M; 1 removes none.")
@click.option("--target-params", metavar="SHARE|COUNT", help="Parameters to be left at last: 0.5, 50% or 1.2M.")
@click.option("--val", metavar="SOURCE", help="Data that are only measured on. [default: a tenth of --data]")
@click.option(
    "--val-labels", type=click.Path(path_type=Path), metavar="CSV", help="name,class for a folder of images as --val."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="[default: MODEL with -trained before the suffix]"
)
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    metavar="FILE",
    help="Written after every epoch, gone at the end. [default: OUTPUT.safetensors]",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@picture_option("the course")
@_train_options
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    how: TrainOptions,
    model: Path,
    target_flops: str | None,
    target_params: str | None,
    val: str | None,
    val_labels: Path | None,
    output: Path | None,
    force: bool,
    checkpoint: Path | None,
    resume: bool,
    picture: Path | None,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> int:
    """Train MODEL on, and remove channels on the way until the targets hold (FRS, arXiv 2002.09958).

    The network starts from the weights in the file, gets narrower every few epochs by what is least relevant, reaches
    the targets before the last third of the epochs, and is written into the user's own graph. Without a target it
    is trained as it is.
    """
    destination = output or model.with_name(f"{model.stem}-trained{model.suffix}")
    kept = checkpoint or destination.with_suffix(".safetensors")
    check_output(model, destination, force, data.data, data.labels, val, val_labels)
    for path, option in ((json_path, "--json"), (picture, "--picture"), (kept, "--checkpoint")):
        others = [each for each in (kept, json_path, picture) if each is not path]
        check_apart(path, model, destination, data.data, data.labels, val, val_labels, *others, option=option)
    if kept.exists() and not (resume or force):
        raise OptionError(f"the checkpoint {kept} exists: --resume goes on from it, --force begins anew")
    given = {"macs": target_flops, "params": target_params}
    targets = tuple(parse_target(metric, text) for metric, text in given.items() if text is not None)
    options, training = how.settings(data, shapes, seed), how.training(kept, resume)

    from compress.conclusion import Conclusion, concluded, verdicts_of
    from compress.progress import on_terminal
    from compress.report import console, plain_values, print_notes, print_report, report_json, write_json
    from compress.training.api import train

    result = train(
        model, targets, data.data, val, options, training, val_labels=val_labels, progress=on_terminal, notice=_say
    )
    if result is None:  # the first of several processes says and writes everything
        return 0
    result.save(destination, overwrite=force)
    report = result.written_to(destination).report
    print_report(report, console())
    print_notes(report.notes)
    if json_path is not None:
        write_json({**report_json(report, "train"), "course": plain_values(result.course)}, json_path)
    if picture is not None:
        from compress.training.picture import draw

        assert result.course is not None
        draw(result.course, model.name, picture)
    kept.unlink(missing_ok=True)
    conclusion = Conclusion("train", f"{model} → {destination}", verdicts_of(report), report.before, report.after)
    return concluded(conclusion, None, None)


def _say(event: "Epoch | Removal") -> None:
    """Say on stderr what an epoch or a removal brought."""
    from compress.report import percent, quantity
    from compress.training.course import Epoch

    held = event.held
    shares = [("top-1", held.top1), ("agreement", held.agreement)]
    figures = [f"{name} {percent(share)}" for name, share in shares if share is not None]
    figures += [] if held.metric is None else [f"metric {held.metric:.4g}"]
    if isinstance(event, Epoch):
        done = f"epoch {event.number}: loss {event.loss:.4g}"
    else:
        done = f"removal before epoch {event.before}"
    line = ", ".join([done, *figures, f"loss there {held.loss:.4g}", f"{quantity(event.macs)} MACs"])
    click.echo(f"{line}, {event.seconds:.1f} s", err=True)
