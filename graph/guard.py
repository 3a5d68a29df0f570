"""The last resort against a model that no exception stops: the process is ended before it hangs or takes all memory.

`graph.runtime` limits what ONNX Runtime takes while a model runs. But a kilobyte of file can keep it, or a pass over
the graph, busy for hours before anything runs, and that cannot be interrupted from inside. So a thread looks on; the
command line says what is to happen then, and without it (in somebody's own program) nothing is watched.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 2**33  # what a model may make this process take beyond its own size
MOST_INPUT_BYTES = MOST_BYTES // 4  # of all inputs of one run: they are held several times over
LONGEST_RUN_S = 60.0  # one run of one sample
LONGEST_ANALYSIS_S = 120.0  # reading a model, or all that is found out about it without data
_INTERVAL_S = 0.05

_give_up: Callable[[str], None] | None = None
_watching = threading.Lock()


def arm(give_up: Callable[[str], None] | None) -> None:
    """Say what is called, in a thread of its own and with a sentence, when a limit is passed; it must not return."""
    global _give_up
    _give_up = give_up


@contextmanager
def watched(own_bytes: int = 0) -> Iterator[None]:
    """Watch the time and the memory that the body takes, for a model of `own_bytes`; a body inside another is its."""
    give_up = _give_up
    if give_up is None or not _watching.acquire(blocking=False):
        yield
        return
    done = threading.Event()
    # a model is held several times over: as read, as a message, as ONNX Runtime holds it
    most = resident_bytes() + MOST_BYTES + 8 * own_bytes
    watcher = threading.Thread(target=_watch, args=(done, give_up, most), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        _watching.release()


def _watch(done: threading.Event, give_up: Callable[[str], None], most: int) -> None:
    end = time.monotonic() + LONGEST_ANALYSIS_S
    while not done.wait(_INTERVAL_S):
        if resident_bytes() > most:
            give_up(f"the model takes more than {MOST_BYTES:,} bytes of memory to analyse; it may be damaged")
        if time.monotonic() > end:
            give_up(f"the model takes longer than {LONGEST_ANALYSIS_S:.0f} s to analyse; it may be damaged")


def resident_bytes() -> int:
    """Return what the process holds in memory, where that is not known the most that it ever held, else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows: the limits of `graph.runtime` and of time hold there
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
