"""Which error ends in which exit code (compress/cli.py has the list of codes)."""

from calibrate.errors import DataError
from compress.errors import OptionError
from compress.targets import TargetError, Unreachable
from graph.errors import LawError, ModelError, ShapeError, WriteError

EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (Unreachable, 1),
    (OptionError, 2),
    (TargetError, 2),
    (DataError, 2),
    (WriteError, 2),
    (ShapeError, 2),
    (ModelError, 3),
    (LawError, 4),
)


def exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that the user can do something about, None for a fault of ours."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), None)
