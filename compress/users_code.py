"""Functions of the user's own, named module:function on the command line: imported, and run with care."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from calibrate.module import NAME, imported, working_directory_on_path
from compress.errors import OptionError

F = TypeVar("F", bound=Callable[..., object])


@contextmanager
def users_code(name: str) -> Iterator[None]:
    """Let code of the user's run, with the working directory on the path; whatever it raises is an OptionError."""
    try:
        with working_directory_on_path():
            yield
    except Exception as error:  # it may raise anything; one line has to say what
        raise OptionError(f"{name}: {type(error).__name__}: {error}") from error


def load_function(spec: F | str, what: str) -> tuple[str, F]:
    """Return a function and the name to show for it: the one that "module:function" names, or the one given.

    `what` it is, is also the name of the option. Raises OptionError where it cannot be had.
    """
    if not isinstance(spec, str):
        return getattr(spec, "__name__", what), spec
    if not NAME.fullmatch(spec):
        raise OptionError(f"--{what} {spec!r}: give module:function, found in the working directory or installed")
    with users_code(f"{what} {spec}"):
        function = imported(spec)
    if not callable(function):
        raise OptionError(f"{what} {spec}: it is no function, but {type(function).__name__}")
    return spec, cast(F, function)
