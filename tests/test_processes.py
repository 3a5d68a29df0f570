"""Two processes together compute what one does alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from training_nets import one_of_several

from compress.errors import OptionError
from compress.training.processes import Processes, start

HERE = Path(__file__).parent
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def test_one_process_has_nothing_to_add() -> None:
    processes = start("cpu")
    assert processes == Processes() and processes.first
    tensor, indices = torch.ones(2), np.arange(5)
    processes.sum([tensor])
    processes.wait()
    assert tensor.tolist() == [1, 1]
    np.testing.assert_array_equal(processes.own(indices), indices)
    np.testing.assert_array_equal(processes.same({"a": indices})["a"], indices)


def test_the_parts_are_the_whole() -> None:
    parts = [Processes(rank, 3).own(np.arange(11)) for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(11))


@pytest.mark.parametrize(
    ("given", "device", "message"),
    [
        ({"WORLD_SIZE": "2"}, "cpu", r"RANK=None, WORLD_SIZE=2, LOCAL_RANK=None: torchrun sets three numbers"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "cpu",
            "process 0 of 2 does not find the others: .*MASTER",
        ),
        ({"WORLD_SIZE": "99", "RANK": "98", "LOCAL_RANK": "98"}, "cuda", r"process 98 of this machine finds \d+ GPUs"),
    ],
)
def test_what_torchrun_sets_must_be_there(
    given: dict[str, str], device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=message):
        start(device)


@pytest.mark.slow  # each process imports torch
def test_two_give_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients, weights and statistics, through torch's own launcher.

    The one normalises by the same formula, which tests/test_batch_norm.py compares with torch's: on a CPU torch's
    gradients are less exact than what is to be seen here.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "two").mkdir()
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, two_processes.__file__, str(tmp_path / "two")], env=environment, check=True, timeout=300)
    with one_of_several(tmp_path, monkeypatch):
        two_processes.main(str(tmp_path))
    expected, *found = (dict(np.load(tmp_path / name)) for name in ("0.npz", "two/0.npz", "two/1.npz"))
    assert len(expected) > 60
    kind = {name: name.rpartition(" ")[0] for name in expected}
    size = {of: max(abs(expected[n]).max(initial=1) for n in expected if kind[n] == of) for of in kind.values()}
    for each in found:
        assert each.keys() == expected.keys()
        for name, array in expected.items():
            tolerance = 1e-6 * float(size[kind[name]])
            np.testing.assert_allclose(each[name], array, atol=tolerance, rtol=0, err_msg=name)
            if not name.startswith("gradient"):
                np.testing.assert_array_equal(each[name], found[0][name], err_msg=name)
