"""The loss of a training against numpy and torch's own functions; what cannot be learnt from is said in a sentence."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from small_graphs import build
from torch import Tensor
from torch.nn import functional

from calibrate.source import Source
from compress.errors import OptionError
from compress.training.objective import Objective, labels_of, objective, references
from graph.bridge import to_torch

COUNT, CLASSES = 32, 4
LINEAR = "(float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul (x, w) }"
SOFTMAX = "(float[N,6] x) => (float[N,4] y) <float[6,4] w> { z = MatMul (x, w) y = Softmax (z) }"
MAPS = (
    "(float[N,6] x) => (float[N,2,3] y) <float[6,6] w, int64[3] s = {0,2,3}> { z = MatMul (x, w) y = Reshape (z, s) }"
)
BOTH = """(float[N,6] x) => (float[N,4] y, float[N,2,3] m) <float[6,4] v, float[6,6] w, int64[3] s = {0,2,3}>
    { y = MatMul (x, v) z = MatMul (x, w) m = Reshape (z, s) }"""
TWO = """(float[N,6] x) => (float[N,4] y, float[N,6] z) <float[6,4] v, float[6,6] w>
    { y = MatMul (x, v) z = MatMul (x, w) }"""
INTEGERS = "(float[N,6] x) => (int64[N] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }"


def source(labels: np.ndarray | None) -> Source:
    x = np.random.default_rng(0).normal(size=(COUNT, 6)).astype(np.float32)
    return Source(COUNT, lambda rows: {"x": x[rows]}, "test samples", labels)


CLASS_LABELS = np.random.default_rng(1).integers(0, CLASSES, COUNT)


def made(text: str, labels: np.ndarray | None = CLASS_LABELS, **how: object) -> tuple[Objective, dict[str, Tensor]]:
    """Return the objective, and what the original gives for all samples."""
    data, every = source(labels), np.arange(COUNT)
    original = to_torch(build(text), data.batch(every[:2]))
    found = objective(original, data, every, chunk=8, **how)  # type: ignore[arg-type]
    return found, references(original, {"x": torch.from_numpy(data.batch(every)["x"])})


def others(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs of another network."""
    torch.manual_seed(0)
    return {name: value + 0.5 * torch.randn_like(value) for name, value in outputs.items()}


def kl(t: np.ndarray, s: np.ndarray, temperature: float) -> float:
    """Return KL(softmax(t / T) ‖ softmax(s / T)), the mean over rows."""
    p, q = (scipy.special.softmax(each.astype(np.float64) / temperature, 1) for each in (t, s))
    return float((p * np.log(p / q)).sum(1).mean())


def test_cross_entropy_with_the_labels() -> None:
    loss, reference = made(LINEAR)
    outputs, labels = others(reference), torch.from_numpy(CLASS_LABELS)
    assert not loss.needs_references
    found = float(loss(outputs, None, labels))
    assert found == pytest.approx(float(functional.cross_entropy(outputs["y"], labels)), rel=1e-6)
    logs = scipy.special.log_softmax(outputs["y"].numpy().astype(np.float64), 1)
    assert found == pytest.approx(-logs[np.arange(COUNT), CLASS_LABELS].mean(), rel=1e-6)


def test_probabilities_are_taken_as_such() -> None:
    """A Softmax of the model's is not followed by another: loss and gradients are those of the scores before it."""
    for share in (0.0, 0.4):
        of_scores, reference = made(LINEAR, distil=share)
        of_probabilities, probable = made(SOFTMAX, distil=share)
        assert of_probabilities.probabilities and not of_scores.probabilities
        labels, scores = torch.from_numpy(CLASS_LABELS), others(reference)["y"].requires_grad_()
        losses = [
            of_scores({"y": scores}, reference, labels),
            of_probabilities({"y": scores.softmax(1)}, probable, labels),
        ]
        torch.testing.assert_close(*losses)
        gradients = [torch.autograd.grad(loss, scores)[0] for loss in losses]
        torch.testing.assert_close(*gradients)


def test_a_class_that_is_certain_and_wrong_can_still_be_unlearnt() -> None:
    loss, _ = made(SOFTMAX)
    z = torch.tensor([[60.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss({"y": z.softmax(1)}, None, torch.tensor([2])).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(z.grad, torch.tensor([[1.0, 0.0, -1.0, 0.0]]))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_distillation_of_class_scores(share: float) -> None:
    loss, reference = made(LINEAR, distil=share)
    outputs, labels = others(reference), torch.from_numpy(CLASS_LABELS)
    assert loss.needs_references
    hard = float(functional.cross_entropy(outputs["y"], labels))
    soft = 16 * kl(reference["y"].numpy(), outputs["y"].numpy(), 4.0)
    assert float(loss(outputs, reference, labels)) == pytest.approx((1 - share) * hard + share * soft, rel=1e-5)
    assert float(loss(outputs, reference, None)) == pytest.approx(soft, rel=1e-5)  # without labels it is all
    assert float(made(LINEAR, None, distil=share)[0](outputs, reference, None)) == pytest.approx(soft, rel=1e-5)
    assert float(loss(reference, reference, None)) == pytest.approx(0, abs=1e-6)


def relative_error(t: np.ndarray, s: np.ndarray) -> float:
    energy = ((t - t.mean(0)) ** 2).sum() / len(t)
    return float(((t - s) ** 2).sum() / len(t) / energy)


@pytest.mark.parametrize(("text", "scored", "compared"), [(MAPS, "", "y"), (BOTH, "y", "m"), (TWO, "", "yz")])
def test_distillation_of_other_outputs(text: str, scored: str, compared: str) -> None:
    """What is no class score has its relative squared error; so has everything where several outputs may be one."""
    loss, reference = made(text, None, distil=0.5)
    assert (loss.scores or "", "".join(loss.distilled)) == (scored, compared)
    outputs = others(reference)
    a, b = ({name: value.numpy().astype(np.float64) for name, value in each.items()} for each in (reference, outputs))
    expected = sum(relative_error(a[name], b[name]) for name in compared)
    expected += sum(16 * kl(a[name], b[name], 4.0) for name in scored)
    assert float(loss(outputs, reference, None)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_mean_over_two_halves_is_that_of_the_whole(share: float) -> None:
    """So processes that share a batch have its loss as the mean of theirs."""
    loss, reference = made(BOTH, distil=share)
    outputs, labels = others(reference), torch.from_numpy(CLASS_LABELS)
    parts = [
        loss({n: v[part] for n, v in outputs.items()}, {n: v[part] for n, v in reference.items()}, labels[part])
        for part in (slice(0, COUNT // 2), slice(COUNT // 2, COUNT))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(outputs, reference, labels))


def squared(outputs: Mapping[str, Tensor], references: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    assert references["y"].shape == outputs["y"].shape and labels is not None
    return ((outputs["y"] - labels) ** 2).mean()


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_loss_of_ones_own_takes_the_place_of_cross_entropy(share: float) -> None:
    """Its labels may be any numbers."""
    targets = np.random.default_rng(2).normal(size=(COUNT, 4)).astype(np.float32)
    loss, reference = made(LINEAR, targets, loss=squared, distil=share)
    outputs, labels = others(reference), labels_of(source(targets), np.arange(COUNT), torch.device("cpu"))
    own = float(((outputs["y"].numpy() - targets) ** 2).mean())
    soft = 16 * kl(reference["y"].numpy(), outputs["y"].numpy(), 4.0)
    assert loss.needs_references
    assert float(loss(outputs, reference, labels)) == pytest.approx((1 - share) * own + share * soft, rel=1e-5)


FILE = """
import torch

def good(outputs, references, labels):
    return (outputs["y"] - references["y"]).square().mean()

def wrong(outputs, references, labels):
    return outputs["nowhere"].mean()

def number(outputs, references, labels):
    return 3.0

def many(outputs, references, labels):
    return outputs["y"]

def cut_off(outputs, references, labels):
    return outputs["y"].detach().mean()
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("losses_for_test:good", ""),
        ("losses_for_test:wrong", "loss losses_for_test:wrong: KeyError: 'nowhere'"),
        ("losses_for_test:number", "it returned float: give a scalar torch tensor"),
        ("losses_for_test:many", r"it returned a tensor of \[32, 4\]"),
        ("losses_for_test:cut_off", "no gradient reaches the outputs"),
        ("losses_for_test:absent", "loss losses_for_test:absent: AttributeError"),
        ("losses_for_test", "--loss 'losses_for_test': give module:function"),
    ],
)
def test_a_loss_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    (tmp_path / "losses_for_test.py").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def value() -> float:
        loss, reference = made(LINEAR, None, loss=name)
        outputs = {"y": others(reference)["y"].requires_grad_()}
        torch.testing.assert_close(loss(outputs, reference, None), (outputs["y"] - reference["y"]).square().mean())
        return 0.0

    if words:
        with pytest.raises(OptionError, match=words):
            value()
    else:
        value()


FLOATS = np.zeros((COUNT, 2), np.float32)


@pytest.mark.parametrize(
    ("text", "labels", "share", "words"),
    [
        (LINEAR, None, 0.0, "nothing to learn from: the samples have no labels"),
        (LINEAR, CLASS_LABELS + 1, 0.0, "label 4 is not one of the 4 classes"),
        (LINEAR, CLASS_LABELS - 1, 0.5, "label -1 is not one of the 4 classes"),
        (LINEAR, FLOATS, 0.0, "labels .float32 N×2. that are no classes"),
        (LINEAR, CLASS_LABELS, 1.5, "--distil 1.5: give a share from 0 to 1"),
        (MAPS, CLASS_LABELS, 0.0, "cross entropy wants one output"),
        (TWO, CLASS_LABELS, 0.5, "cross entropy wants one output"),
        (INTEGERS, None, 1.0, "no output holds"),
        (LINEAR, FLOATS, 1.0, ""),
        (MAPS, FLOATS, 1.0, ""),
    ],
)
def test_what_cannot_be_learnt_from(text: str, labels: np.ndarray | None, share: float, words: str) -> None:
    if not words:
        assert made(text, labels, distil=share)[0].share == share
        return
    with pytest.raises(OptionError, match=words):
        made(text, labels, distil=share)


def test_an_output_of_another_shape_cannot_follow() -> None:
    loss, reference = made(MAPS, None, distil=1.0)
    with pytest.raises(OptionError, match="output 'y' has the shape 32×2×2 and 32×2×3 of the original"):
        loss({"y": reference["y"][:, :, :2]}, reference, None)
