"""The options of commands that can measure on another machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from compress.errors import OptionError

if TYPE_CHECKING:
    from compress.remote import Host


def host_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of another machine; it receives them as `host` and `host_python`."""
    host = click.option(
        "--host",
        metavar="USER@BOARD",
        help="Measure there, over ssh: a name as ssh takes it, also ssh://user@board:port. There must be a python3 with"
        " numpy and onnxruntime; nothing is left there.",
    )
    python = click.option(
        "--host-python", metavar="PYTHON", help="Of the host: venv/bin/python, say. [default: python3]"
    )
    return host(python(command))


def other_machine(host: str | None, python: str | None) -> "Host | None":
    """Return the machine that was asked for, None for this one. Raises OptionError."""
    if host is None:
        if python is not None:
            raise OptionError("--host-python is the Python of another machine: give its --host")
        return None
    from compress.remote import Host

    return Host(host) if python is None else Host(host, python)
