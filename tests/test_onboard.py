"""The one file that boards get: what it needs, in which order models run, what a profile says; no time is asserted."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnx.parser
import pytest
from test_layers import ROOT, imported

from compress import onboard
from compress.onboard import Kernel, NoProvider, Settings, Timed, kernels_of, settled, timed_rounds

FILE = ROOT / "compress" / "onboard.py"
FEEDS = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


def model(text: str) -> bytes:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}').SerializeToString()


ADD = model("add (float[3,4] x) => (float[3,4] y) { s = Sin(x) y = Add(s, x) }")
LOOP = model("""loop (float[3,4] x) => (float[3,4] y) <int64 n = {5}, bool c = {1}> {
    a = Sin(x)
    y = Loop(n, c, a) <body = b (int64 i, bool d, float[3,4] v) => (bool e, float[3,4] w) {
        e = Identity(d) w = Cos(v) }>
}""")


def test_it_imports_numpy_and_onnxruntime_alone() -> None:
    foreign = {name.split(".")[0] for name in imported(FILE)} - sys.stdlib_module_names
    assert foreign == {"numpy", "onnxruntime"}


def test_it_works_alone(tmp_path: Path) -> None:
    """Copied to an empty folder, beside libraries that cannot be imported."""
    shutil.copy(FILE, tmp_path)
    (tmp_path / "add.onnx").write_bytes(ADD)
    code = """
import json, sys
for name in ("onnx", "onnx_ir", "torch", "click", "rich", "compress", "graph"):
    sys.modules[name] = None  # importing it raises
import onboard, numpy
timed = onboard.Timed("add.onnx", {"x": numpy.ones((3, 4), numpy.float32)}, onboard.Settings())
assert onboard.rounds([timed], [onboard.runs_per_turn(timed)], 0.01).shape[1] == 1
print(json.dumps(onboard.machine(onboard.Settings())))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said == onboard.machine(Settings()) and said["cpu"] and said["threads"] == 1


@pytest.mark.parametrize(
    ("times", "expected", "reason"),
    [
        ([1.0] * 9, False, "fewer than ten runs are never enough"),
        ([1.0] * 10, True, "steady"),
        ([9.0, 5.0, 3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 1.0, 1.0], False, "still falling"),
        ([9.0] * 5 + [1.0] * 10, True, "fell, then steady"),
        ([1.0] * 7 + [50.0] + [1.0] * 2, True, "one outlier is no trend"),
    ],
)
def test_settled(times: list[float], expected: bool, reason: str) -> None:
    assert settled(times) is expected, reason


def test_rounds_go_both_ways() -> None:
    """The models' clock counts turns: so the row says who ran when."""
    turn = 0

    def next_turn(_: int) -> tuple[float, float]:
        nonlocal turn
        turn += 1
        return turn / 1000, turn

    models = cast(list[Timed], [SimpleNamespace(both=next_turn) for _ in "ABC"])
    times = timed_rounds(models, [1, 1, 1], 0)
    order = times.wall_ms
    assert len(order) == onboard.LEAST_ROUNDS and np.array_equal(times.undisturbed_ms, 1000 * order)
    assert np.array_equal(np.diff(order, axis=1), np.where(np.arange(len(order)) % 2, -1, 1)[:, None] * [1, 1])
    assert sorted(order.ravel()) == pytest.approx(range(1, order.size + 1))
    first = order[0::2].min(axis=1) < order[1::2].min(axis=1)
    assert first.any() and not first.all()  # which direction comes first is drawn


@pytest.mark.parametrize(("runs", "untimed"), [([1, 1], 0), ([1, 2], 2)])
def test_short_turns_begin_with_a_run_that_is_not_timed(runs: list[int], untimed: int) -> None:
    """For all models or for none: else what is in the caches would be one's and not the other's."""
    before: list[int] = []
    each = SimpleNamespace(both=lambda _: (1.0, 1.0), seconds=before.append)
    rows = len(timed_rounds(cast(list[Timed], [each, each]), runs, 0).wall_ms)
    assert before == [1] * untimed * rows


def test_what_runs_is_profiled_in_its_order() -> None:
    sine, add = Timed(ADD, FEEDS, Settings(), profile=True).kernels(5)
    assert (sine.op_type, add.op_type) == ("Sin", "Add")
    assert (add.inputs, add.outputs, add.provider) == (((3, 4), (3, 4)), ((3, 4),), "CPUExecutionProvider")


def test_a_profile_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    Timed(ADD, FEEDS, Settings(), profile=True).kernels(1)
    unused = Timed(ADD, FEEDS, Settings(), profile=True)
    assert list(here.iterdir()) == [] and len(list(temporary.iterdir())) == 1
    del unused
    assert list(temporary.iterdir()) == []


def test_a_session_without_a_profile_has_no_kernels() -> None:
    with pytest.raises(ValueError, match="profile=True"):
        Timed(ADD, FEEDS, Settings()).kernels(1)


def test_the_body_of_a_loop_is_listed_by_itself() -> None:
    found = {kernel.op_type: kernel for kernel in Timed(LOOP, FEEDS, Settings(), profile=True).kernels(5)}
    assert {"Sin", "Cos", "Loop"} <= set(found)
    assert found["Cos"].inputs == ((3, 4),)


def event(name: str, start: int, duration: int, index: str = "0") -> dict[str, Any]:
    args = {"op_name": name, "provider": "P", "node_index": index, "input_type_shape": [{"float": [2, 3]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": args}


RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 0, "args": {}}


def test_the_events_of_a_profile_by_hand() -> None:
    """Two runs, the first of them skipped; a Loop of 20 µs holds two runs of a body of 6 and 7; an unfinished run."""
    first = [event("Conv", 0, 99), RUN]
    second = [event("Conv", 0, 10), event("Relu", 11, 6, "1"), event("Relu", 18, 7, "1"), event("Loop", 10, 20), RUN]
    shape = ((2, 3),)
    assert kernels_of([*first, *second, event("Conv", 40, 50)], 1) == (
        Kernel("Conv", "Conv", "P", 10, shape, ()),
        Kernel("Relu", "Relu", "P", 13, shape, ()),
        Kernel("Loop", "Loop", "P", 7, shape, ()),
    )


def test_what_is_typical_is_the_middle_half() -> None:
    runs = [each for duration in (1, 9, 3, 4, 100, 3, 4, 4) for each in (event("Conv", 0, duration), RUN)]
    (conv,) = kernels_of(runs)
    assert conv.microseconds == 15 / 4  # of 3, 4, 4 and 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(provider="AbacusExecutionProvider"), "not in this ONNX Runtime: it has .*cpu"),
        (Settings(provider="cpu"), "give its full name, CPUExecutionProvider"),
        (Settings(provider_options={"speed": "9"}), "takes no options: ONNX Runtime would ignore 'speed'"),
    ],
)
def test_what_would_not_run_as_asked_is_refused(settings: Settings, words: str) -> None:
    with pytest.raises(NoProvider, match=words):
        Timed(ADD, FEEDS, settings)


def test_a_fall_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onboard.ort, "get_available_providers", lambda: ["AbacusExecutionProvider"])
    monkeypatch.setattr(onboard.ort, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(NoProvider, match="fell back from Abacus"):
        Timed(ADD, FEEDS, Settings(provider=onboard.available("abacus")))


def test_only_a_thread_that_is_alone_has_a_clock_of_its_own() -> None:
    assert onboard.machine(Settings(threads=2))["clock"] == "wall"
    assert onboard.machine(Settings(provider="CUDAExecutionProvider"))["clock"] == "wall"
