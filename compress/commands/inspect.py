"""compress inspect: what can be pruned, what cannot, and why."""

from pathlib import Path

import click

from compress.options import check_apart, json_option, shape_option


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--keep-batchnorm", is_flag=True, help="Do not fold BatchNormalization into convolutions first.")
@shape_option
@json_option
def command(model: Path, keep_batchnorm: bool, shapes: dict[str, tuple[int, ...]], json_path: Path | None) -> None:
    """Show the channel groups of MODEL, their MACs, and what is left alone with the reason."""
    check_apart(json_path, model)
    from compress.inspection import inspect
    from compress.report import console, percent, printable, quantity, table, with_version, write_json

    found = inspect(model, shapes, keep_batchnorm=keep_batchnorm)
    screen = console()
    inputs = ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in found.inputs.items())
    size = f"{quantity(found.macs)} MACs, {quantity(found.params)} parameters"
    screen.print(printable(f"{model}: {size}, for {inputs}"), soft_wrap=True)
    if found.converted is not None:
        screen.print(printable(found.converted), soft_wrap=True)
    if found.groups:
        shown = table("group", "channels", "least", "MACs at stake", "share", "producers", "followers", "consumers")
        for group in found.groups:
            shown.add_row(
                printable(group.name),
                str(group.channels),
                str(int(bool(group.lasting))),
                quantity(group.macs_at_stake),
                percent(group.macs_at_stake / max(found.macs, 1)),
                *(printable(_few(nodes)) for nodes in (group.producers, group.followers, group.consumers)),
            )
        screen.print(shown)
        least = printable(f"least that can be reached: {percent(found.least_macs / max(found.macs, 1))} of the MACs")
        screen.print(least, soft_wrap=True)
    else:
        screen.print("no channels can be removed")
    if found.frozen:
        shown = table("left alone", "operator", "reason")
        for entry in found.frozen:
            shown.add_row(printable(entry.node), entry.op_type, printable(entry.reason))
        screen.print(shown)
    if found.uncounted:
        counted = ", ".join(f"{n} × {operator}" for operator, n in found.uncounted.items())
        screen.print(printable(f"not counted in the MACs: {counted}"), soft_wrap=True)
    if json_path is not None:
        write_json(with_version({"command": "inspect", "model": str(model), **vars(found)}), json_path)


def _few(nodes: tuple[str, ...]) -> str:
    """Write the first of many nodes; the JSON has them all."""
    return nodes[0] + (f" + {len(nodes) - 1}" if len(nodes) > 1 else "") if nodes else ""
