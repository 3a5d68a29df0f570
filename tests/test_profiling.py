"""Latency tables: which networks are measured, what their times say of others, kits, and multiples of channels."""

import itertools
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from small_graphs import build

from compress.cli import main
from compress.costs import Extent, Table, macs_model
from compress.errors import OptionError
from compress.onboard import Settings
from compress.profiling import design, multiples, on_device
from compress.profiling.kit import Kit, hollow, kit, named, narrowed, write
from compress.profiling.profile import KernelTime, Measured, Profile, load
from compress.profiling.tables import latency_model
from graph.analysis import Analysis, analyse
from graph.inputs import example_inputs
from graph.model import load as load_model
from graph.model import serialised

CHAIN = """(float[1,8,6,6] x) => (float[1,4,6,6] y)
    <float[12,8,3,3] w1, float[16,12,1,1] w2, float[12,16,1,1] w3, float[12,1,3,3] w4, float[4,12,1,1] w5> {
        a = Conv <pads = [1,1,1,1]> (x, w1)
        r = Relu (a)
        b = Conv (r, w2)
        s = Relu (b)
        c = Conv (s, w3)
        t = Add (c, r)
        u = Relu (t)
        d = Conv <group = 12, pads = [1,1,1,1]> (u, w4)
        y = Conv (d, w5)
    }"""


def chain() -> Analysis:
    return analyse(build(CHAIN))


def allowed(analysis: Analysis, step: int = 4) -> dict[str, np.ndarray]:
    return {g.name: np.arange(step, len(g.channels) + 1, step) for g in analysis.channels.groups}


def neighbours(analysis: Analysis) -> dict[str, frozenset[str]]:
    return dict(macs_model(analysis.channels, analysis.count, analysis.trace.shapes).neighbours)


def every(analysis: Analysis) -> list[dict[str, int]]:
    """Return every choice of the permitted widths."""
    permitted = allowed(analysis)
    return [dict(zip(permitted, map(int, row), strict=True)) for row in itertools.product(*permitted.values())]


# which networks are measured


@given(st.integers(2, 8), st.integers(1, 7), st.integers(0, 2**16))
def test_neighbours_are_seen_at_every_pair_of_levels(groups: int, most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(groups)]
    permitted = {name: np.arange(0, 16 * generator.integers(1, most + 1) + 1, 16)[1:] for name in names}
    near = {name: frozenset[str](set(names[max(0, i - 1) : i + 2]) - {name}) for i, name in enumerate(names)}
    chosen = design.levels(permitted)
    networks = design.networks(chosen, near)
    assert all({widths[name] for widths in networks} == set(chosen[name].tolist()) for name in names)
    for name, others in near.items():
        for other in others:
            seen = {(widths[name], widths[other]) for widths in networks}
            assert seen == set(itertools.product(chosen[name].tolist(), chosen[other].tolist()))
    assert networks[0] == {name: int(permitted[name][-1]) for name in names}
    assert len(networks) <= 27


def test_neighbours_have_different_colours() -> None:
    ring = {str(i): frozenset({str((i + 1) % 5), str((i - 1) % 5)}) for i in range(5)}
    colours = design.coloured({name: np.array([8, 16]) for name in ring}, ring)
    assert all(colours[name] != colours[other] for name, others in ring.items() for other in others)
    assert max(colours.values()) <= 2


def test_levels_hold_both_ends_and_no_zero() -> None:
    chosen = design.levels({"a": np.arange(0, 129, 16), "b": np.array([0, 24])})
    assert {16, 128} <= set(chosen["a"].tolist())
    assert chosen["b"].tolist() == [24] and len(chosen["a"]) == design.MOST_LEVELS


# what their times say of others


@given(st.integers(0, 2**16))
def test_a_table_is_linear_between_its_levels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    levels = tuple(np.sort(generator.choice(np.arange(1, 60), size, replace=False)) for size in (3, 4))
    values = generator.random((3, 4))
    table = Table(2.0, ("a", "b"), levels, values, (Extent(0, {"a": 1.0}), Extent(3, {"b": 1.0})))
    oracle = RegularGridInterpolator(levels, values)
    at = [generator.uniform(each[0], each[-1], 20) for each in levels]
    found = table.value({"a": at[0], "b": at[1]})
    assert np.allclose(found, 2 * oracle(np.stack(at, 1)))
    assert table.value({"a": 0, "b": 30}) == 0  # nothing is left on one side
    assert table.value({"a": int(levels[0][0]), "b": 0}) == pytest.approx(2 * values[0, 0])  # but here three are
    assert table.value({"a": 100, "b": int(levels[1][0])}) == pytest.approx(2 * values[-1, 0])


def times(widths: dict[str, int], analysis: Analysis) -> dict[str, float]:
    """Return microseconds of the chain's kernels, by a rule that knows steps of 8 channels on both sides."""
    by_node = {site.node: group.name for group in analysis.channels.groups for site in group.producers}
    stream, inner = widths[by_node["a"]], widths[by_node["b"]]

    def blocks(channels: int) -> int:
        return -(-channels // 8)

    return {
        "a": 40 + 9 * blocks(stream),
        "b": 5 + 3 * blocks(stream) * blocks(inner) + 0.5 * inner,
        "c": 7 + 4 * blocks(stream) * blocks(inner),
        "d": 2.0 * stream,
        "y": 11 + 6 * blocks(stream),
        "reorder": 1.5 * stream,
    }


def kernels(widths: dict[str, int], analysis: Analysis) -> tuple[KernelTime, ...]:
    """Return the kernels under the names that ONNX Runtime gives them, with a layout changed on the way."""
    us = times(widths, analysis)
    by_node = {site.node: group.name for group in analysis.channels.groups for site in group.producers}
    stream, inner = widths[by_node["a"]], widths[by_node["b"]]

    def made(name: str, op_type: str, time: float, channels: int, read: int, fused: int = 0) -> KernelTime:
        added = ((1, channels, 6, 6),) * fused
        return KernelTime(name, op_type, time, ((1, read, 6, 6), *added), ((1, channels, 6, 6),))

    return (
        made("r_nchwc", "Conv", us["a"], stream, 8),
        made("fused b", "FusedConv", us["b"], inner, stream),
        made("u_nchwc_token_12", "Conv", us["c"], stream, inner, fused=1),
        made("ReorderOutput", "ReorderOutput", us["reorder"], stream, stream),
        made("d", "Conv", us["d"], stream, stream),
        made("y_nchwc", "Conv", us["y"], 4, stream),
    )


def profile(analysis: Analysis, networks: Any) -> Profile:
    """Return a profile of a machine that takes the chain's times."""

    def total(widths: dict[str, int]) -> float:
        return sum(times(widths, analysis).values()) / 1e3

    whole = total(networks[0])
    rows = tuple(Measured(w, total(w) / whole, kernels(w, analysis)) for w in networks)
    groups = {group.name: len(group.channels) for group in analysis.channels.groups}
    return Profile({}, "chain", groups, whole, rows, {})


def test_kernels_make_tables_that_hold_for_every_width() -> None:
    analysis = chain()
    networks = design.networks(design.levels(allowed(analysis)), neighbours(analysis))
    assert len(networks) < len(every(analysis)) + 3
    model = latency_model(profile(analysis, networks), analysis)
    for widths in every(analysis):
        assert model.total(widths) == pytest.approx(sum(times(widths, analysis).values()) / 1e3, rel=1e-6)
    assert {term.groups for term in model.terms} >= {tuple(g.name for g in analysis.channels.groups)}


def test_what_disturbs_some_networks_is_put_right_by_their_wholes() -> None:
    analysis = chain()
    networks = design.networks(design.levels(allowed(analysis)), neighbours(analysis))
    found = profile(analysis, networks)
    rng = np.random.default_rng(0)

    def disturbed(row: Measured) -> Measured:
        slower = rng.uniform(1, 2)
        return replace(row, kernels=tuple(replace(each, us=slower * each.us) for each in row.kernels or ()))

    model = latency_model(replace(found, networks=tuple(map(disturbed, found.networks))), analysis)
    for widths in every(analysis):
        assert model.total(widths) == pytest.approx(sum(times(widths, analysis).values()) / 1e3, rel=1e-6)


def test_what_went_altogether_costs_nothing() -> None:
    analysis = chain()
    model = latency_model(profile(analysis, [every(analysis)[-1]]), analysis)  # each group at one width only
    whole = every(analysis)[-1]
    (inner,) = (g.name for g in analysis.channels.groups if g.producers[0].node == "b")
    us = times(whole, analysis)
    assert model.total({**whole, inner: 0}) == pytest.approx(
        (sum(us.values()) - us["b"] - us["c"] - us["reorder"]) / 1e3
    )


def test_where_only_wholes_are_timed_a_sum_of_counts_is_fitted() -> None:
    analysis = chain()
    networks = design.networks(design.levels(allowed(analysis)), neighbours(analysis))
    macs = macs_model(analysis.channels, analysis.count, analysis.trace.shapes)
    rows = tuple(Measured(w, (3.0 + macs.total(w) / 1e4) / 10.0, None) for w in networks)
    groups = {group.name: len(group.channels) for group in analysis.channels.groups}
    model = latency_model(Profile({}, "", groups, 10.0, rows, {}), analysis)
    for widths in every(analysis):
        assert model.total(widths) == pytest.approx(3.0 + macs.total(widths) / 1e4, rel=1e-3)


def test_the_cost_of_one_group_is_that_of_the_whole_but_for_what_it_does_not_touch() -> None:
    analysis = chain()
    model = latency_model(profile(analysis, every(analysis)), analysis)
    for group, candidates in allowed(analysis).items():
        widths = every(analysis)[5]
        found = model.of_group(group, candidates, widths)
        wholes = np.array([model.total({**widths, group: int(w)}) for w in candidates])
        assert np.allclose(np.diff(found), np.diff(wholes))


# measuring for real


def digits() -> Path:
    return Path(__file__).parents[1] / "sample_models" / "digits_residual.onnx"


@pytest.fixture(scope="module")
def small_kit() -> tuple[Kit, Analysis, ir.Model]:
    original = load_model(digits())
    feeds = example_inputs(original)
    analysis = analyse(original, feeds)
    permitted = {g.name: np.array([len(g.channels) // 2, len(g.channels)]) for g in analysis.channels.groups}
    return kit(original, analysis, permitted, feeds, Settings()), analysis, original


def test_a_model_is_measured_kernel_by_kernel(small_kit: tuple[Kit, Analysis, ir.Model], tmp_path: Path) -> None:
    made, analysis, _ = small_kit
    steps = []
    found = on_device.measure(made.request, made.read, made.feeds, lambda: steps.append(1))
    assert len(steps) == len(found["networks"]) == len(made.request["networks"])
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(found))
    read = load(file, analysis.channels)
    model = latency_model(read, analysis)
    touched = {name for term in model.terms for name in term.groups}
    assert touched == {group.name for group in analysis.channels.groups}
    assert all(model.total(dict(row.widths)) > 0 for row in read.networks)
    assert all(row.kernels for row in read.networks) and read.multiple is None


def test_a_kit_runs_where_there_is_only_numpy_and_onnxruntime(
    small_kit: tuple[Kit, Analysis, ir.Model], tmp_path: Path
) -> None:
    made, analysis, original = small_kit
    file, result = tmp_path / "kit.pyz", tmp_path / "profile.json"
    write(made, file)
    (tmp_path / "onnx.py").write_text("raise ImportError('not on this board')")
    for name in ("onnx_ir", "torch", "click", "rich", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this board')")
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = {[str(file), '-o', str(result)]!r}; "
    code += f"runpy.run_path({str(file)!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    read = load(result, analysis.channels)
    assert [dict(row.widths) for row in read.networks] == [each["widths"] for each in made.request["networks"]]
    assert file.stat().st_size < len(serialised(original)) * (len(read.networks) + 1)


def test_a_kit_says_in_a_line_what_it_cannot_do(small_kit: tuple[Kit, Analysis, ir.Model], tmp_path: Path) -> None:
    file = tmp_path / "kit.pyz"
    write(small_kit[0], file)
    for arguments, words in (
        (["-o", str(tmp_path / "no" / "p.json")], "is not a folder"),
        (["-o", str(tmp_path / "p.json"), "--provider", "warp"], "'warp' is not in this ONNX Runtime"),
    ):
        ended = subprocess.run([sys.executable, str(file), *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_measures_here_or_writes_a_kit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(design, "MOST_LEVELS", 2)
    monkeypatch.setattr(on_device, "WHOLE_S", 0.01)
    monkeypatch.setattr(on_device, "CHAIN_ROUNDS", 2)
    made, kit_file = tmp_path / "here.json", tmp_path / "there.pyz"
    assert main(["profile", str(digits()), "-o", str(made), "--round-to", "16"]) == 0
    assert "networks of" in capsys.readouterr().out
    channels = analyse(load_model(digits())).channels
    assert load(made, channels).multiple in multiples.MULTIPLES
    assert main(["profile", str(digits()), "-o", str(made)]) == 2  # it exists
    assert main(["profile", str(digits()), "--kit", str(kit_file)]) == 0
    assert "python3 there.pyz" in capsys.readouterr().out and zipfile.is_zipfile(kit_file)
    assert main(["profile", str(digits()), "--kit", str(kit_file), "-o", str(made), "--force"]) == 2
    assert "here, or --kit" in capsys.readouterr().err


def test_a_hollow_model_has_zeros_for_large_weights_only() -> None:
    model = build(
        "(float[1,64,4,4] x) => (float[1,8,4,4] y) <float[80,64,1,1] w, float[8,80,1,1] v> "
        "{ a = Conv (x, w) y = Conv (a, v) }"
    )
    weights = {name: value.const_value.numpy() for name, value in hollow(model).graph.initializers.items()}
    assert not weights["w"].any() and weights["v"].all()
    assert model.graph.initializers["w"].const_value.numpy().all()


def test_the_networks_are_the_models_that_would_be_written(small_kit: tuple[Kit, Analysis, ir.Model]) -> None:
    made, analysis, original = small_kit
    widths = made.request["networks"][1]["widths"]
    small = named(narrowed(original, analysis, widths))
    assert [value.name for value in small.graph.outputs] == [value.name for value in original.graph.outputs]
    assert all(node.name == node.outputs[0].name for node in small.graph)


# profiles from elsewhere


def refused(content: str, analysis: Analysis, tmp_path: Path) -> str:
    file = tmp_path / "profile.json"
    file.write_text(content)
    with pytest.raises(OptionError) as caught:
        load(file, analysis.channels)
    return str(caught.value)


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    analysis = chain()
    assert "no profile" in refused("", analysis, tmp_path)
    assert "no profile" in refused("[]", analysis, tmp_path)
    assert "version 99" in refused('{"version": 99}', analysis, tmp_path)
    with pytest.raises(OptionError, match="cannot be read"):
        load(tmp_path / "absent.json", analysis.channels)


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    analysis = chain()
    about = {"model": "other", "groups": {"a": 12, "zebra": 3}}
    other = {"version": 1, "about": about, "machine": {}, "original_ms": 1.0, "networks": [], "chains": {}}
    said = refused(json.dumps(other), analysis, tmp_path)
    assert "another model, 'other'" in said and "compress profile" in said


# multiples of channels


def stepped(block: int, penalty: float = 0.0) -> dict[int, float]:
    """Return times of kernels that work in blocks, where other widths than multiples of 4 cost more."""

    def time(width: int) -> float:
        return (-(-width // block) * block) ** 2 * (1 + penalty * (width % 4 != 0))

    return {width: time(width) for width in multiples.CHAIN_WIDTHS}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (stepped(16), 16),
        (stepped(16, 0.5), 16),
        (stepped(8), 8),
        (stepped(4), 4),
        (stepped(1), 1),
        (dict.fromkeys(multiples.CHAIN_WIDTHS, 1.0), 32),
    ],
)
def test_the_multiple_is_the_block_of_the_kernels(times: dict[int, float], expected: int) -> None:
    assert multiples.liked(times) == expected


def test_it_is_measured_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Settings] = []

    def chain_ms(models: Any, shapes: Any, settings: Settings, advance: Callable[[], None]) -> dict[int, float]:
        measured.append(settings)
        return stepped(8)

    monkeypatch.setattr(multiples, "chain_ms", chain_ms)
    for _ in range(3):
        assert multiples.measured(Settings(), tmp_path / "cache") == 8
    assert len(measured) == 1
    multiples.measured(Settings(threads=2), tmp_path / "cache")
    assert len(measured) == 2
    (tmp_path / "cache" / "multiples.json").write_text("{ half a fi")
    assert multiples.measured(Settings(), tmp_path / "cache") == 8 and len(measured) == 3


def test_chains_are_convolutions_at_every_width_of_an_octave() -> None:
    widths = multiples.CHAIN_WIDTHS[:2]
    models = {width: serialised(multiples.chain(width)) for width in widths}
    found = on_device.chain_ms(models, {width: multiples.chain_shape(width) for width in widths}, Settings())
    assert set(found) == set(widths) and min(found.values()) > 0
    assert max(multiples.CHAIN_WIDTHS) == 2 * min(multiples.CHAIN_WIDTHS)
