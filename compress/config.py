"""Options from a file: `compress.toml`, or `[tool.compress]` of `pyproject.toml`, in the working directory; `--config`.

    preprocess = "imagenet"      # for every command that has such an option

    [prune]
    target-flops = 0.5
    exclude = ["*head*"]

A key is the name of an option without its dashes, a table that of a command, which goes before what stands above; what
is typed goes before either. Paths start from the file's folder. Code (module:function) is imported only for those who
name the file: a folder that one happens to be in must not run anything.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from compress.errors import OptionError

OWN, SHARED, TABLE = "compress.toml", "pyproject.toml", "tool.compress"
SOURCE = "SOURCE"  # the metavar of options that take a path, or module:function
_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Options = Mapping[str, click.Option]


@dataclass(frozen=True)
class Config:
    """What a file says: its table, what that is called in messages, and whether the user named the file."""

    path: Path
    table: Mapping[str, Any]
    prefix: str
    named: bool

    def where(self, key: str, command: str = "") -> str:
        """Name a key for a message: the file, its table, itself."""
        table = ".".join(part for part in (self.prefix, command) if part)
        return f"{self.path}: {f'[{table}] ' if table else ''}{key}"


def _configured(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Make what the file says the defaults of the command, before its other options are looked at."""
    if context.resilient_parsing:
        return
    config = _found() if path is None else _read(path, named=True)
    if config is None:
        return
    said = _said(config, context)
    if said and not config.named:
        click.echo(f"note: options from {config.path}: {', '.join(f'--{key}' for key in said)}", err=True)
    options = options_of(context.command)
    context.default_map = {str(options[key].name): value for key, value in said.items()}


config_option = click.Option(
    ["--config"],
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_configured,
    metavar="FILE",
    help=f"Options from a TOML file. [default: {OWN}, or [{TABLE}] of {SHARED}, where there is one]",
)


def options_of(command: click.Command) -> Options:
    """Return the options of a command that a file may set, by their names without dashes."""
    options = (
        each for each in command.params if isinstance(each, click.Option) and each.name not in ("config", "help")
    )
    return {max(each.opts, key=len).lstrip("-"): each for each in options}


def _found() -> Config | None:
    """Return the file of the working directory, None where there is none."""
    if (own := Path(OWN)).is_file():
        return _read(own, named=False)
    shared = Path(SHARED)
    return _read(shared, named=False) if shared.is_file() else None


def _read(path: Path, named: bool) -> Config | None:
    """Read a file; None for a `pyproject.toml` that is about other things."""
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of the latter are tomllib's, and those of the encoding
        raise click.UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if path.name != SHARED:
        return Config(path, table, "", named)
    for key in TABLE.split("."):
        table = table.get(key) if isinstance(table, Mapping) else None
    if isinstance(table, Mapping):
        return Config(path, table, TABLE, named)
    if named:
        raise click.UsageError(f"{path} has no table [{TABLE}]")
    return None


def _said(config: Config, context: click.Context) -> dict[str, Any]:
    """Return what the file says for the command at hand, by option, each as click takes it. Raises UsageError."""
    root = context.find_root().command
    commands = root.commands if isinstance(root, click.Group) else {str(context.info_name): context.command}
    known = {name: options_of(command) for name, command in commands.items()}
    here = next(name for name, command in commands.items() if command is context.command)
    everywhere = {key for options in known.values() for key in options}
    raw: dict[str, tuple[Any, str]] = {}
    for key, value in config.table.items():
        if isinstance(value, Mapping) and key in known:
            continue
        if key not in everywhere:
            raise click.UsageError(_unknown(config.where(key), key, {*everywhere, *known}))
        if key in known[here]:
            raw[key] = value, config.where(key)
    for name, table in config.table.items():
        for key, value in table.items() if isinstance(table, Mapping) and name in known else ():
            if key not in known[name]:
                raise click.UsageError(_unknown(config.where(key, name), key, known[name]))
            if name == here:
                raw[key] = value, config.where(key, name)
    return {key: _checked(known[here][key], *entry, config, context) for key, entry in raw.items()}


def _unknown(where: str, key: str, right: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(key, sorted(right), n=1, cutoff=0.5)
    return f"{where}: there is no such option" + (f": did you mean {nearest[0]}?" if nearest else "")


def _checked(option: click.Option, value: Any, where: str, config: Config, context: click.Context) -> Any:
    """Return a value as click takes it, once click has taken it. Raises UsageError with the file and the key."""
    if option.multiple and not isinstance(value, list):
        raise click.UsageError(f"{where} = {value!r}: give a list, [...]")
    each = value if option.multiple else [value]
    entries = [_entry(option, one, where, config) for one in each]
    made = entries if option.multiple else entries[0]
    try:
        option.process_value(context, made)
    except (click.BadParameter, OptionError) as error:
        raise click.UsageError(f"{where}: {getattr(error, 'message', error)}") from error
    return made


def _entry(option: click.Option, value: Any, where: str, config: Config) -> Any:
    """Return one value of the type that the option has; a number for an option that takes text is as it is typed."""
    wanted, takes = _wanted(option)
    if not isinstance(value, takes) or (isinstance(value, bool) and takes is not bool):
        raise click.UsageError(f"{where} = {value!r}: give {wanted}")
    text = str(value)
    if isinstance(option.type, click.Path):
        return str(config.path.parent / text)
    if takes is not _TEXT:
        return value
    code = _CODE.fullmatch(text) is not None
    if option.metavar == SOURCE and (not code or (config.path.parent / text).exists()):
        return str(config.path.parent / text)
    if code and option.metavar in (SOURCE, "MODULE:FUNCTION") and not config.named:
        raise click.UsageError(
            f"{where} = {text!r} is code to import, which a file that was found by itself may not ask for: give "
            f"--config {config.path}"
        )
    return text


_TEXT = (str, int, float)


def _wanted(option: click.Option) -> tuple[str, type | tuple[type, ...]]:
    """Return the words for what an option takes, and the types that are it."""
    if option.is_flag:
        return "true or false", bool
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", int
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", (int, float)
    if isinstance(option.type, click.Path | click.Choice):
        return "a text", str
    return "a text or a number", _TEXT
