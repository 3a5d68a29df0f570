"""Damaged copies of real models are read, or refused in one sentence (benchmarks/fuzz.py makes thousands)."""

from pathlib import Path

import pytest
from small_graphs import ROOT, SHARED

from benchmarks.fuzz import analysed, damaged
from graph.analysis import analyse
from graph.errors import LawError, ModelError
from graph.model import load

SAMPLES = sorted((ROOT / "sample_models").glob("*.onnx"))
ZOO = sorted((SHARED / "zoo").glob("*.onnx"))


def check_damage(model: Path, other: Path, seed: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged copy is read, or refused in one sentence; no library prints anything."""
    _, content = damaged(model.read_bytes(), other.read_bytes(), seed)
    (folder / "m.onnx").write_bytes(content)
    try:
        analysed(folder / "m.onnx", seed)
    except (ModelError, LawError) as error:  # weights that are infinite or nearly so break the law
        assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("default")  # numpy's on numbers that are none; the command line silences them
@pytest.mark.parametrize("seed", range(100))
def test_damaged_samples(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for model, other in zip(SAMPLES, reversed(SAMPLES), strict=True):
        check_damage(model, other, seed, tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.skipif(not ZOO, reason="../shared/data/zoo is absent")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", range(15))
def test_damaged_networks(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number, model in enumerate(ZOO):
        check_damage(model, ZOO[number - 1], 1000 * number + seed, tmp_path, capfd)


def test_a_fault_of_the_program_is_one_sentence_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("x\ny")

    monkeypatch.setattr("graph.analysis.couple", fails)
    with pytest.raises(ModelError, match=r"cannot be analysed \(KeyError: .*a fault of this program") as refused:
        analyse(load(SAMPLES[0]))
    assert isinstance(refused.value.__cause__, KeyError) and "\n" not in str(refused.value)
