"""A Ray cluster: who computes does not matter, and a process or a machine that dies costs time, not the result."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from calibrate.preprocess import PRESETS
from compress import Options, prune
from compress.cluster import join
from compress.errors import OptionError
from compress.progress import Progress, silent
from compress.searches import Effort
from graph.errors import ModelError
from graph.model import serialised

SAMPLES = Path(__file__).parents[1] / "sample_models"


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two machines with one core each, which are processes of this one; the head has none."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers are to find the functions below
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            machines.add_node(num_cpus=1)
        yield machines
        ray.shutdown()
        machines.shutdown()


def killed_once(flag: Path, value: int) -> int:
    """The process that first comes to the value 3 is killed in the middle of it."""
    if value == 3 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def refusing(value: int) -> int:
    raise ModelError(f"{value} is too many")


def always_killed(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.slow
def test_results_come_in_order_and_a_killed_worker_is_replaced(machines: Any, tmp_path: Path) -> None:
    cluster = join(machines.address)
    assert cluster.cpus == (1, 2)
    drawn: list[int] = []

    def values() -> Iterator[int]:
        for value in range(20):
            drawn.append(value)
            yield value

    flag = tmp_path / "killed"
    results = cluster.spread(partial(killed_once, flag), threads=1)(values())
    assert next(results) == 0
    assert len(drawn) == 4  # two at work, two that wait
    assert list(results) == [value * value for value in range(1, 20)]
    assert flag.exists()


@pytest.mark.slow
def test_what_cannot_be_finished_is_said(machines: Any) -> None:
    cluster = join(machines.address)
    with pytest.raises(ModelError, match="7 is too many"):
        list(cluster.spread(refusing, threads=1)([7]))
    with pytest.raises(ModelError, match=f"the Ray cluster at {machines.address} did not finish a task: ."):
        list(cluster.spread(always_killed, threads=1)([1]))


@pytest.mark.slow
def test_a_pruned_model_is_the_same_bytes_though_machines_are_lost(
    machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.cut.effort_of", lambda options: Effort(candidates=24, ray=options.ray))
    lost: list[str] = []

    @contextmanager
    def losing(title: str, total: int) -> Iterator[Callable[..., None]]:
        """Take a machine away as soon as the first units of a stage are done, and put another in its place."""

        def advance(units: int = 1) -> None:
            if title in ("statistics", "search") and title not in lost:
                lost.append(title)
                machines.remove_node(machines.list_all_nodes()[-1], allow_graceful=False)
                machines.add_node(num_cpus=1)

        yield advance

    def pruned(ray: str | None, progress: Progress) -> bytes:
        options = Options(preprocess=PRESETS["unit"], search="evolve", ray=ray)
        calibration = str(SAMPLES / "digits_calibration.npz")
        model = SAMPLES / "digits_mobile.onnx"
        return serialised(prune(model, 0.5, calibration, options, latency=False, progress=progress).model)

    assert pruned(machines.address, losing) == pruned(None, silent)
    assert lost == ["statistics", "search"]


@pytest.mark.slow
def test_a_machine_with_other_versions_is_named(machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    join(machines.address)
    monkeypatch.setattr("compress.cluster._joined", None)
    monkeypatch.setattr("compress.cluster.version", lambda package: "0.0.1")
    with pytest.raises(OptionError, match=r"machine \S+ has compress-onnx \S+, here it is 0\.0\.1"):
        join(machines.address)


def test_without_ray_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'ray\[client\]'"):
        join("auto")


def test_an_address_where_nobody_answers_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for each in (address, f"ray://{address}"):
            with pytest.raises(OptionError, match=f"--ray {each}: no Ray cluster could be joined: .*refused"):
                join(each)


@pytest.mark.parametrize("other", [{"jobs": 2}, {"device": "cuda"}])
def test_a_cluster_stands_for_the_processes_here(other: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="leave --jobs and --device out"):
        prune(SAMPLES / "digits_mobile.onnx", 0.5, options=Options(ray="auto", **other))
