"""What is put into the frontier comes out of it, from memory or from disk, and nothing of it is left behind."""

from pathlib import Path

import pytest
import torch

from compress.frontier import Env, Frontier


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def env(seed: int) -> Env:
    generator = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randn(4, 3, 5, 5, generator=generator),
        "a/b:0": torch.randn(4, 8, generator=generator, dtype=torch.float64),  # names are no file names
        "counts": torch.arange(6).reshape(2, 3),
        "flag": torch.tensor(True),
        "channels last": torch.randn(2, 3, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last),
        "turned": torch.randn(4, 6, generator=generator).T,
    }


def same(found: Env, expected: Env) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
        assert found[name].stride() == value.stride(), name  # kernels differ in their last bits by layout


@pytest.mark.parametrize("budget", [0, 1500, 1 << 20], ids=["disk", "both", "memory"])
def test_what_goes_in_comes_out(budget: int, scratch: Path) -> None:
    with Frontier(budget) as frontier:
        for chunk in range(3):
            frontier.put(chunk, "original", env(chunk))
            frontier.put(chunk, "pruned", env(10 + chunk))
        assert any(scratch.iterdir()) == (budget < 1 << 20)
        for chunk in range(3):
            same(frontier.take(chunk, "pruned", "cpu"), env(10 + chunk))
            same(frontier.take(chunk, "original", "cpu"), env(chunk))
    assert not any(scratch.iterdir())


def test_the_budget_is_in_bytes_and_may_be_used_up(scratch: Path) -> None:
    for budget, spilled in ((800, False), (799, True)):
        with Frontier(budget) as frontier:
            frontier.put(0, "original", {"x": torch.zeros(100)})
            frontier.put(0, "pruned", {"x": torch.zeros(50), "y": torch.zeros(25, dtype=torch.float64)})
            assert any(scratch.iterdir()) == spilled


def test_taking_makes_room_again(scratch: Path) -> None:
    value = {"x": torch.zeros(100)}
    with Frontier(400) as frontier:
        for _ in range(3):
            frontier.put(0, "pruned", value)
            assert frontier.take(0, "pruned", "cpu")["x"] is value["x"]
        assert not any(scratch.iterdir())


def test_files_go_when_they_are_taken(scratch: Path) -> None:
    with Frontier(0) as frontier:
        frontier.put(0, "pruned", env(0))
        frontier.take(0, "pruned", "cpu")
        assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_nothing_is_left_after_an_error(scratch: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Frontier(0) as frontier:
        frontier.put(0, "pruned", env(0))
        raise KeyboardInterrupt
    assert not any(scratch.iterdir())
