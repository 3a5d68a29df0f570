"""compress prune: the main job."""

from pathlib import Path

import click

from compress.errors import OptionError
from compress.options import DataOptions, check_apart, data_options, json_option, same_file, seed_option, shape_option
from compress.targets import Target, parse_target


@click.command("prune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target-flops", metavar="SHARE|COUNT", help="MACs to be left: 0.5, 50% or 60M (1 MAC = 2 FLOPs).")
@click.option("--target-params", metavar="SHARE|COUNT", help="Parameters to be left: 0.5, 50% or 1.2M.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: MODEL with -pruned before the suffix]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option("--search", type=click.Choice(["lagrange", "uniform"]), default="lagrange", show_default=True)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave layers with such names whole. Repeatable.")
@click.option(
    "--max-width-ratio",
    "ratios",
    multiple=True,
    metavar="PATTERN=SHARE",
    help="Keep at most this share of the channels of layers with such names. Repeatable.",
)
@click.option(
    "--round-to", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Widths: multiples of N."
)
@click.option("--keep-batchnorm", is_flag=True, help="Do not fold BatchNormalization into convolutions.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where torch computes."
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="For the latency measured at the end."
)
@data_options
@shape_option
@seed_option
@json_option
def command(
    data: DataOptions,
    model: Path,
    target_flops: str | None,
    target_params: str | None,
    output: Path | None,
    force: bool,
    search: str,
    exclude: tuple[str, ...],
    ratios: tuple[str, ...],
    round_to: int,
    keep_batchnorm: bool,
    device: str,
    threads: int,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    json_path: Path | None,
) -> None:
    """Prune MODEL to a target and write the smaller model.

    The model keeps its names, inputs, outputs and opset; MODEL itself is never changed. Patterns are those of the
    shell (*conv2*), matched against the names of nodes and of their outputs; `compress inspect` lists them.
    """
    target = _target(target_flops, target_params)
    limits = dict(map(_ratio, ratios))
    destination = output or model.with_name(f"{model.stem}-pruned{model.suffix}")
    _check_output(model, destination, force)
    for given in (data.data, data.labels):
        if given is not None and same_file(destination, Path(given)):
            raise OptionError(f"{destination} is what the data are read from: give another --output")
    check_apart(json_path, model, destination, data.data, data.labels)

    from compress.api import Options, prune
    from compress.progress import on_terminal
    from compress.report import console, print_notes, print_report, report_json, write_json

    options = Options(
        preprocess=data.preprocessing(),
        samples=data.samples,
        labels_file=data.labels,
        shapes=shapes,
        keep_batchnorm=keep_batchnorm,
        search=search,
        exclude=exclude,
        max_width_ratio=limits,
        round_to=round_to,
        seed=seed,
        device=device,
    )
    result = prune(model, target, data.data, options, threads=threads, progress=on_terminal)
    result.save(destination, overwrite=force)
    report = result.written_to(destination).report
    print_report(report, console())
    print_notes(report.notes)
    if json_path is not None:
        write_json(report_json(report), json_path)


def _target(flops: str | None, params: str | None) -> Target:
    if (flops is None) == (params is None):
        raise OptionError("give one target: --target-flops 0.5 (half of the MACs left) or --target-params 0.5")
    return parse_target("macs", flops) if flops is not None else parse_target("params", str(params))


def _ratio(text: str) -> tuple[str, float]:
    pattern, _, share = text.rpartition("=")
    try:
        ratio = float(share)
    except ValueError:
        ratio = -1.0
    if not pattern or not 0 < ratio <= 1:
        raise OptionError(f"--max-width-ratio {text!r}: give PATTERN=SHARE with a share above 0 and at most 1")
    return pattern, ratio


def _check_output(model: Path, output: Path, force: bool) -> None:
    """Find before the work what would lose its result after it."""
    if output.exists() and model.exists() and output.samefile(model):
        raise OptionError(f"{output} is the model itself, which is never overwritten: give another --output")
    if output.is_dir():
        raise OptionError(f"{output} is a folder: give the name of a file as --output")
    if output.exists() and not force:
        raise OptionError(f"{output} exists: give another --output, or --force to overwrite it")
    if not output.parent.is_dir():
        raise OptionError(f"{output.parent} is not a folder: create it, or give another --output")
    import os

    if not os.access(output.parent, os.W_OK):
        raise OptionError(f"{output.parent} cannot be written to: give another --output")
