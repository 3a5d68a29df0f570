"""A Ray cluster: the same function over many values, wherever in the cluster there are free cores.

Ray is an extra, imported only where a cluster was asked for. What is computed, and in which order results come back,
does not depend on who computes it; a task whose process or machine dies is given to another one by Ray.
"""

import pickle
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from compress.errors import OptionError
from graph.errors import ModelError

X = TypeVar("X")
Y = TypeVar("Y")

KNOCK_S = 10.0
_SAME = ("compress-onnx", "numpy", "onnx", "onnxruntime", "torch")  # wherever anything is computed
_joined: "Cluster | None" = None
_held: tuple[bytes, Any] = (b"", None)  # the function that this process, a worker, was last given


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process has joined; `cpus` are those of its largest machine, and of all."""

    address: str
    cpus: tuple[int, int]

    def spread(self, function: Callable[[X], Y], threads: int) -> Callable[[Iterable[X]], Iterator[Y]]:
        """Return a map of the function, which is pickled once, over values, which are drawn as there is room for them.

        Results come in the order of the values. Each task computes with that many threads of torch, so that its results
        are those of one process with as many. Raises ModelError where the cluster cannot finish a task.
        """
        import ray

        largest, together = self.cpus
        cores = min(threads, largest)
        task = ray.remote(num_cpus=cores)(_call)
        held = ray.put(pickle.dumps(function))

        def over(values: Iterable[X]) -> Iterator[Y]:
            waiting: deque[Any] = deque()
            for value in values:
                waiting.append(task.remote([held], threads, value))
                if len(waiting) >= 2 * max(1, together // cores):
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())

        return over

    def _result(self, reference: Any) -> Any:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            raise ModelError(f"the Ray cluster at {self.address} did not finish a task: {_last(error)}") from error


def join(address: str) -> Cluster:
    """Join a running Ray cluster, whose machines must have what is installed here; a second time nothing is done.

    `address` is host:port, ray://host:port, or "auto" for the cluster that this machine is part of. Raises OptionError.
    """
    try:
        import ray
    except ImportError as error:
        raise OptionError("--ray: Ray is not installed here: pip install 'ray[client]'") from error
    global _joined
    if ray.is_initialized() and _joined is not None and _joined.address == address:
        return _joined
    if not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises whatever its parts raise
            raise OptionError(f"--ray {address}: no Ray cluster could be joined: {_last(error)}") from error
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not nodes:
        raise OptionError(f"--ray {address}: no machine of the Ray cluster offers a CPU")
    for node in nodes:
        _check(address, node)
    cpus = [int(node["Resources"]["CPU"]) for node in nodes]
    _joined = Cluster(address, (max(cpus), sum(cpus)))
    return _joined


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at host:port or ray://host:port; Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S):
            pass


def _check(address: str, node: dict[str, Any]) -> None:
    """Raise OptionError where a machine of the cluster has other versions than this one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    name = node["NodeManagerAddress"]
    try:
        found = ray.get(ray.remote(num_cpus=0, scheduling_strategy=there)(_versions).remote())
    except ray.exceptions.RayError as error:
        raise OptionError(
            f"--ray {address}: machine {name} cannot run compress, install it there as here: {_last(error)}"
        ) from error
    for package, number in _versions().items():
        if found[package] != number:
            raise OptionError(
                f"--ray {address}: machine {name} has {package} {found[package]}, here it is {number}:"
                " results would depend on who computes them; install the same"
            )


def _versions() -> dict[str, str]:
    return {package: _version(package) for package in _SAME}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "of no known version"


def _last(error: BaseException) -> str:
    """Return the line of an error of Ray's, which may be a whole traceback, that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _call(holder: list[Any], threads: int, value: Any) -> Any:
    """Return the held function's result; a list holds it, as Ray would fetch an argument for every call."""
    global _held
    import ray
    import torch

    key = holder[0].binary()
    if _held[0] != key:
        torch.set_num_threads(threads)
        _held = key, pickle.loads(ray.get(holder[0]))  # made by this program a moment ago
    return _held[1](value)
