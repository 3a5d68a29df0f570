"""What a network in training is worth, against ONNX Runtime and numpy."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import scipy.special
import torch
from small_graphs import build
from torch import Tensor

from calibrate.source import Source
from compress.errors import OptionError
from compress.measure import compare, top1
from compress.metric import Metric
from compress.training import evaluate as module
from compress.training.evaluate import Figures, evaluate
from compress.training.network import Network
from compress.training.objective import objective
from graph.bridge import to_torch
from graph.inputs import fixed_batch, input_specs

COUNT, TRAINED, HELD = 50, np.arange(20), np.arange(21, 50)
TEXT = """(float[{n},3,8,8] x) => (float[{n},4] y)
    <float[6,3,3,3] w, float[6] scale, float[6] bias, float[6] mean, float[6] var, float[6,4] v>
    {{ c = Conv <pads = [1,1,1,1]> (x, w) b = BatchNormalization (c, scale, bias, mean, var) r = Relu (b)
       p = ReduceMean <axes = [2,3], keepdims = 0> (r) {last} }}"""
SCORES, SOFTMAX = "y = MatMul (p, v)", "z = MatMul (p, v) y = Softmax (z)"
LABELS = np.random.default_rng(1).integers(0, 4, COUNT)


def model(seed: int = 0, n: int | str = "N", last: str = SCORES) -> ir.Model:
    return build(TEXT.format(n=n, last=last), seed=seed)


def source(labels: np.ndarray | None = LABELS) -> Source:
    x = np.random.default_rng(0).normal(size=(COUNT, 3, 8, 8)).astype(np.float32)
    return Source(COUNT, lambda rows: {"x": x[rows]}, "test samples", labels)


def figures(
    models: tuple[ir.Model, ir.Model],
    data: Source,
    *,
    chunk: int = 8,
    metric: Metric | None = None,
    held: Source | None = None,
    **how: object,
) -> Figures:
    """Return what the second model is worth beside the first, the original."""
    batch = fixed_batch(input_specs(models[0]))
    sample = data.batch(np.arange(batch or 2))
    original, network = to_torch(models[0], sample), Network.of(models[1], sample)
    loss = objective(original, data, TRAINED, chunk=batch or chunk, **how)  # type: ignore[arg-type]
    return evaluate(
        network, held or data, HELD, loss, original=original, metric=metric, chunk=batch or chunk, batch=batch
    )


def cross_entropy(first: ir.Model, data: Source) -> float:
    """Return what ONNX Runtime's scores are worth."""
    kept: list[np.ndarray] = []
    keep = Metric("keep", lambda outputs, *_: kept.append(outputs["y"]) or 0.0)
    compare(first, first, replace(data, labels=None), HELD, metric=keep)
    y = kept[0].astype(np.float64)
    logs = np.log(y) if (y >= 0).all() else scipy.special.log_softmax(y, 1)
    assert data.labels is not None
    return float(-logs[np.arange(len(HELD)), data.labels[HELD]].mean())


@pytest.mark.parametrize(("n", "chunk", "last"), [("N", 8, SCORES), ("N", 64, SOFTMAX), (4, 4, SCORES), (1, 1, SCORES)])
def test_accuracy_and_agreement_are_those_of_onnx_runtime(n: int | str, chunk: int, last: str) -> None:
    """Also where a fixed batch is not filled by the last samples."""
    models, data = (model(0, n, last), model(1, n, last)), source()
    compared = compare(*models, data, HELD)
    found = figures(models, data, chunk=chunk)
    assert found.top1 == compared.top1_other == top1(models[1], data, HELD)
    assert found.agreement is None and found.metric is None  # nobody asked the original
    assert found.loss == pytest.approx(cross_entropy(models[1], data), rel=1e-5)
    distilled = figures(models, data, chunk=chunk, distil=0.5)
    assert (distilled.top1, distilled.agreement) == (compared.top1_other, compared.agreement)
    unlabelled = figures(models, source(None), chunk=chunk, distil=0.5)
    assert (unlabelled.top1, unlabelled.agreement) == (None, compared.agreement)
    itself = figures((models[0], models[0]), source(None), chunk=chunk, distil=1.0)
    assert itself.agreement == 1 and itself.loss == pytest.approx(0, abs=1e-6)


def test_it_does_not_matter_how_many_samples_run_at_a_time() -> None:
    models, data = (model(), model(1)), source()
    found = [figures(models, data, chunk=chunk, distil=0.5) for chunk in (3, 8, 29)]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5) == pytest.approx(found[2].loss, rel=1e-5)
    assert len({(each.top1, each.agreement) for each in found}) == 1


@pytest.mark.parametrize("n", ["N", 4])
def test_the_metric_sees_what_it_sees_in_a_report(n: int | str) -> None:
    targets = np.random.default_rng(2).normal(size=(COUNT, 4)).astype(np.float32)

    def near(
        outputs: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], labels: np.ndarray | None
    ) -> float:
        assert labels is not None and len(labels) == len(outputs["y"]) == len(references["y"]) == len(HELD)
        return -float(abs(outputs["y"] - labels).mean() + abs(outputs["y"] - references["y"]).max())

    def squared(outputs: Mapping[str, Tensor], _: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        return ((outputs["y"] - labels) ** 2).mean()

    models, data, metric = (model(0, n), model(1, n)), source(targets), Metric("near", near)
    found = figures(models, data, metric=metric, loss=squared)
    compared = compare(*models, data, HELD, metric=metric)
    assert found.metric == pytest.approx(compared.metric_other, rel=1e-5)
    assert found.top1 is None and found.agreement == compared.agreement


def test_the_network_runs_as_it_will_when_it_is_finished() -> None:
    """It is not in training, no gradient is kept, and the original does not run where nobody asks it."""
    data = source()
    sample = data.batch(np.arange(2))
    network = Network.of(model(1), sample)
    before = network.state()
    original = to_torch(model(), sample)
    loss = objective(original, data, TRAINED, chunk=8)
    seen: list[tuple[bool, bool]] = []

    class Spy:
        torch = network.torch

        def run(self, inputs: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
            seen.append((training, torch.is_grad_enabled()))
            return network.run(inputs, training=training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "references", lambda *_: pytest.fail("the original ran"))
        evaluate(Spy(), data, HELD, loss, original=original, metric=None, chunk=8, batch=None)
    assert seen == [(False, False)] * 4
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 1, "label 4 is not one of the 4 classes"),
        (LABELS[:, None], r"labels \(int64 N×1\) that are no classes"),
        (None, "the samples have no labels"),
    ],
)
def test_labels_that_cannot_be_used(labels: np.ndarray | None, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        figures((model(), model(1)), source(), held=source(labels))
    if labels is not None:
        with pytest.raises(OptionError, match=words):
            figures((model(), model(1)), source(), held=source(labels), distil=1.0)


def test_nothing_to_measure_on() -> None:
    data = source()
    original = to_torch(model(), data.batch(np.arange(2)))
    loss = objective(original, data, TRAINED, chunk=8)
    network = Network.of(model(), data.batch(np.arange(2)))
    with pytest.raises(OptionError, match="no samples to measure on"):
        evaluate(network, data, HELD[:0], loss, original=original, metric=None, chunk=8, batch=None)
