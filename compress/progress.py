"""Progress on stderr: one bar per stage on a terminal, nothing elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Something that opens a stage of so many units and hands out the function that advances it."""

    def __call__(self, title: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """Open a stage: a context whose value is to be called with the number of units done (1 by default)."""
        ...


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show nothing."""
    yield lambda units=1: None


@contextmanager
def on_terminal(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda units=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda units=1: bar.advance(task, units)


class Timed:
    """Wraps a progress and remembers how many seconds each stage took."""

    def __init__(self, progress: Progress) -> None:
        """Wrap a progress."""
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """Open a stage and time it."""
        start = time.perf_counter()
        with self._progress(title, total) as advance:
            yield advance
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - start
