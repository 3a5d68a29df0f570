"""compress profile: what a model's layers cost on the machine that will run it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from compress.errors import OptionError
from compress.options import check_output, multiple_option, provider_option, shape_option, threads_option
from compress.options_host import host_options, other_machine

KIT_MULTIPLE = 8  # of channels: the machine that a kit is for may like any


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: MODEL with .json]")
@click.option(
    "--kit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.pyz",
    help="Measure nothing, but write one file that does: python3 FILE.pyz -o profile.json, on another machine.",
)
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option("--keep-batchnorm", is_flag=True, help="As it will be given to compress prune.")
@threads_option
@provider_option
@multiple_option
@shape_option
@host_options
def command(
    model: Path,
    output: Path | None,
    kit: Path | None,
    force: bool,
    keep_batchnorm: bool,
    threads: int,
    provider: str,
    round_to: int | str | None,
    shapes: dict[str, tuple[int, ...]],
    host: str | None,
    host_python: str | None,
) -> None:
    """Measure how long the layers of MODEL take here at several widths, for compress prune --profile.

    Needs no torch. --host measures on another machine, over ssh; a kit takes the measuring to one that ssh does not
    reach. There need be only python3 with numpy and onnxruntime on it.
    """
    there = other_machine(host, host_python)
    if there is not None and kit is not None:
        raise OptionError("give --host to measure there, or --kit to carry a file there")
    if output is not None and kit is not None:
        raise OptionError("give --output to measure here, or --kit to measure elsewhere")
    destination = kit or output or model.with_suffix(".json")
    check_output(model, destination, force)

    from compress.goal import permitted
    from compress.latency import measured, multiple, settings_of
    from compress.onboard import Settings
    from compress.profiling.kit import kit as kit_of
    from compress.profiling.kit import write
    from compress.profiling.on_device import CHAIN_ROUNDS
    from compress.profiling.profile import Profile
    from compress.profiling.there import measured_there
    from compress.progress import on_terminal
    from compress.report import console, printable, write_json
    from compress.settings import AUTO, Options
    from compress.widths import display_names
    from graph.analysis import analyse
    from graph.inputs import example_inputs
    from graph.model import load

    original = load(model)
    feeds = example_inputs(original, shapes=shapes)
    analysis = analyse(original, feeds, keep_batchnorm=keep_batchnorm)
    here = kit is None and there is None
    unknown = AUTO if here else KIT_MULTIPLE
    options = Options(round_to=unknown if round_to in (None, AUTO) else round_to, threads=threads, provider=provider)
    settings = settings_of(options) if here else Settings(threads, provider)
    with on_terminal("round to", CHAIN_ROUNDS) as advance:
        allowed = permitted(analysis, display_names(analysis.model), options, multiple(options, None, advance))
    made = kit_of(original, analysis, allowed, feeds, settings, chains=True)
    if kit is not None:
        write(made, kit)
        console().print(printable(f"{kit}: on the other machine, python3 {kit.name} -o profile.json"), soft_wrap=True)
        return
    with ExitStack() as stack:

        def stage(total: int) -> Callable[[], None]:
            return stack.enter_context(on_terminal("latency", total))

        found = measured(made, stage) if there is None else measured_there(there, made, stage)
    write_json(found, destination)
    profile = Profile.of(found)
    said = (
        f"{destination}: {len(profile.networks)} networks of {profile.original_ms:.3g} ms and less on {profile.where}"
    )
    console().print(printable(f"{said}; widths: multiples of {profile.multiple}"), soft_wrap=True)
