"""Models on 8-bit integers: same interface, weights that numpy finds again, outputs near the floats', or words."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import build

import compress
from calibrate.sources import Source, open_source
from compress import figures, int8, quantise
from compress.api import prune
from compress.cli import main
from compress.int8 import astray, quantize
from compress.measure import NOT_FINITE, Comparison, OutputError, compare, measure_size
from compress.quantise import Int8
from graph.errors import ModelError
from graph.inputs import input_specs
from graph.model import load, save

PLAIN = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] v, float[8] s, float[8] b, float[8] m, float[8] var, float[16,8,1,1] w, float[16,5] g> {
        a = Conv <pads = [1,1,1,1]> (x, v)  n = BatchNormalization (a, s, b, m, var)  r = Relu (n)
        c = Conv (r, w)  d = Relu (c)  p = GlobalAveragePool (d)  f = Flatten (p)  y = MatMul (f, g) }"""
# large enough for bytes to take less room than the nodes that go with them
WIDE = """(float[N,3,8,8] x) => (float[N,5] y) <float[32,3,3,3] v, float[64,32,3,3] w, float[64,5] g> {
    a = Conv <pads = [1,1,1,1]> (x, v)  r = Relu (a)  c = Conv (r, w)  d = Relu (c)
    p = GlobalAveragePool (d)  f = Flatten (p)  y = MatMul (f, g) }"""
PIXELS = 640.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency hardly at all."""
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.01)


def images(model: ir.Model, count: int = 16, **arrays: np.ndarray) -> Source:
    """Return normal numbers as samples of the model's input."""
    specs = input_specs(model)
    shape = [8 if size is None else size for size in specs[0].shape[1:]]
    drawn = np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
    return open_source(arrays or {specs[0].name: drawn}, specs)


@pytest.fixture
def wide(tmp_path: Path) -> list[str]:
    """Write a model and labelled data; returns how a command line begins with them."""
    save(build(WIDE), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, labels=np.arange(64) % 5)
    return [str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz")]


def on_integers(model: ir.Model, batch: int | None = None) -> Int8:
    return quantise.quantise(model, images(model), np.arange(16), batch)


def errors(model: ir.Model, made: ir.Model) -> list[float]:
    return [each.relative_error or 0.0 for each in compare(model, made, images(model)).outputs]


def nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type]


def constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy())


def test_interface_and_what_the_model_says_of_itself_stay() -> None:
    model = build(PLAIN.replace("float[N,5] y", "float[M,K] y"))  # no more is said of it than that
    model.producer_name, model.doc_string, model.metadata_props["task"] = "me", "mine", "digits"
    before = ir.to_proto(model).SerializeToString()
    made = on_integers(model).model
    assert ir.to_proto(model).SerializeToString() == before
    old, new = ir.to_proto(model), ir.to_proto(made)
    assert list(new.graph.input) == list(old.graph.input) and list(new.graph.output) == list(old.graph.output)
    assert (new.producer_name, new.doc_string, new.graph.name) == ("me", "mine", old.graph.name)
    assert list(new.metadata_props) == list(old.metadata_props) and new.opset_import[0].version == 17
    assert not nodes(made, "BatchNormalization")
    assert errors(model, made)[0] < 0.05


def test_weights_are_bytes_with_a_scale_per_output_channel() -> None:
    model = build("(float[N,3,8,8] x) => (float[N,8,6,6] y) <float[8,3,3,3] w> { y = Conv (x, w) }")
    made = on_integers(model)
    assert (made.layers, made.on_integers, made.samples) == (1, 1, 16)
    weight = nodes(made.model, "Conv")[0].inputs[1]
    assert weight is not None
    stored = weight.producer()
    assert stored is not None and stored.op_type == "DequantizeLinear" and stored.attributes.get_int("axis") == 0
    q, scale, zero = map(constant, stored.inputs)
    w = constant(model.graph.initializers["w"])
    limit = 64 if made.reduced else 127
    assert q.dtype == np.int8 and abs(q).max() == limit and not zero.any()
    np.testing.assert_allclose(scale, abs(w).max((1, 2, 3)) / limit, rtol=1e-5)
    assert (abs(q * scale[:, None, None, None] - w) <= 0.501 * scale[:, None, None, None]).all()


def test_ranges_are_those_of_all_samples() -> None:
    model = build("(float[N,1,2,2] x) => (float[N,1,2,2] y) <float[1,1,1,1] w> { y = Conv (x, w) }")
    x = np.linspace(-3, 1, 4 * 70, dtype=np.float32).reshape(70, 1, 2, 2)
    source = open_source({"x": x}, input_specs(model))
    made = quantise.quantise(model, source, np.arange(70)).model
    first = nodes(made, "QuantizeLinear")[0]
    assert first.inputs[0] is made.graph.inputs[0]
    np.testing.assert_allclose(constant(first.inputs[1]), 4 / 255, rtol=1e-5)
    assert constant(first.inputs[2]) == 191 and constant(first.inputs[2]).dtype == np.uint8


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], False),
        ("AMD64", ["avx_vnni"], False),
        ("x86_64", ["avx2", "avx512f"], True),
        ("x86_64", [], True),
        ("aarch64", ["neon"], False),
    ],
)
def test_bytes_that_would_overflow_are_kept_smaller(machine: str, flags: list[str], reduced: bool) -> None:
    assert quantise.needs_reduced_range(machine, flags) is reduced


def test_seven_bits_without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "needs_reduced_range", lambda *_: True)
    model = build(PLAIN)
    made = on_integers(model)
    stored = [value.producer() for node in nodes(made.model, "Conv") if (value := node.inputs[1]) is not None]
    assert all(abs(constant(each.inputs[0])).max() == 64 for each in stored if each is not None)
    assert "weights of 7 bits" in made.sentence() and errors(model, made.model)[0] < 0.1


def test_what_comes_after_the_layers_stays_in_floats() -> None:
    """Boxes in pixels and scores below 1 in one output: one scale for both would leave nothing of the scores."""
    model = build(
        f"""(float[N,3,8,8] x) => (float[N,8,8,8] y) <float[4,3,1,1] v, float[4,3,1,1] w, float k = {{{PIXELS}}}> {{
            a = Conv (x, v)  boxes = Mul (a, k)  b = Conv (x, w)  scores = Sigmoid (b)
            y = Concat <axis = 1> (boxes, scores) }}"""
    )
    made = on_integers(model).model
    x = {"x": images(model).batch(np.arange(4))["x"]}
    a, b = (compress_run(each, x)[:, 4:] for each in (model, made))
    assert a.std() > 0.1 and abs(a - b).max() < 0.05


def compress_run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    return quantise.run(quantise.session(model), feeds)[0]


@pytest.mark.parametrize(
    ("text", "opset", "layers"),
    [
        (PLAIN, 9, 3),  # QuantizeLinear came with 10, scales per channel with 13
        (PLAIN.replace("[N,", "[2,"), 17, 3),
        (
            "(float[N,3,4] x) => (float[N,3,5] y) <float[2,4,4] v, float[4,5] w> { a = MatMul (x, w) y = Relu (a) }",
            17,
            1,
        ),
    ],
    ids=["opset 9", "two at a time", "one matrix"],
)
def test_models_of_other_kinds(text: str, opset: int, layers: int) -> None:
    model = build(text, opset)
    made = on_integers(model, 2 if "[2,3" in text else None)
    assert (made.layers, made.on_integers) == (layers, layers)
    assert made.model.opset_imports[""] == max(opset, quantise.OPSET) and errors(model, made.model)[0] < 0.05


@pytest.mark.parametrize("product", ["MatMul (w, a)", "MatMul (a, w)"])
def test_products_without_a_kernel_stay_in_floats(product: str) -> None:
    """A constant on the left, or a stack of matrices, would get a scale for each place on the wrong axis."""
    model = build(
        f"""(float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] v, float[1,2,4,4] w, float[2,2,1,1] u>
        {{ a = Conv (x, v)  b = {product}  y = Conv (b, u) }}"""
    )
    made = on_integers(model, 1)
    assert (made.layers, made.on_integers) == (3, 2) and errors(model, made.model)[0] < 0.05


def test_what_is_quantised_already_is_declined() -> None:
    with pytest.raises(ModelError, match=r"already quantised .* prune the float model, then quantise"):
        on_integers(on_integers(build(PLAIN)).model)


def test_a_model_without_layers_is_declined() -> None:
    with pytest.raises(ModelError, match="nothing to quantise in the model: it has no layer with weights"):
        on_integers(build("(float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Relu (x) y = Add (a, x) }"))


def test_what_the_quantiser_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("no\nbias")

    monkeypatch.setattr(quantise, "quantize_static", fail)
    with pytest.raises(ModelError, match=r"quantiser does not take the model \(AssertionError: no bias\)"):
        on_integers(build(PLAIN))


def test_it_has_the_parameters_that_it_had() -> None:
    model = build(WIDE)
    sizes = [measure_size(each) for each in (model, on_integers(model).model)]
    assert sizes[0] == sizes[1]


def test_the_same_bytes_again() -> None:
    first, second = (ir.to_proto(on_integers(build(PLAIN)).model).SerializeToString() for _ in range(2))
    assert first == second


def test_outputs_far_from_the_floats_are_said() -> None:
    """One pixel in ten thousand is so large that a step of its scale hides all others."""
    model = build("(float[N,1,8,8] x) => (float[N,1,8,8] y) <float[1,1,1,1] v> { a = Conv (x, v) y = Tanh (a) }")
    x = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)
    x[:, 0, 0, 0] = 1e5
    notes = quantize(model, {"x": x}, latency=False).report.notes
    assert any("INT8 is FAR FROM its floats: y: relative error 0." in note for note in notes), notes


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Comparison(9, (OutputError("y", 0.2),), agreement=0.9), ""),
        (Comparison(9, (OutputError("y", 0.2),), agreement=0.4), "agree on 0.400"),
        (Comparison(9, (OutputError("y", 0.1), OutputError("z", 0.6))), "z: relative error 0.60"),
        (Comparison(9, (OutputError("y", None, NOT_FINITE),)), "y: NaN or infinite"),
        (Comparison(9, (OutputError("y", None, "not numbers"),)), ""),
    ],
)
def test_what_counts_as_far(found: Comparison, words: str) -> None:
    notes = astray("INT8", found)
    assert words in "".join(notes) and bool(notes) is bool(words)


def test_command_quantize(wide: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, made = tmp_path / "r.json", tmp_path / "m-int8.onnx"
    assert main(["quantize", *wide, "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 layers with weights" in shown and "of 64 samples 51 served for the ranges" in shown
    said = json.loads(report.read_text())
    assert said["command"] == "quantize" and said["output"] == str(made)
    assert said["after"]["file_bytes"] == made.stat().st_size < 0.4 * said["before"]["file_bytes"]
    assert said["after"]["macs"] == said["before"]["macs"] and said["after"]["top1"] is not None
    assert said["after"]["latency_ms"]["ratio"]["value"] > 0
    assert main(["quantize", *wide]) == 2  # the output exists
    assert main(["quantize", str(made), *wide[1:]]) == 3
    assert "already quantised" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "m-int8.onnx", "m.onnx", "r.json"]


def test_command_prune_with_int8_measures_all_four(
    wide: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "s.onnx", tmp_path / "r.json"
    asked = ["prune", *wide, "--target-flops", "0.7", "--int8", "-o", str(out), "--json", str(report)]
    assert main([*asked, "--max-size", "0.4"]) == 0  # which the floats would miss
    header = next(line for line in capsys.readouterr().out.splitlines() if "pruned INT8" in line)
    assert header.split() == ["original", "pruned", "INT8", "pruned", "INT8"]
    said = json.loads(report.read_text())
    assert [stage["name"] for stage in said["stages"]] == ["original", "pruned", "INT8", "pruned INT8"]
    rows = [stage["figures"] for stage in said["stages"]]
    assert (said["output"], said["floats"]) == (str(out), str(tmp_path / "s-float.onnx"))
    assert rows[:2] == [said["before"], said["after"]]
    assert rows[3]["file_bytes"] == out.stat().st_size < rows[1]["file_bytes"] == Path(said["floats"]).stat().st_size
    assert rows[1]["file_bytes"] > 0.4 * rows[0]["file_bytes"]
    assert rows[2]["macs"] == rows[0]["macs"] > rows[3]["macs"] == rows[1]["macs"]
    assert all(row["top1"] is not None and row["latency_ms"] and row["agreement"] is not None for row in rows)
    assert errors(load(said["floats"]), load(out))[0] < 0.1


def test_a_pruned_model_is_not_lost_where_it_cannot_be_quantised(
    wide: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ModelError("no kernel")

    monkeypatch.setattr(int8, "quantise", fail)
    out = tmp_path / "s.onnx"
    assert main(["prune", *wide, "--target-flops", "0.7", "--int8", "-o", str(out)]) == 3
    floats = tmp_path / "s-float.onnx"
    assert f"{floats} was written, {out} was not: no kernel" in capsys.readouterr().err
    assert floats.exists() and not out.exists()


def test_one_of_two_that_cannot_be_quantised_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model, really = build(PLAIN), quantise.quantise

    def fail(floats: ir.Model, *arguments: object) -> Int8:
        if floats is model:
            raise ModelError("no kernel")
        return really(floats, *arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(int8, "quantise", fail)
    x = images(model).batch(np.arange(16))
    result = prune(model, 0.7, x, latency=False, int8=True)
    assert [stage.figures is None for stage in result.report.stages] == [False, False, True, False]
    assert result.report.stages[2].said == "no kernel" and result.int8 is not None
    assert "INT8 could not be made: no kernel" in result.report.notes
    assert result.report.shipped[0] == result.report.stages[3].figures


def test_neither_output_of_prune_may_stand_in_the_way(
    wide: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s-float.onnx").write_bytes(b"")
    assert main(["prune", *wide, "--target-flops", "0.5", "--int8", "-o", str(tmp_path / "s.onnx")]) == 2
    assert "s-float.onnx exists" in capsys.readouterr().err


def test_python_has_it_too() -> None:
    assert compress.quantize is quantize and "quantize" in compress.__all__
    assert (
        replace(quantize(build(PLAIN), {"x": np.ones((4, 3, 8, 8), np.float32)}, latency=False).report).output is None
    )
