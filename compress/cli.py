"""The command line: finds the commands, and turns errors into one line and an exit code.

0   done
1   a target or a gate was missed
2   wrong usage: an option, the data, a file that cannot be read or written
3   the model cannot be read, or something in it is not supported
4   a self-check failed; nothing was written
130 stopped by Ctrl-C; nothing was left half-written
"""

import functools
import importlib
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from compress import commands
from compress.config import config_option

INTERRUPTED = 130
_LONGEST_LINE = 1000  # characters: a name in a model may have millions


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="compress-onnx", prog_name="compress")
def compress() -> None:
    """Prune a trained ONNX network to a budget, without retraining.

    Exit codes: 0 done, 1 a target or gate was missed, 2 wrong usage, 3 the model cannot be read or is not
    supported, 4 a self-check failed and nothing was written, 130 stopped by Ctrl-C.
    """


def _register(group: click.Group) -> None:
    for module in pkgutil.iter_modules(commands.__path__):
        command = importlib.import_module(f"{commands.__name__}.{module.name}").command
        command.callback = _guarded(command.callback)
        command.params.append(config_option)
        group.add_command(command)


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """End the process where a model would hang it or take all memory: while models are analysed, nothing is written."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **options: Any) -> Any:
        from graph import guard  # which imports numpy

        guard.arm(lambda sentence: os._exit(_say(sentence, 3)))
        try:
            return command(*arguments, **options)
        finally:
            guard.arm(None)

    return guarded


_register(compress)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process by default) and return its exit code."""
    if arguments is None:
        _be_quiet()
    try:
        typed = tuple(sys.argv[1:] if arguments is None else arguments)
        code = compress.main(args=arguments, prog_name="compress", standalone_mode=False, obj=typed)
        sys.stdout.flush()  # a full disk is found here, and not after the exit code is known
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _say("stopped; nothing was left half-written", INTERRUPTED)
    except BrokenPipeError:
        # the reader (head, less) has gone: Python must not try to flush to it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # no room for temporary files or for the result, no right to read, …
        return _say(str(error), 2)
    except Exception as error:
        from compress.exit_codes import exit_code  # it imports the floors below, which --help can do without

        known = exit_code(error)
        if known is None:
            raise  # a fault of ours: the traceback is wanted
        return _say(str(error), known)
    return code if isinstance(code, int) else 0


def _be_quiet() -> None:
    """Keep what libraries think of a model to themselves: an error is one line, and that line is ours."""
    logging.disable()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _say(message: str, code: int) -> int:
    """Print one line on stderr, whatever the message holds: names and other people's messages may run over many."""
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    click.echo("compress: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in line), err=True)
    return code
