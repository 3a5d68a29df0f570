"""What is shown beyond a run's figures, held against ONNX Runtime and numpy."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from small_classifier import NETWORK
from small_graphs import build

import compress
from calibrate import PRESETS
from calibrate.sources import open_source
from compress.api import Result
from compress.details import FEW, details_of_two
from compress.disagreement import disagreements
from compress.measure import compare
from graph.inputs import input_specs

READS = {"a": "x", "c": "r", "y": "f"}
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = np.arange(40) % 4


@pytest.fixture(scope="module")
def pruned() -> Result:
    data = {"images": PICTURES, "labels": LABELS}
    options = compress.Options(preprocess=PRESETS["unit"])
    return compress.prune(build(NETWORK), 0.4, data, options, latency=False, details=True)


def seen(model: ir.Model, names: list[str], pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Run a model with these values as its outputs."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = (pictures.astype(np.float32) / 255).transpose(0, 3, 1, 2)
    return {"x": x} | dict(zip(names, session.run(None, {"x": x}), strict=True))


def test_the_macs_of_the_layers_are_those_of_the_models(pruned: Result) -> None:
    assert pruned.details is not None
    layers = pruned.details.layers
    assert [layer.node for layer in layers] == list(READS)
    assert sum(layer.before or 0 for layer in layers) == pruned.report.before.macs == 8 * 27 * 64 + 8 * 72 * 36 + 32
    assert sum(layer.after or 0 for layer in layers) == pruned.report.after.macs


def test_errors_are_those_of_what_each_layer_reads(pruned: Result) -> None:
    assert pruned.details is not None and pruned.details.followed == pruned.report.samples["report"] <= FEW
    kept = {"x": np.ones(3, bool), "r": pruned.plan.keep["a"], "f": pruned.plan.keep["c"]}
    assert not (kept["r"].all() and kept["f"].all())
    names = [name for name in READS.values() if name != "x"]
    rows = np.sort(np.random.default_rng([0, 40]).permutation(40)[36:])  # as `split` deals them out
    before, after = (seen(model, names, PICTURES[rows]) for model in (build(NETWORK), pruned.model))
    for layer in pruned.details.layers:
        read = READS[layer.node]
        a, b = before[read][:, kept[read]], after[read]
        assert layer.error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)


def test_losses_are_of_the_groups_that_were_cut(pruned: Result) -> None:
    assert pruned.details is not None
    cut = {width.group for width in pruned.report.widths if width.after < width.before}
    assert set(pruned.details.losses) == cut and all(loss > 0 for loss in pruned.details.losses.values())


def test_nothing_is_looked_at_unasked() -> None:
    options = compress.Options(preprocess=PRESETS["unit"], compensation="none", search="uniform")
    assert compress.prune(build(NETWORK), 0.5, {"images": PICTURES[:10]}, options, latency=False).details is None


def test_disagreements_are_those_on_which_the_original_was_surest() -> None:
    original, other = build(NETWORK), build(NETWORK, seed=1)
    source = open_source({"images": PICTURES, "labels": LABELS}, input_specs(original), PRESETS["unit"])
    rows = np.arange(5, 40)
    found = disagreements(original, other, source, rows, "y", most=6)
    assert found is not None
    a, b = (seen(model, ["y"], PICTURES)["y"].astype(np.float64) for model in (original, other))
    sure = (np.exp(a) / np.exp(a).sum(1, keepdims=True)).max(1)
    apart = [row for row in rows[np.argsort(-sure[rows])] if a[row].argmax() != b[row].argmax()]
    assert (found.count, found.samples) == (len(apart), 35) and len(apart) > 6
    assert [each.sample for each in found.shown] == apart[:6]
    for each in found.shown:
        assert np.array_equal(each.picture, PICTURES[each.sample])
        assert (each.original.number, each.other.number) == (a[each.sample].argmax(), b[each.sample].argmax())
        assert each.original.probability == pytest.approx(sure[each.sample], rel=1e-4)
        assert each.label == LABELS[each.sample]


def test_without_pictures_or_scores_there_is_no_disagreement() -> None:
    model = build(NETWORK)
    values = open_source({"x": np.zeros((4, 3, 8, 8), np.float32)}, input_specs(model))
    assert values.pictures(np.arange(2)) == ()
    assert disagreements(model, model, values, np.arange(4), "y") is None
    shown = open_source({"images": PICTURES}, input_specs(model), PRESETS["unit"])
    assert disagreements(model, model, shown, np.arange(4), None) is None


def test_two_models_are_paired_by_the_names_of_their_nodes(tmp_path: Path) -> None:
    original = build(NETWORK)
    other = build(
        NETWORK.replace("y = Gemm<transB = 1>(f, w3, b3)", "g = Relu(f) y2 = Gemm<transB = 1>(g, w3, b3) y = Relu(y2)")
    )
    source = open_source({"images": PICTURES}, input_specs(original), PRESETS["unit"])
    found = details_of_two(original, other, source, compare(original, other, source), None)
    assert [(layer.node, layer.before is None, layer.after is None) for layer in found.layers] == [
        ("a", False, False),
        ("c", False, False),
        ("y", False, True),
        ("y2", True, False),
    ]
