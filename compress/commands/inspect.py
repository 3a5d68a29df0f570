"""compress inspect: what can be pruned, what cannot, and why."""

from pathlib import Path

import click

from compress.options import check_apart, json_option


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--keep-batchnorm", is_flag=True, help="Do not fold BatchNormalization into convolutions first.")
@json_option
def command(model: Path, keep_batchnorm: bool, json_path: Path | None) -> None:
    """Show the channel groups of MODEL, their MACs, and what is left alone with the reason."""
    check_apart(json_path, model)
    from compress.inspection import inspect
    from compress.report import console, percent, printable, quantity, table, with_version, write_json

    found = inspect(model, keep_batchnorm=keep_batchnorm)
    screen = console()
    screen.print(
        printable(f"{model}: {quantity(found.macs)} MACs, {quantity(found.params)} parameters"), soft_wrap=True
    )
    if found.groups:
        shown = table("group", "channels", "MACs at stake", "share", "producers", "followers", "consumers")
        for group in found.groups:
            shown.add_row(
                printable(group.name),
                str(group.channels),
                quantity(group.macs_at_stake),
                percent(group.macs_at_stake / max(found.macs, 1)),
                *(str(len(nodes)) for nodes in (group.producers, group.followers, group.consumers)),
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
