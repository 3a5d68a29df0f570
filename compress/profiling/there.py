"""The profile of another machine: its kit is sent, and what it writes is read."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.errors import OptionError
from compress.profiling.kit import Kit, write
from compress.profiling.on_device import steps
from compress.profiling.profile import Profile
from compress.remote import Host, Job, run


def measured_there(host: Host, made: Kit, stage: Callable[[int], Callable[[], None]]) -> dict[str, Any]:
    """Return the profile of a kit on that machine, as JSON takes it; `stage` is told how many steps it takes.

    Raises OptionError where it cannot be had, and ModelError where that machine does not run the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder) / "profile.pyz"
        write(made, kit)
        found = run(host, Job({kit.name: kit}, (kit.name, "--steps", "-o", Job.result)), stage(steps(made.request)))
    try:
        str(Profile.of(found).where)  # all that is read off it
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise OptionError(f"{host.destination} sent what is no profile ({type(error).__name__}: {error})") from error
    return dict(found)
