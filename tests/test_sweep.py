"""`compress sweep`: the same as pruning at each budget, with the calibration done once."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import build

from compress import figures, ranking
from compress.api import prune
from compress.cli import main
from compress.errors import OptionError
from compress.settings import Options
from compress.sweep import Sweep, sweep
from compress.targets import Target, Unreachable
from graph.model import load, save

TEXT = """(float[N,3,8,8] x) => (float[N,4] y)
    <float[12,3,3,3] w1, float[12] b1, float[12,12,3,3] w2, float[12] b2, float[12,4] w3> {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a)
        b = Conv (r, w2, b2) s = Relu (b)
        p = GlobalAveragePool (s) f = Flatten (p) y = MatMul (f, w3) }"""
TARGETS = (0.3, 0.8, "0.0001", 0.5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency hardly at all."""
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model and data in it."""
    save(build(TEXT), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", images())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)


def swept(**options: object) -> Sweep:
    return sweep(build(TEXT), TARGETS, images(), Options(**options), latency=False)  # type: ignore[arg-type]


def test_rows_are_what_pruning_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[ModuleType] = []
    original = ranking.collect
    monkeypatch.setattr(ranking, "collect", lambda *a, **k: calls.append(ranking) or original(*a, **k))  # type: ignore[func-returns-value]
    found = sweep(build(TEXT), TARGETS, images(), latency=False, output_dir=tmp_path)
    assert len(calls) == 1
    assert [row.target for row in found.rows] == ["0.8", "0.5", "0.3", "0.0001"]
    for row in found.rows[:3]:
        single = prune(build(TEXT), float(row.target), images(), latency=False)
        assert row.after is not None and row.output == str(tmp_path / f"agraph-{row.target}.onnx")
        assert ir.to_proto(load(row.output)).graph == ir.to_proto(single.model).graph
        assert row.after == single.report.after and found.before == single.report.before
    assert {path.name for path in tmp_path.iterdir()} == {f"agraph-{target}.onnx" for target in (0.3, 0.5, 0.8)}


def test_a_target_out_of_reach_is_a_row_that_says_so() -> None:
    found = swept()
    last = found.rows[-1]
    assert last.after is None and "out of reach: the least that the permitted widths reach is 0.0" in last.reason
    assert all(row.after is not None and not row.reason for row in found.rows[:3])
    with pytest.raises(Unreachable, match="out of reach"):
        sweep(build(TEXT), (0.0001, Target("params", 0.0001, True)), images(), latency=False)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="neither --max-drop nor a checkpoint"):
        swept(max_drop=0.1)
    with pytest.raises(Unreachable, match="no target was given"):
        sweep(build(TEXT), (), images())


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "data.npy", "--targets", "0.5, 0.9,0.0001"]
    assert main(["sweep", "net.onnx", *data, "--json", "out.json", "--output-dir", "kept"]) == 0
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith("0.9 ") for line in lines) and any(line.startswith("0.5 ") for line in lines)
    assert "0.0001 out of reach" in lines and "the target, 0.0001 of the original's macs, is out of reach" in out
    assert all(line.startswith("note: ") for line in err.splitlines())
    found = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert found["schema_version"] == 2 and found["command"] == "sweep"
    latencies = [found["before"], *(row["after"] for row in found["rows"][:2])]
    assert all(entry["latency_ms"]["p50_ms"] > 0 for entry in latencies)
    assert found["rows"][2]["after"] is None and "MACs" in out and "ratio" in out
    for row, share in zip(found["rows"], (0.9, 0.5), strict=False):
        onnx.checker.check_model(row["output"], full_check=True)
        assert row["after"]["macs"] <= share * found["before"]["macs"]
        assert row["after"]["file_bytes"] == Path(row["output"]).stat().st_size
    assert main(["sweep", "net.onnx", *data, "--output-dir", "kept"]) == 2
    assert "kept/net-0.5.onnx exists" in capsys.readouterr()[1]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--targets", ","], "--targets: give at least one"),
        (["--targets", "0.5,x"], "'x' is not a share"),
        (["--picture", "p.jpg"], "must end in .png or .svg"),
        (["--picture", "nowhere/p.png"], "no folder"),
        (["--picture", "p.svg", "--json", "p.svg"], "would replace"),
        (["--output-dir", "no/where"], "no is not a folder"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "net.onnx", "--data", "data.npy", *arguments]) == 2
    assert words in capsys.readouterr()[1]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from compress.picture import draw

    found = sweep(build(TEXT), (0.8, 0.5), images())
    draw(found, tmp_path / f"a{suffix}")
    draw(found, tmp_path / f"b{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second and len(first) > 5000
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    with pytest.raises(OptionError, match="cannot be written"):
        draw(found, tmp_path / "no" / f"a{suffix}")
