"""Comparisons against sums written out in numpy; laws of what a model compared with itself must give."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import scipy.special
import scipy.stats

from calibrate.source import Source
from compress.classes import top_class
from compress.errors import OptionError
from compress.measure import agreement, compare, divergence, file_bytes, measure_size, top1
from graph.errors import ModelError

CLASSES, FEATURES = 5, 4


def linear(weight: np.ndarray, *, batch: str = "N", softmax: bool = False, extra: str = "") -> ir.Model:
    """A linear classifier with the output `scores`, and whatever `extra` adds."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    linear (float[{batch},{FEATURES}] x) => (float[{batch},{CLASSES}] scores{", float[M] more" if extra else ""}) {{
        {"logits" if softmax else "scores"} = MatMul(x, weight)
        {"scores = Softmax(logits)" if softmax else ""}
        {extra}
    }}
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "weight"))
    return ir.from_proto(proto)


def source(count: int, *, labels: np.ndarray | None = None) -> Source:
    x = np.random.default_rng(0).normal(size=(count, FEATURES)).astype(np.float32)
    return Source(count, lambda rows: {"x": x[rows]}, f"{count} samples", labels)


def weights(*, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    weight = generator.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    return weight, (weight + noise * generator.normal(size=weight.shape)).astype(np.float32)


@pytest.mark.parametrize("batch", ["N", "1", "7"])
@pytest.mark.parametrize("count", [1, 6, 100])
def test_compare_equals_numpy(batch: str, count: int) -> None:
    one, two = weights()
    labels = np.random.default_rng(2).integers(0, CLASSES, count)
    data = source(count, labels=labels)
    a, b = (data.batch(np.arange(count))["x"] @ weight for weight in (one, two))
    result = compare(linear(one, batch=batch), linear(two), data)
    assert result.samples == count
    assert result.scores == "scores"
    assert result.agreement == (a.argmax(1) == b.argmax(1)).mean()
    assert result.top1_original == (a.argmax(1) == labels).mean()
    assert result.top1_other == (b.argmax(1) == labels).mean()
    expected = scipy.stats.entropy(scipy.special.softmax(a, 1), scipy.special.softmax(b, 1), axis=1).mean()
    assert result.kl_divergence == pytest.approx(expected, rel=1e-4)
    (output,) = result.outputs
    assert output.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-5)


def test_a_model_equals_itself() -> None:
    model = linear(weights()[0])
    result = compare(model, model, source(50))
    assert (result.agreement, result.kl_divergence, result.outputs[0].relative_error) == (1, 0, 0)
    assert result.top1_original is None and result.top1_other is None  # no labels, no accuracy


def test_only_the_samples_asked_for_count() -> None:
    one, two = weights()
    data, rows = source(40), np.array([3, 8, 39])
    x = data.batch(rows)["x"]
    expected = ((x @ one).argmax(1) == (x @ two).argmax(1)).mean()
    assert agreement(linear(one), linear(two), data, rows) == expected


def test_memory_is_that_of_a_batch() -> None:
    asked: list[int] = []

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(len(rows))
        return {"x": np.ones((len(rows), FEATURES), np.float32)}

    model = linear(weights()[0])
    compare(model, model, Source(1000, read, "many"))
    assert max(asked) <= 32 and sum(asked) == 2001  # one to see how large a sample is


def test_top1_against_labels() -> None:
    weight, _ = weights()
    data = source(30)
    right = (data.batch(np.arange(30))["x"] @ weight).argmax(1)
    labels = right.copy()
    labels[:6] = (labels[:6] + 1) % CLASSES
    assert top1(linear(weight), source(30, labels=labels)) == pytest.approx(24 / 30)
    assert top1(linear(weight), source(30)) is None


def test_a_label_that_is_no_class_is_an_error() -> None:
    model = linear(weights()[0])
    with pytest.raises(OptionError, match="label 5 is not one of the 5 classes"):
        top1(model, source(4, labels=np.array([0, 1, 5, 2])))


def test_probabilities_are_not_softmaxed_again() -> None:
    one, two = weights()
    plain = compare(linear(one), linear(two), source(20)).kl_divergence
    soft = compare(linear(one, softmax=True), linear(two, softmax=True), source(20)).kl_divergence
    assert soft == pytest.approx(plain, rel=1e-4)


def test_divergence_is_that_of_scipy() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 9, 3)) * 20
    expected = scipy.stats.entropy(scipy.special.softmax(a, 1), scipy.special.softmax(b, 1), axis=1)
    np.testing.assert_allclose(divergence(a, b), expected, rtol=1e-9, atol=1e-12)
    assert (divergence(a, b) > 0).all() and (divergence(a, a) == 0).all()


def test_a_row_with_nan_agrees_with_nothing() -> None:
    scores = np.array([[0.0, 1.0], [np.nan, 1.0]])
    assert (top_class(scores) == top_class(scores)).tolist() == [True, False]


def test_two_outputs_like_scores_need_a_name() -> None:
    one, two = weights()
    twice = [linear(w, extra="more = Relu(scores)") for w in (one, two)]
    assert compare(*twice, source(10)).agreement is None
    assert compare(*twice, source(10), scores="scores").agreement is not None
    with pytest.raises(OptionError, match="no output 'classes'"):
        compare(*twice, source(10), scores="classes")


def test_outputs_without_classes_have_only_an_error() -> None:
    one, two = weights()
    flat = [linear(w, extra="to = Constant<value_ints=[-1]>() more = Reshape(scores, to)") for w in (one, two)]
    with pytest.raises(OptionError, match="does not hold one vector"):
        compare(*flat, source(10), scores="more")
    by_name = {output.name: output.relative_error for output in compare(*flat, source(10)).outputs}
    assert by_name["more"] == pytest.approx(by_name["scores"], rel=1e-6)


def test_infinite_values_are_said_not_hidden() -> None:
    one, two = weights()
    two[0, 0] = np.inf
    result = compare(linear(one), linear(two), source(10))
    (output,) = result.outputs
    assert result.kl_divergence is None
    assert output.relative_error is None and output.reason == "NaN or infinite values"


def test_models_with_other_outputs_are_not_compared() -> None:
    one, _ = weights()
    with pytest.raises(ModelError, match="the outputs differ: scores and scores, more"):
        compare(linear(one), linear(one, extra="more = Relu(scores)"), source(3))


def test_size_and_file_with_external_data(tmp_path: Path) -> None:
    model = linear(weights()[0])
    inline, external = tmp_path / "inline.onnx", tmp_path / "external.onnx"
    ir.save(model, inline)
    onnx.save(onnx.load(inline), external, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert file_bytes(inline) == inline.stat().st_size
    assert file_bytes(external) == external.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    size = measure_size(model, inline)
    assert (size.params, size.macs) == (FEATURES * CLASSES, FEATURES * CLASSES)
    assert size.latency_ms is None and size.top1 is None
