"""Layer-wise relevance propagation against a plain numpy version, and the law that relevance is kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import ROOT, build, real_inputs, shared_zoo

from calibrate.forward import feed
from calibrate.preprocess import PRESETS
from calibrate.relevance import answers, channel_relevance, propagate, true_classes
from calibrate.relevance_rules import Call, deal
from calibrate.source import Source
from calibrate.sources import open_source
from compress.criteria import CRITERIA, Evidence
from graph.analysis import analyse
from graph.bridge import TorchModel, to_torch
from graph.inputs import input_specs
from graph.model import load
from graph.standard import standardise

Array = np.ndarray


def model_of(text: str, feeds: dict[str, Array]) -> tuple[ir.Model, TorchModel]:
    built = build(text)
    return built, to_torch(built, feeds)


def relevances(
    model: TorchModel, feeds: dict[str, Array], seeds: dict[str, Array], *wanted: str
) -> tuple[dict[str, Array], list[str]]:
    """Return the relevance of the wanted values, and the nodes that it did not pass."""
    env = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        model.run(env)
    stopped: list[str] = []
    start = {name: torch.from_numpy(seed) for name, seed in seeds.items()}
    # what is wanted is what a step makes; the inputs get a step of their own, an Identity in the text
    found = propagate(model, env, start, wanted, lambda node, why: stopped.append(why))
    return {name: value.double().numpy() for name, value in found.items()}, stopped


def alpha_beta(x: Array, matrix: Array, r: Array) -> Array:
    """Return the relevance of inputs x (D) of y = xᵀ·matrix (D, K) by loops over both: α = 2, β = 1."""
    result = np.zeros(len(x))
    for j in range(matrix.shape[1]):
        z = x * matrix[:, j]
        above, below = z[z > 0].sum(), z[z < 0].sum()
        for i in range(len(x)):
            if z[i] > 0:
                result[i] += (2.0 if below < 0 else 1.0) * z[i] / above * r[j]
            elif z[i] < 0:
                result[i] -= (1.0 if above > 0 else -1.0) * z[i] / below * r[j]
    return result


def dense(weight: Array, size: int, pad: int, stride: int) -> Array:
    """Return the matrix (inputs, outputs) of a convolution of one image of size × size, entry by entry."""
    outputs, channels, kernel, _ = weight.shape
    positions = (size + 2 * pad - kernel) // stride + 1
    matrix = np.zeros((channels, size, size, outputs, positions, positions))
    for o, c, a, b, p, q in np.ndindex(outputs, channels, kernel, kernel, positions, positions):
        i, j = p * stride + a - pad, q * stride + b - pad
        if 0 <= i < size and 0 <= j < size:
            matrix[c, i, j, o, p, q] += weight[o, c, a, b]
    return matrix.reshape(channels * size * size, -1)


def weight_of(model: TorchModel, name: str) -> Array:
    return np.asarray(model.parameters[name].detach().double())


NETWORK = """(float[N,3,6,6] x) => (float[N,5] y)
    <float[4,3,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[5,4] w3, float[5] b3> {
    i = Identity (x)
    a = Conv <pads = [1,1,1,1], strides = [2,2]> (i, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1,1,1,1]> (r, w2)
    s = Add (c, r)
    t = Relu (s)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""


def by_hand(model: TorchModel, x: Array, label: int) -> dict[str, Array]:
    """Propagate through NETWORK for one image (3, 6, 6) in numpy, forward and back."""
    first, second = dense(weight_of(model, "w1"), 6, 1, 2), dense(weight_of(model, "w2"), 3, 1, 1)
    a = x.ravel() @ first + np.repeat(weight_of(model, "b1"), 9)
    r = np.maximum(a, 0)
    c = r @ second
    t = np.maximum(c + r, 0)
    f = t.reshape(4, 9).mean(1)
    of_f = alpha_beta(f, weight_of(model, "w3").T, np.eye(5)[label])
    sums = t.reshape(4, 9).sum(1)
    of_t = np.where(sums > 0, of_f / np.where(sums > 0, sums, 1), 0).repeat(9) * t
    size = np.abs(c) + np.abs(r)
    of_c = of_t * np.divide(np.abs(c), size, where=size > 0, out=np.full(36, 0.5))
    of_r = of_t - of_c + alpha_beta(r, second, of_c)
    return {"f": of_f, "c": of_c, "a": of_r, "i": alpha_beta(x.ravel(), first, of_r)}


def test_a_residual_network_is_that_of_plain_loops() -> None:
    x = np.random.default_rng(3).normal(size=(3, 3, 6, 6)).astype(np.float32)
    _, model = model_of(NETWORK, {"x": x})
    labels = [0, 3, 4]
    seeds = {"y": np.eye(5, dtype=np.float32)[labels]}
    found, stopped = relevances(model, {"x": x}, seeds, "f", "c", "a", "i")
    assert not stopped
    for sample, label in enumerate(labels):
        for name, expected in by_hand(model, x[sample].astype(np.float64), label).items():
            np.testing.assert_allclose(found[name][sample].ravel(), expected, rtol=2e-3, atol=2e-5, err_msg=name)


CONSERVING = {
    "linear of both signs": "y = Gemm (i, w)",
    "product by a stack of weights": "y = MatMul (i, w)",
    "weight on the left": "t = Transpose (i) y = MatMul (v, t)",
    "normalised": "y = LayerNormalization (i, g)",
    "activations": "a = HardSwish (i) b = LeakyRelu (a) y = Softmax (b)",
    "constants get nothing": "a = Mul (i, g) y = Add (a, g)",
    "layers, one after another": "a = Gemm (i, w, g) b = Relu (a) c = Gemm (b, w) y = Gemm <transB = 1> (c, w)",
    "a normalisation spelled out": """m = ReduceMean <axes = [1], keepdims = 1> (i) c = Sub (i, m) s = Mul (c, c)
        v = ReduceMean <axes = [1], keepdims = 1> (s) d = Sqrt (v) y = Div (c, d)""",
    "a divisor alone": "a = Exp (i) y = Div (g, a)",
    "product of two": """s = Constant <value_ints = [4,2,3]> () a = Reshape (i, s) b = Transpose <perm = [0,2,1]> (a)
        c = MatMul (a, b) y = Flatten (c)""",
    "difference": "a = MatMul (i, w) b = Relu (a) y = Sub (a, b)",
    "three operands": "a = MatMul (i, w) b = Relu (a) y = Sum (a, b, a)",
    "mean of parts": "y = ReduceMean <axes = [1], keepdims = 1> (i)",
    "movement": "a = Concat <axis = 1> (i, i) b, c = Split <axis = 1> (a) d = Transpose (b) y = Transpose (d)",
    "gate": "a = Sigmoid (i) b = ReduceMean <axes = [1], keepdims = 1> (a) y = Mul (i, b)",
    "largest": "y = ReduceMax <axes = [1], keepdims = 1> (i)",
}


@pytest.mark.parametrize("case", CONSERVING)
def test_relevance_is_kept(case: str) -> None:
    """Whatever is given to the outputs arrives at the input, sample by sample."""
    x = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
    weights = "<float[6,6] w, float[3,6] v, float[6] g>"
    text = f"(float[4,6] x) => (float[4,M] y) {weights} {{ i = Identity (x) {CONSERVING[case]} }}"
    if case == "weight on the left":
        text = text.replace("float[4,M] y", "float[3,4] y")
    _, model = model_of(text, {"x": x})
    env = {"x": torch.from_numpy(x)}
    model.run(env)
    seed = np.random.default_rng(6).uniform(0.5, 1.5, env["y"].shape).astype(np.float32)
    found, stopped = relevances(model, {"x": x}, {"y": seed}, "i")
    samples = seed.sum(0) if case == "weight on the left" else seed.sum(1)
    assert not stopped
    np.testing.assert_allclose(found["i"].sum(1), samples, rtol=1e-4)


IMAGES = {
    "strides and padding": "y = Conv <pads = [1,0,2,1], strides = [2,1]> (i, w)",
    "groups": "y = Conv <group = 2, pads = [1,1,1,1]> (i, w2)",
    "each channel of its own": "y = Conv <group = 4, pads = [2,2,2,2], dilations = [2,2]> (i, w4)",
    "bias gets nothing": "y = Conv (i, w, b)",
    "transposed": "y = ConvTranspose <strides = [2,2]> (i, w)",
    "normalised by batches": "a = Conv (i, w) y = BatchNormalization (a, scale, b, mean, var)",
    "mean pooling": "y = AveragePool <kernel_shape = [3,2], strides = [2,1]> (i)",
    "padded mean pooling": "y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (i)",
    "largest": "y = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (i)",
    "residual": "a = Conv <pads = [1,1,1,1]> (i, w, b) c = Relu (a) d = Conv <pads = [1,1,1,1]> (c, w) y = Add (d, i)",
    "concatenated": "a = Conv <pads = [1,1,1,1]> (i, w) y = Concat <axis = 1> (a, i, a)",
    "an axis of positions": "a = GlobalAveragePool (i) c = Flatten (a) d = Gemm (c, v, b) y = Relu (d)",
    "a gate of channels": "a = GlobalAveragePool (i) c = Conv (a, w1) d = Sigmoid (c) e = Mul (i, d) y = Relu (e)",
    "shuffled": """a = Constant <value_ints = [0,2,2,6,6]> () z = Constant <value_ints = [0,4,6,6]> ()
        c = Reshape (i, a) d = Transpose <perm = [0,2,1,3,4]> (c) e = Reshape (d, z) y = Conv (e, w)""",
}
IMAGE_WEIGHTS = """<float[4,4,3,3] w, float[4,2,3,3] w2, float[4,1,3,3] w4, float[4,4,1,1] w1, float[4,4] v, float[4] b,
    float[4] scale, float[4] mean, float[4] var>"""


@pytest.mark.parametrize("case", IMAGES)
def test_relevance_of_images_is_kept(case: str) -> None:
    x = np.random.default_rng(4).normal(size=(3, 4, 6, 6)).astype(np.float32)
    text = f"(float[N,4,6,6] x) => (float y) {IMAGE_WEIGHTS} {{ i = Identity (x) {IMAGES[case]} }}"
    _, model = model_of(text, {"x": x})
    env = {"x": torch.from_numpy(x)}
    model.run(env)
    seed = np.random.default_rng(6).uniform(0.5, 1.5, env["y"].shape).astype(np.float32)
    found, stopped = relevances(model, {"x": x}, {"y": seed}, "i")
    assert not stopped
    np.testing.assert_allclose(found["i"].sum((1, 2, 3)), seed.reshape(3, -1).sum(1), rtol=1e-4)


@pytest.mark.parametrize("case", ["groups", "strides and padding", "each channel of its own"])
def test_a_convolution_is_that_of_plain_loops(case: str) -> None:
    """Group by group, against the matrix of the convolution, entry by entry."""
    x = np.random.default_rng(4).normal(size=(1, 4, 6, 6)).astype(np.float32)
    weights = {"groups": "w2", "strides and padding": "w", "each channel of its own": "w4"}
    nodes = (
        IMAGES[case]
        .replace("[1,0,2,1], strides = [2,1]", "[1,1,1,1], strides = [2,2]")
        .replace("pads = [2,2,2,2], dilations = [2,2]", "pads = [0,0,0,0], strides = [3,3]")
    )
    pad, stride = {"groups": (1, 1), "strides and padding": (1, 2), "each channel of its own": (0, 3)}[case]
    _, model = model_of(f"(float[N,4,6,6] x) => (float y) {IMAGE_WEIGHTS} {{ i = Identity (x) {nodes} }}", {"x": x})
    env = {"x": torch.from_numpy(x)}
    model.run(env)
    seed = np.random.default_rng(6).normal(size=env["y"].shape).astype(np.float32)
    found, _ = relevances(model, {"x": x}, {"y": seed}, "i")
    w = weight_of(model, weights[case])
    groups = 4 // w.shape[1]
    parts = zip(np.split(x[0], groups), np.split(w, groups), np.split(seed[0], groups), strict=True)
    expected = [alpha_beta(a.ravel().astype(float), dense(b, 6, pad, stride), r.ravel()) for a, b, r in parts]
    np.testing.assert_allclose(found["i"].ravel(), np.concatenate(expected), rtol=2e-3, atol=2e-5)


def pooled(operator: str, x: Array, size: int) -> Array:
    text = f"(float[N,1,4,4] x) => (float[N,1,{size},{size}] y) {{ i = Identity (x) y = {operator} (i) }}"
    _, model = model_of(text, {"x": x})
    seed = np.arange(1, 1 + size * size, dtype=np.float32).reshape(1, 1, size, size)
    found, _ = relevances(model, {"x": x}, {"y": seed}, "i")
    return found["i"][0, 0]


def test_pooling_splits_in_proportion_or_gives_all_to_the_largest() -> None:
    x = np.array([[1, 3, 0, 0], [4, 2, 0, 0], [5, 5, -1, 3], [0, 0, 2, -2]], np.float32)[None, None]
    of_mean = [[0.1, 0.3, 0.5, 0.5], [0.4, 0.2, 0.5, 0.5], [1.5, 1.5, 0.5, 1.5], [0, 0, 1.0, 1.0]]
    np.testing.assert_allclose(pooled("AveragePool <kernel_shape = [2,2], strides = [2,2]>", x, 2), of_mean, atol=1e-6)
    largest = pooled("MaxPool <kernel_shape = [2,2], strides = [2,2]>", x, 2)
    assert largest[1, 0] == 1.0 and largest[2, 3] == 4.0 and largest[2, :2].sum() == 3.0 and largest[0, 2:].sum() <= 2.0
    np.testing.assert_allclose(pooled("GlobalAveragePool", np.abs(x), 1), np.abs(x[0, 0]) / np.abs(x).sum(), atol=1e-6)


def test_a_quotient_gives_to_what_is_divided_and_a_product_half_to_each() -> None:
    """The halves also where relevance adds up to 0, which says nothing about its scale."""
    x = np.array([[1, 2], [3, 4]], np.float32)
    r = np.array([[1, -1], [2, -2]], np.float32)
    for operator, shares in (("Div", (1, 0)), ("Mul", (0.5, 0.5))):
        text = f"(float[N,2] x) => (float[N,2] y) {{ a = Relu (x) b = Exp (x) y = {operator} (a, b) }}"
        _, model = model_of(text, {"x": x})
        found, _ = relevances(model, {"x": x}, {"y": r}, "a", "b")
        for name, share in zip("ab", shares, strict=True):
            np.testing.assert_allclose(found[name], share * r, rtol=1e-6)


def test_relevance_stops_in_words_where_it_cannot_pass() -> None:
    """A node in ONNX Runtime that changes the shape has no transpose; one that keeps it passes on."""
    text = "(float[N,6] x) => (float[N,6] y) { i = Identity (x) y = Shrink (i) }"
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6)
    _, model = model_of(text, {"x": x})
    assert model.fallbacks
    found, stopped = relevances(model, {"x": x}, {"y": np.ones_like(x)}, "i")
    assert not stopped and (found["i"] == 1).all()
    kept = "<bool[6] k = {1, 0, 1, 0, 1, 1}>"
    text = f"(float[N,6] x) => (float[N,M] y) {kept} {{ i = Identity (x) y = Compress <axis = 1> (i, k) }}"
    _, model = model_of(text, {"x": x})
    found, stopped = relevances(model, {"x": x}, {"y": np.ones((2, 4), np.float32)}, "i")
    assert not found and stopped == ["relevance does not pass through Compress in ONNX Runtime"]
    cube = np.ones((1, 2, 3, 3, 3, 3), np.float32)
    text = """(float[1,2,3,3,3,3] x) => (float[1,2,3,3,3,3] y) <float[2,2,1,1,1,1] w> {
        i = Identity (x)
        y = Conv (i, w)
    }"""
    _, model = model_of(text, {"x": cube})
    found, stopped = relevances(model, {"x": cube}, {"y": cube}, "i")
    assert not found and stopped == ["relevance does not pass through Conv in ONNX Runtime"]


def predictions(model: TorchModel, x: Array) -> Array:
    env = {"x": torch.from_numpy(x)}
    with torch.no_grad():
        model.run(env)
    return env["y"].argmax(1).numpy()


@pytest.mark.parametrize("labelled", [False, True])
def test_the_mean_is_over_positions_then_images_then_classes(labelled: bool) -> None:
    x = 9 * np.random.default_rng(8).normal(size=(9, 3, 6, 6)).astype(np.float32)
    _, model = model_of(NETWORK, {"x": x})
    classes = np.array([0, 3, 3, 1, 0, 0, 1, 3, 0]) if labelled else predictions(model, x)
    source = Source(9, lambda indices: {"x": x[indices]}, "test images", classes if labelled else None)
    axes = {"a": 1, "f": 1}
    whole, chunked = (channel_relevance(model, source, np.arange(9), axes, chunk=c, note=pytest.fail) for c in (9, 4))
    parts = [channel_relevance(model, source, part, axes, chunk=4) for part in (np.arange(2), np.arange(2, 9))]
    merged = parts[0] + parts[1]  # the first has seen fewer classes
    for mine, others in zip(parts[0].tensors, parts[1].tensors, strict=True):
        mine += others  # in place, as processes add theirs up
    assert len(set(classes.tolist())) > 1
    found, _ = relevances(model, {"x": x}, {"y": np.eye(5, dtype=np.float32)[classes]}, "a", "f")
    for name, rows in (("a", found["a"].mean((2, 3))), ("f", found["f"])):
        expected = np.mean([rows[classes == label].mean(0) for label in set(classes.tolist())], axis=0)
        for relevance in (whole, chunked, merged, parts[0]):
            np.testing.assert_allclose(relevance.means()[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "labels",
    [np.array([0, 5, 1, 2]), np.array([0, -1, 1, 2]), np.zeros((4, 2), np.int64), np.array([0.0, 1.0, 2.0, 1.0])],
    ids=["above", "below", "of two axes", "no integers"],
)
def test_labels_that_are_no_classes_are_not_used(labels: Array) -> None:
    x = np.random.default_rng(8).normal(size=(4, 3, 6, 6)).astype(np.float32)
    _, model = model_of(NETWORK, {"x": x})
    notes: list[str] = []
    found = [
        channel_relevance(
            model, Source(4, lambda i: {"x": x[i]}, "", given), np.arange(4), {"f": 1}, chunk=2, note=note
        )
        for given, note in ((labels, notes.append), (None, pytest.fail))
    ]
    np.testing.assert_array_equal(found[0].means()["f"], found[1].means()["f"])
    assert notes == [
        "the labels are not classes of the one output with class scores; relevance starts from the classes predicted"
    ]


def test_relevance_of_nothing_is_refused() -> None:
    x = np.zeros((1, 3, 6, 6), np.float32)
    _, model = model_of(NETWORK, {"x": x})
    with pytest.raises(ValueError, match="no samples"):
        channel_relevance(model, Source(1, lambda i: {"x": x}, ""), np.arange(0), {"f": 1}, chunk=2)


def test_outputs_that_are_no_scores_share_by_size() -> None:
    text = "(float[N,2,3] x) => (float[N,2,3] y) { y = Neg (x) }"
    x = np.array([[[1, 2, 3], [0, 4, -10]], [[0, 0, 0], [0, 0, 1]]], np.float32)
    _, model = model_of(text, {"x": x})
    env = {"x": torch.from_numpy(x)}
    model.run(env)
    seeds, classes, count = answers(model, env, 2)
    np.testing.assert_allclose(seeds["y"].numpy(), np.abs(x) / np.abs(x).sum((1, 2), keepdims=True))
    assert classes.tolist() == [0, 0] and count == 1


def test_of_two_heads_neither_takes_the_labels() -> None:
    text = "(float[N,3] x) => (float[N,3] y, float[N,2] z) <float[3,2] w> { y = Neg (x) z = MatMul (x, w) }"
    x = np.array([[1, 2, 0], [2, 0, 1]], np.float32)
    _, model = model_of(text, {"x": x})
    env = {"x": torch.from_numpy(x)}
    model.run(env)
    assert true_classes(model, env, 2, np.array([0, 1])) is None
    seeds, classes, count = answers(model, env, 2)
    assert classes.tolist() == [2, 1] and count == 3 and seeds["z"].shape == (2, 2)


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_every_group_of_the_sample_models_is_ranked(name: str) -> None:
    loaded = load(ROOT / "sample_models" / f"digits_{name}.onnx")
    data = str(ROOT / "sample_models" / "digits_calibration.npz")
    source = open_source(data, input_specs(loaded), PRESETS["unit"], samples=16)
    analysis = analyse(loaded, source.batch(np.arange(1)))
    model = to_torch(analysis.model, source.batch(np.arange(2)))
    axes = {site.node: 1 for group in analysis.channels.groups for site in group.producers}
    means = channel_relevance(model, source, np.arange(16), axes, chunk=8).means()
    assert means.keys() == axes.keys() and all(np.isfinite(mean).all() for mean in means.values())
    silent = [name for name, mean in means.items() if not mean.any()]
    assert len(silent) == {"residual": 0, "mobile": 2}[name]  # squeeze-excite layers that are 0 on every digit
    nothing = Evidence(analysis.channels.groups, analysis.channels, {}, {}, model, source, np.arange(16), 8)
    assert CRITERIA["relevance"](nothing) == {}  # no consumer with statistics, so nothing to say of the loss


def ended(call: Call) -> float:
    """Return what relevance a step may lose: at outputs that no number of its inputs flows into."""
    args = [
        torch.zeros_like(arg) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in call.args
    ]
    for at in call.flows:
        arg = call.args[at]
        assert arg is not None
        args[at] = arg.abs() if call.step.op_type == "Conv" else torch.ones_like(arg)
    if call.step.op_type == "Conv":
        weight = call.args[1]
        assert weight is not None
        args[1] = weight.abs()
    with torch.no_grad():
        reached = call.step.module(*args)
    (r,) = call.relevance
    assert r is not None
    return float(r[reached == 0].double().sum())


@pytest.mark.slow
@pytest.mark.parametrize("path", shared_zoo())
def test_the_zoo_keeps_relevance_or_it_ends_for_a_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step: but for outputs that nothing flows into, all that is given is dealt out, and stays finite."""
    standard, _ = standardise(load(path))
    feeds = real_inputs(standard, path)
    model = to_torch(standard, feeds, verify=False)
    env = feed(model, Source(1, lambda indices: feeds, ""), np.arange(1))
    with torch.no_grad():
        model.run(env)
    steps = 0

    def checked(call: Call) -> Sequence[torch.Tensor]:
        nonlocal steps
        dealt = deal(call)
        assert all(bool(r.isfinite().all()) for r in dealt), call.step
        given = [r for r in call.relevance if r is not None]
        size = sum(float(r.abs().sum(dtype=torch.float64)) for r in given)
        lost = sum(float(r.sum(dtype=torch.float64)) for r in given)
        lost -= sum(float(r.sum(dtype=torch.float64)) for r in dealt)
        if abs(lost) > 1e-3 * size + 1e-12 and call.step.op_type in ("Conv", "Concat", "Pad"):
            lost -= ended(call)
        assert abs(lost) <= 1e-3 * size + 1e-12, call.step
        steps += 1
        return dealt

    monkeypatch.setattr("calibrate.relevance.deal", checked)
    stopped: list[str] = []
    seeds, _, _ = answers(model, env, 1)
    propagate(model, env, seeds, (), lambda node, why: stopped.append(why))
    # voice detectors run on the bodies of If
    assert set(stopped) <= {"relevance does not pass through If in ONNX Runtime", "If has no gradient"}
    assert steps or stopped
