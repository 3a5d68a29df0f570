"""A call in a process of its own, so that its time and memory are its own and its crash is an answer."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def call(function: Callable[..., dict[str, Any]], *arguments: Any, seconds: float) -> dict[str, Any]:
    """Return what the function returns, or {"crash": one sentence} where it raises, dies or takes too long."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(function, *arguments)
        processes = list(pool._processes.values())  # only its own child can be ended before it has answered
        try:
            return future.result(seconds)
        except TimeoutError:
            for process in processes:
                process.kill()
            return {"crash": f"stopped after {seconds:.0f} s"}
        except BrokenProcessPool:
            codes = [process.exitcode for process in processes]
            return {"crash": f"the process died with exit code {codes[0] if codes else '?'}"}
        except Exception as error:  # whatever happened in there is a row of the table
            return {"crash": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
