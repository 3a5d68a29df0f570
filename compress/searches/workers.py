"""The same function over many values, here, in processes of their own or in a cluster, one thread each."""

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from compress.cluster import join
from graph.errors import ModelError

X = TypeVar("X")
Y = TypeVar("Y")

_function: Any = None  # of this process, where it is a worker


@contextmanager
def workers(
    function: Callable[[X], Y], jobs: int, ray: str | None = None
) -> Iterator[Callable[[Sequence[X]], list[Y]]]:
    """Give a map of the function; with more than one job it is pickled and runs in fresh processes.

    `ray` is the address of a cluster where it runs instead. Everything runs on one thread, so that the results are the
    same bits for any number of jobs. Raises ModelError where a process was ended from outside.
    """
    import torch

    if ray is not None:
        spread = join(ray).spread(function, threads=1)
        yield lambda values: list(spread(values))
        return
    if jobs <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield lambda values: [function(value) for value in values]
        finally:
            torch.set_num_threads(threads)
        return
    # pickled here, once: multiprocessing would move every tensor to shared memory, of which containers have little
    data = pickle.dumps(function)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(data,))
    try:
        yield lambda values: list(pool.map(_call, values))
    except BrokenProcessPool as error:
        raise ModelError(
            f"one of the {jobs} processes of the search ended: memory may be short, use fewer; a script that starts "
            'them needs `if __name__ == "__main__":` around what it does'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(data: bytes) -> None:
    global _function
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    torch.set_num_threads(1)
    _function = pickle.loads(data)  # made by this program a moment ago


def _call(value: Any) -> Any:
    return _function(value)
