"""Feature matching: never worse on the samples kept apart, the same for the same seed, and only weights change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from small_graphs import build

from calibrate.forward import outputs_of
from calibrate.preprocess import PRESETS
from calibrate.source import Source
from calibrate.sources import open_source
from compress import refine as module
from compress.augment import augmented, bears_mirrors, compressed
from compress.pipeline import prune_model
from compress.refine import (
    Judge,
    Matching,
    Refinement,
    backward,
    matched,
    minibatches,
    pace,
    refine,
    relative_error,
)
from compress.settings import Options
from compress.student import Student, trainable
from graph.analysis import Analysis, analyse
from graph.bridge import TorchModel, to_torch
from graph.channels import Channels
from graph.inputs import input_specs
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

FIT, HELD = np.arange(48), np.arange(48, 64)

RESIDUAL = """(float[N,3,8,8] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,3,3] w3, float[8] b3,
    float[12,8,3,3] w4, float[12] b4, float[12,5] w5, float[5] b5
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    b = Conv <pads = [1,1,1,1]> (r, w2, b2)
    rb = Relu (b)
    c = Conv <pads = [1,1,1,1]> (rb, w3, b3)
    s = Add (c, r)
    rs = Relu (s)
    d = Conv <pads = [1,1,1,1], strides = [2,2]> (rs, w4, b4)
    rd = Relu (d)
    p = GlobalAveragePool (rd)
    f = Flatten (p)
    m = MatMul (f, w5)
    y = Add (m, b5)
}"""

GEMMS = "(float[N,10] x) => (float[N,4] y) <float[8,10] w1, float[8] b1, float[4,8] w2>"


@dataclass(frozen=True)
class Outcome:
    sliced: ir.Model
    model: ir.Model
    pruned: TorchModel
    result: Refinement


def source(*shape: int, number: int = 64) -> Source:
    samples = np.random.default_rng(0).normal(0.3, 1, (number, *shape)).astype(np.float32)
    return Source(number, lambda indices: {"x": samples[indices]}, "test samples")


def halves(channels: Channels) -> Plan:
    generator = np.random.default_rng(1)
    return Plan({g.name: generator.permutation(len(g.channels)) % 2 == 0 for g in channels.groups})


def refined(
    analysis: Analysis,
    plan: Plan,
    data: Source,
    *,
    steps: int = 20,
    batch: int | None = None,
    seed: int = 0,
    held: np.ndarray = HELD,
) -> Outcome:
    feeds = data.batch(np.arange(batch or 2))
    sliced, model = (shrink(analysis.model, analysis.channels, plan) for _ in range(2))
    original, pruned = to_torch(analysis.model, feeds), to_torch(model, feeds)
    advanced: list[None] = []
    result = refine(
        original,
        pruned,
        model,
        analysis.channels,
        plan,
        dict(trace(model, feeds).shapes),
        data,
        FIT,
        held,
        steps=steps,
        chunk=batch or 16,
        batch=batch,
        seed=seed,
        advance=lambda: advanced.append(None),
    )
    assert len(advanced) == result.steps <= result.asked == steps
    return Outcome(sliced, model, pruned, result)


def weights(model: ir.Model) -> dict[str, bytes]:
    return {
        str(name): value.const_value.numpy().tobytes()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def held_divergence(analysis: Analysis, model: ir.Model, data: Source, held: np.ndarray = HELD) -> float:
    """Return the divergence of the file that would be written, from the formula of `compress.divergence`."""
    before, after = (to_torch(each, data.batch(held[:2])) for each in (analysis.model, model))
    with torch.no_grad():
        (a,), (b,) = (outputs_of(each, {"x": torch.from_numpy(data.batch(held)["x"])}) for each in (before, after))
    x, y = (each.flatten(1).double().numpy() for each in (a, b))
    return float(((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


@pytest.fixture(scope="module", autouse=True)
def long_steps() -> Iterator[None]:
    """Small networks as plain slices are far from where they are to go, and the tests are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RATE", 0.1)
        yield


@pytest.fixture(scope="module")
def residual() -> Analysis:
    return analyse(build(RESIDUAL, seed=3))


@pytest.fixture(scope="module")
def outcome(residual: Analysis) -> Outcome:
    return refined(residual, halves(residual.channels), source(3, 8, 8))


def test_no_steps_change_nothing(residual: Analysis) -> None:
    found = refined(residual, halves(residual.channels), source(3, 8, 8), steps=0)
    assert weights(found.model) == weights(found.sliced)
    assert found.result.before == found.result.after > 0
    assert (found.result.steps, found.result.best, found.result.note) == (0, 0, "")


def test_the_divergence_that_is_stated_is_that_of_the_model(residual: Analysis, outcome: Outcome) -> None:
    data = source(3, 8, 8)
    assert outcome.result.before == pytest.approx(held_divergence(residual, outcome.sliced, data), rel=1e-4)
    assert outcome.result.after == pytest.approx(held_divergence(residual, outcome.model, data), rel=1e-4)
    assert outcome.result.after < 0.5 * outcome.result.before
    assert outcome.result.note == ""


def test_the_model_holds_what_the_torch_form_computes_with(outcome: Outcome) -> None:
    for name, value in outcome.model.graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), outcome.pruned.parameters[str(name)].detach().numpy())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(residual: Analysis, outcome: Outcome) -> None:
    plan, data = halves(residual.channels), source(3, 8, 8)
    again, other = (refined(residual, plan, data, seed=seed) for seed in (0, 1))
    assert weights(again.model) == weights(outcome.model) != weights(other.model)
    assert again.result == outcome.result


@pytest.mark.parametrize("rate", [1e-6, 5e-3, 0.3, 1e30])
def test_it_is_never_worse_on_the_samples_kept_apart(
    rate: float, residual: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RATE", rate)
    found = refined(residual, halves(residual.channels), source(3, 8, 8), steps=10)
    assert found.result.after <= found.result.before
    if found.result.best == 0:
        assert weights(found.model) == weights(found.sliced)
        assert found.result.note == "no state was better than the start on the samples kept apart, so it stays"
    assert (found.result.best == 0) == (rate == 1e30)


def test_it_ends_where_it_leads_nowhere(residual: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE", 1e30)
    assert refined(residual, halves(residual.channels), source(3, 8, 8)).result.steps == 1
    found = refined(residual, Plan.everything(residual.channels), source(3, 8, 8))
    assert found.result.steps == 0
    assert found.result.note == "the outputs are 0.0 apart at the start, so there is nothing to gain"
    assert weights(found.model) == weights(residual.model)


def test_without_samples_kept_apart_those_of_the_fit_decide(residual: Analysis) -> None:
    data = source(3, 8, 8)
    found = refined(residual, halves(residual.channels), data, held=HELD[:0])
    assert found.result.after == pytest.approx(held_divergence(residual, found.model, data, FIT), rel=1e-4)


def test_what_can_be_recovered_is() -> None:
    proto = ir.to_proto(
        build(f"{GEMMS} {{ a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) y = Gemm <transB = 1> (r, w2) }}")
    )
    for tensor in proto.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            array = numpy_helper.to_array(tensor).copy()
            array[4:] = 2 * array[:4]
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    analysis = analyse(ir.from_proto(proto))
    (group,) = analysis.channels.groups
    found = refined(analysis, Plan({group.name: np.arange(8) < 4}), source(10), steps=250)
    assert found.result.before > 1
    assert found.result.after < 0.1 * found.result.before


@pytest.mark.parametrize("batch", [1, 3])
def test_a_model_with_a_fixed_batch_size(batch: int) -> None:
    analysis = analyse(build(RESIDUAL.replace("[N,", f"[{batch},"), seed=3))
    found = refined(analysis, halves(analysis.channels), source(3, 8, 8), batch=batch, steps=6, held=np.arange(48, 60))
    assert found.result.after < found.result.before


def test_any_outputs_and_inputs() -> None:
    text = """(float[N,3,8,8] x, int64[N] k) => (float[N,6,8,8] y, int64[N,1,8,8] best, float[N] z) <
            float[8,3,3,3] w1, float[8] b1, float[6,8,1,1] w2, float[6] b2, float[4,6,1,1] table
        > { a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a) y = Conv (r, w2, b2) best = ArgMax <axis = 1> (y)
            z = ReduceMax <axes = [1,2,3], keepdims = 0> (y) }"""
    analysis, images = analyse(build(text)), source(3, 8, 8)
    data = Source(64, lambda indices: images.batch(indices) | {"k": indices.astype(np.int64)}, "test samples")
    found = refined(analysis, halves(analysis.channels), data)
    assert found.result.after < found.result.before


def test_a_node_without_gradient_is_named() -> None:
    text = """(float[N,10] x) => (float[N,4] y) <
            float[6,10] w0, float[6] b0, float[8,6] w1, float[8] b1, float[4,8] w2, float[4] b2
        > { q = Gemm <transB = 1> (x, w0, b0) h = Hardmax (q) a = Gemm <transB = 1> (h, w1, b1) r = Relu (a)
            y = Gemm <transB = 1> (r, w2, b2) }"""
    analysis = analyse(build(text))
    found = refined(analysis, halves(analysis.channels), source(10))
    assert found.result.note == (
        "2 weights were not trained (the first: b0): no gradient passes through Hardmax h, which runs in ONNX Runtime"
    )
    after, before = weights(found.model), weights(found.sliced)
    assert {name for name in after if after[name] == before[name]} == {"w0", "b0"}


def test_a_shared_weight_stays_one() -> None:
    text = """(float[N,10] x) => (float[N,6] y) <float[8,10] w1, float[8] b1, float[8,6] w2, float[8,10] w3>
        { a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) m = MatMul (r, w2)
          c = Gemm <transB = 1> (x, w3, b1) n = MatMul (c, w2) y = Add (m, n) }"""
    analysis = analyse(build(text))
    found = refined(analysis, halves(analysis.channels), source(10))
    after, before = weights(found.model), weights(found.sliced)
    assert set(after) == set(before)
    assert after["w2"] != before["w2"]
    feeds = source(10).batch(FIT[:2])
    shapes = dict(trace(found.model, feeds).shapes)
    student = Student.of(to_torch(found.model, feeds), found.model, shapes, source(10), FIT, chunk=16, seed=0)
    assert sorted(name for part in student.parts for name in part.names) == sorted(after)
    assert found.result.after < 0.8 * found.result.before


def test_only_weights_change_and_not_the_statistics_of_a_batchnorm() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <
            float[8,3,3,3] w1, float[8] scale, float[8] shift, float[8] mean, float[8] var, float[4,8,1,1] w2,
            float[1,3,1,1] centre
        > { n = Sub (x, centre) a = Conv <pads = [1,1,1,1]> (n, w1)
            b = BatchNormalization (a, scale, shift, mean, var) r = Relu (b) y = Conv (r, w2) }"""
    analysis = analyse(build(text), keep_batchnorm=True)
    found = refined(analysis, halves(analysis.channels), source(3, 8, 8))
    after, before = weights(found.model), weights(found.sliced)
    assert {name for name in after if after[name] != before[name]} == {"w1", "a_bias", "scale", "shift", "w2", "y_bias"}
    assert all(value.grad is None for value in found.pruned.parameters.values())
    protos = [ir.to_proto(model) for model in (found.sliced, found.model)]
    for proto in protos:
        for tensor in proto.graph.initializer:
            tensor.ClearField("raw_data")
    assert protos[0] == protos[1]


def test_halves_are_judged_as_they_are_stored(residual: Analysis) -> None:
    half = ir.from_proto(convert_float_to_float16(ir.to_proto(residual.model)))
    analysis = analyse(half)
    samples = source(3, 8, 8)
    data = Source(64, lambda indices: {"x": samples.batch(indices)["x"].astype(np.float16)}, "test samples")
    found = refined(analysis, halves(analysis.channels), data)
    dtypes = {v.const_value.dtype for v in found.model.graph.initializers.values() if v.const_value is not None}
    assert dtypes == {ir.DataType.FLOAT16}
    widened = Source(64, lambda indices: {"x": data.batch(indices)["x"].astype(np.float32)}, "test samples")
    stated = held_divergence(analysis, found.model, widened)
    assert found.result.after == pytest.approx(stated, rel=1e-4)
    assert found.result.after < 0.5 * found.result.before


LAYERS = {
    "Conv": "(float[N,8,4,4] y) <float[8,4,3,3] w, float[8] b> { y = Conv <group = 2> (x, w, b) }",
    "Conv without bias": "(float[N,8,4,4] y) <float[8,8,3,3] w> { y = Conv (x, w) }",
    "ConvTranspose": """(float[N,4,13,13] y) <float[8,4,3,3] w, float[4] b>
        { y = ConvTranspose <strides = [2,2]> (x, w, b) }""",
    "MatMul": "(float[N,8,6,5] y) <float[6,5] w, float[5] b> { m = MatMul (x, w) y = Add (m, b) }",
    "Gemm": """(float[M,5] y) <float[5,6] w, float[5] b>
        { f = Flatten <axis = 3> (x) y = Gemm <alpha = 0.5, transB = 1> (f, w, b) }""",
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_in_white_coordinates_is_the_layer(kind: str) -> None:
    model, data = build(f"(float[N,8,6,6] x) => {LAYERS[kind]}"), source(8, 6, 6)
    feeds = data.batch(np.arange(2))
    torch_model, shapes = to_torch(model, feeds), dict(trace(model, feeds).shapes)
    student = Student.of(torch_model, model, shapes, data, FIT, chunk=16, seed=0)
    (part,) = student.parts
    assert set(part.names) == set(weights(model))
    for name, value in student.weights().items():
        expected = torch_model.parameters[name]
        assert value.shape == expected.shape
        torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-5)


def test_statistics_and_constants_are_no_weights(residual: Analysis) -> None:
    torch_model = to_torch(residual.model, source(3, 8, 8).batch(FIT[:2]))
    assert trainable(torch_model, residual.model) == {f"{kind}{n}" for kind in "wb" for n in range(1, 6)}


def test_gradients_over_several_passes_are_those_of_one(residual: Analysis) -> None:
    data, plan = source(3, 8, 8), halves(residual.channels)
    feeds = data.batch(np.arange(2))
    small = shrink(residual.model, residual.channels, plan)
    original, pruned = to_torch(residual.model, feeds), to_torch(small, feeds)
    judge = Judge(original, pruned, data, [HELD])
    matching = Matching.of(original, pruned, residual.channels, plan, judge.energy)
    student = Student.of(pruned, small, dict(trace(small, feeds).shapes), data, FIT, chunk=16, seed=0)
    x = torch.from_numpy(data.batch(np.arange(8))["x"])
    alike = [{"x": x} for _ in range(3)]
    backward(student, matching, alike[:1])
    once = [part.leaf.grad.clone() for part in student.parts if part.leaf.grad is not None]
    backward(student, matching, alike)
    assert len(once) == len(student.parts) > 0
    for part, expected in zip(student.parts, once, strict=True):
        torch.testing.assert_close(part.leaf.grad, expected, rtol=1e-4, atol=1e-3)


def test_where_torch_has_no_gradient_the_start_stays_and_that_is_said(
    residual: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("derivative for aten::x is not implemented\nmore of it")

    monkeypatch.setattr(module, "backward", fails)
    found = refined(residual, halves(residual.channels), source(3, 8, 8)).result
    assert (found.steps, found.best) == (0, 0) and found.after == found.before
    assert found.note == "no gradient could be had: derivative for aten::x is not implemented"
    images = source(3, 8, 8).batch(np.arange(64))
    pruned = prune_model(build(RESIDUAL), 0.6, images, Options(refine=3))
    assert f"refine: {found.note}" in pruned.notes


def test_the_last_value_of_every_size_is_matched(residual: Analysis) -> None:
    torch_model = to_torch(residual.model, source(3, 8, 8).batch(FIT[:2]))
    assert matched(torch_model, torch_model, residual.channels) == ("rs", "rd", "p")
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,1,1] w1, float[4,8,1,1] w2>
        { a = Conv (x, w1) y = Conv (a, w2) }"""
    analysis = analyse(build(text))
    outputs_alone = to_torch(analysis.model, source(3, 8, 8).batch(FIT[:2]))
    assert matched(outputs_alone, outputs_alone, analysis.channels) == ()


def test_the_error_of_a_value_is_relative_to_its_variance() -> None:
    a = torch.tensor([[[1.0, 4.0]], [[3.0, 4.0]]])
    found = relative_error(a, a + 2)
    assert found is not None and float(found) == pytest.approx(4 / 0.5)
    same = relative_error(a[:1], a[:1] + 2)
    assert same is not None and float(same) == pytest.approx(4 / 8.5)
    for other in (0 * a, a / 0, a.long(), a[:, :, :1]):
        assert relative_error(other, a) is None


def test_every_sample_is_used_before_one_comes_again() -> None:
    order = minibatches(np.arange(10), 4, np.random.default_rng(0))
    drawn = np.concatenate([next(order) for _ in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))


def test_the_pace_rises_and_falls() -> None:
    paces = np.array([pace(done) for done in np.linspace(0, 1, 101)])
    assert 0 < paces[0] < 0.1
    assert paces.max() > 0.95
    assert paces[-1] == pytest.approx(0, abs=1e-9)
    assert (np.diff(paces[paces.argmax() :]) <= 0).all()


def test_variants_lie_between_samples_and_integers_stay() -> None:
    images = np.stack([np.full((1, 8, 8), value, np.float32) for value in (0.0, 1.0)])
    data = Source(2, lambda i: {"x": images[i].copy(), "k": np.asarray(i, np.int64)}, "test samples")
    drawn = augmented(data, np.arange(2), True, np.random.default_rng(0)).batch(np.zeros(500, int))
    assert (drawn["k"] == 0).all()
    values = drawn["x"][:, 0, 0, 0]
    assert (drawn["x"] == values[:, None, None, None]).all()
    assert values.min() == 0
    assert 0.45 < values.max() <= 0.5


def test_pictures_are_moved_a_little_and_mirrored_where_that_is_asked_for() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (1, 1, 32, 32)).copy()
    data = Source(1, lambda i: {"x": ramp[i].copy()}, "test samples")
    for mirrored in (False, True):
        drawn = augmented(data, np.arange(1), mirrored, np.random.default_rng(0)).batch(np.zeros(200, int))["x"]
        assert drawn.dtype == np.float32
        assert drawn.shape == (200, 1, 32, 32)
        falls = drawn[:, 0, 0, 0] > drawn[:, 0, 0, -1]
        assert falls.any() == mirrored
        assert np.abs(drawn[~falls, 0, :, 8:24] - ramp[0, 0, 0, 8:24]).max() <= (2 if not mirrored else 16)
    sound = Source(1, lambda i: {"x": ramp[i, 0].copy()}, "test samples")
    drawn = augmented(sound, np.arange(1), True, np.random.default_rng(0)).batch(np.zeros(20, int))["x"]
    assert (drawn == ramp[0, 0]).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_half_of_the_pictures_have_been_through_jpeg(channels: int) -> None:
    """Their size and brightness stay; what JPEG does not know, four channels, is left alone."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (16, 24, channels)).astype(np.uint8)
    drawn = [compressed(picture, generator) for _ in range(200)]
    changed = [each for each in drawn if (each != picture).any()]
    assert 70 < len(changed) < 130 if channels < 4 else not changed
    for each in changed:
        assert each.shape == picture.shape and each.dtype == np.uint8
        assert abs(each.mean() - picture.mean()) < 3
        assert np.corrcoef(each.ravel(), picture.ravel())[0, 1] > 0.5


def test_pictures_of_a_source_are_altered_before_they_are_preprocessed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    specs = input_specs(build("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu (x) }"))
    data, inverse = (open_source({"images": each}, specs, PRESETS["imagenet"]) for each in (images, 255 - images))
    found = data.altered(np.arange(6), lambda picture: 255 - picture)["x"]
    np.testing.assert_array_equal(found, inverse.batch(np.arange(6))["x"])
    marked = replace(data, read_altered=lambda indices, alter: {"x": np.full((len(indices), 3, 8, 8), 1e3, np.float32)})
    drawn = augmented(marked, np.arange(6), False, np.random.default_rng(0)).batch(np.arange(6))["x"]
    assert drawn.min() > 400


def test_mirrors_are_borne_where_the_outputs_are_alike() -> None:
    text = """(float[N,3,8,8] x) => (float[N,3] y) <float[3,1,1,8] w>
        { a = Conv <group = 3> (x, w) y = ReduceMean <axes = [2,3], keepdims = 0> (a) }"""
    model, even, data = build(text), build(text), source(3, 8, 8)
    even.graph.initializers["w"].const_value = ir.tensor(np.ones((3, 1, 1, 8), np.float32), name="w")
    feeds = data.batch(np.arange(2))
    assert bears_mirrors(to_torch(even, feeds), data, HELD)
    assert not bears_mirrors(to_torch(model, feeds), data, HELD)
