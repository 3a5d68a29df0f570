"""Compensation of whole networks: lossless where that is possible, and better than the plain slices elsewhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from small_graphs import build

from calibrate.forward import Env
from calibrate.source import Source
from compress import compensate as module
from compress.compensate import compensate
from compress.repair import Repair, Rows
from graph.analysis import Analysis, analyse
from graph.bridge import to_torch
from graph.channels import Channels
from graph.plan import Plan
from graph.runtime import session
from graph.shrink import shrink
from graph.trace import trace

FIT, HELD, TEST = np.arange(24), np.arange(24, 32), np.arange(32, 64)

RESIDUAL = """(float[N,3,8,8] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,3,3] w3, float[8] b3,
    float[12,8,3,3] w4, float[12] b4, float[12,8,1,1] w5, float[12] b5, float[12,5] w6, float[5] b6
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    b = Conv <pads = [1,1,1,1]> (r, w2, b2)
    rb = Relu (b)
    c = Conv <pads = [1,1,1,1]> (rb, w3, b3)
    s = Add (c, r)
    rs = Relu (s)
    d = Conv <pads = [1,1,1,1], strides = [2,2]> (rs, w4, b4)
    e = Conv <strides = [2,2]> (rs, w5, b5)
    t = Add (d, e)
    rt = Relu (t)
    p = GlobalAveragePool (rt)
    f = Flatten (p)
    m = MatMul (f, w6)
    y = Add (m, b6)
}"""


@dataclass(frozen=True)
class Outcome:
    sliced: ir.Model
    model: ir.Model
    repairs: list[Repair]


def source(shape: tuple[int, ...], number: int = 64) -> Source:
    samples = np.random.default_rng(0).normal(0.3, 1, size=(number, *shape)).astype(np.float32)
    return Source(number, lambda indices: {"x": samples[indices]}, "test samples")


def halves(channels: Channels, seed: int = 1) -> Plan:
    generator = np.random.default_rng(seed)
    keep = {}
    for group in channels.groups:
        width = len(group.channels)
        keep[group.name] = np.zeros(width, bool)
        keep[group.name][generator.permutation(width)[: width // 2]] = True
    return Plan(keep)


def compensated(
    analysis: Analysis, plan: Plan, data: Source, *, fit: np.ndarray = FIT, held: np.ndarray = HELD
) -> Outcome:
    feeds = data.batch(np.arange(2))
    sliced, model = (shrink(analysis.model, analysis.channels, plan) for _ in range(2))
    original, pruned = to_torch(analysis.model, feeds), to_torch(model, feeds)
    shapes = dict(trace(model, feeds).shapes)
    advanced: list[None] = []
    repairs = compensate(
        original,
        pruned,
        model,
        analysis.channels,
        plan,
        shapes,
        data,
        fit,
        held,
        chunk=8,
        seed=0,
        advance=lambda: advanced.append(None),
    )
    assert len(advanced) == len(repairs)
    return Outcome(sliced, model, repairs)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


def weights(model: ir.Model) -> dict[str, bytes]:
    return {
        str(name): value.const_value.numpy().tobytes()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def error(which: ir.Model, analysis: Analysis, data: Source, indices: np.ndarray = TEST) -> float:
    """Return the relative squared error of the outputs on samples that took no part."""
    x = data.batch(indices)["x"]
    expected = run(analysis.model, x)
    return float(((run(which, x) - expected) ** 2).sum() / ((expected - expected.mean(0)) ** 2).sum())


@pytest.fixture(scope="module")
def residual() -> Analysis:
    return analyse(build(RESIDUAL, seed=3))


def dependent(kind: str) -> ir.Model:
    """Return two layers of which channels 4…7 in the middle are linear combinations of channels 0…3."""
    text = {
        "Conv": """(float[N,3,6,6] x) => (float[N,4,4,4] y) <float[8,3,3,3] w1, float[8] b1, float[4,8,3,3] w2>
            { a = Conv <pads = [1,1,1,1]> (x, w1, b1) y = Conv (a, w2) }""",
        "ConvTranspose": """(float[N,3,6,6] x) => (float[N,4,Y,X] y) <
                float[8,3,3,3] w1, float[8] b1, float[8,4,3,3] w2
            > { a = Conv <pads = [1,1,1,1]> (x, w1, b1) y = ConvTranspose <strides = [2,2]> (a, w2) }""",
        "Gemm": """(float[N,10] x) => (float[N,4] y) <float[8,10] w1, float[8] b1, float[4,8] w2>
            { a = Gemm <transB = 1> (x, w1, b1) y = Gemm <transB = 1, alpha = 0.5> (a, w2) }""",
        "MatMul": """(float[N,10] x) => (float[N,4] y) <float[8,10] w1, float[8] b1, float[8,4] w2, float[4] b2>
            { a = Gemm <transB = 1> (x, w1, b1) m = MatMul (a, w2) y = Add (m, b2) }""",
        "through Relu": """(float[N,10] x) => (float[N,4] y) <float[8,10] w1, float[8] b1, float[4,8] w2>
            { a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) y = Gemm <transB = 1> (r, w2) }""",
    }[kind]
    proto = ir.to_proto(build(text))
    mixing = np.random.default_rng(5).normal(size=(4, 4)).astype(np.float32)
    if kind == "through Relu":  # only multiples by a positive number pass a Relu
        mixing = np.diag([2.0, 0.5, 3.0, 1.0]).astype(np.float32)
    for tensor in proto.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            array = numpy_helper.to_array(tensor).copy()
            if tensor.name == "w1" or kind in {"through Relu", "ConvTranspose"}:
                array[4:] = np.tensordot(mixing, array[:4], 1)
            else:
                array[4:] += 3  # constants, for the consumer's bias to take up
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return ir.from_proto(proto)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm", "MatMul", "through Relu"])
def test_channels_that_follow_from_others_go_without_loss(kind: str) -> None:
    analysis = analyse(dependent(kind))
    (group,) = analysis.channels.groups
    plan = Plan({group.name: np.arange(8) < 4})
    data = source((3, 6, 6) if "Conv" in kind else (10,))
    outcome = compensated(analysis, plan, data)
    assert error(outcome.sliced, analysis, data) > 0.1
    assert error(outcome.model, analysis, data) < 1e-4


def test_compensation_is_better_than_the_plain_slices(residual: Analysis) -> None:
    data = source((3, 8, 8))
    outcome = compensated(residual, halves(residual.channels), data)
    assert [repair.node for repair in outcome.repairs] == ["a", "b", "c", "d", "e", "m"]
    assert all(repair.error <= repair.slice_error for repair in outcome.repairs)
    assert outcome.repairs[0] == Repair("a", outcome.repairs[0].slice_error, outcome.repairs[0].error, None, 0)
    before, after = (error(which, residual, data) for which in (outcome.sliced, outcome.model))
    assert after < 0.3 * before


BRANCH = """(float[N,3,8,8] x) => (float[N,5,8,8] y) <
    float[8,3,3,3] w1, float[8] b1, float[6,8,3,3] w2, float[6] b2, float[8,6,3,3] w3, float[8] b3, float[5,8,3,3] w4
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    b = Conv <pads = [1,1,1,1]> (r, w2, b2)
    rb = Relu (b)
    c = Conv <pads = [1,1,1,1]> (rb, w3, b3)
    s = Add (c, r)
    y = Conv <pads = [1,1,1,1]> (s, w4)
}"""


def test_what_is_left_of_a_branch_is_its_mean() -> None:
    analysis, data = analyse(build(BRANCH)), source((3, 8, 8))
    outcome = compensated(analysis, Plan({"b": np.zeros(6, bool)}), data)
    inside = session(analysis.model, outputs=["c"]).run(None, {"x": data.batch(np.union1d(FIT, HELD))["x"]})[0]
    constant = outcome.model.graph.initializers["c"].const_value
    assert constant is not None
    np.testing.assert_allclose(constant.numpy(), inside.mean((0, 2, 3), keepdims=True), rtol=1e-3, atol=1e-4)
    assert "s" in [repair.node for repair in outcome.repairs]
    assert error(outcome.model, analysis, data) < error(outcome.sliced, analysis, data)


@pytest.mark.parametrize("gone", ["b", "e"])
def test_a_linear_stream_takes_up_what_a_branch_gave(gone: str) -> None:
    """The layer before the sum is fitted to the sum: its bias, and its weights as well."""
    text = """(float[N,3,8,8] x) => (float[N,5,8,8] y) <float[6,3,3,3] w1, float[6] b1, float[9,6,1,1] w2, float[9] b2,
        float[6,9,1,1] w3, float[6] b3, float[7,6,3,3] w4, float[7] b4, float[6,7,1,1] w5, float[6] b5,
        float[5,6,3,3] w6> {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1)
        b = Conv (a, w2, b2)
        rb = Relu (b)
        c = Conv (rb, w3, b3)
        s = Add (a, c)
        e = Conv <pads = [1,1,1,1]> (s, w4, b4)
        re = Relu (e)
        f = Conv (re, w5, b5)
        t = Add (f, s)
        y = Conv <pads = [1,1,1,1]> (t, w6)
    }"""
    analysis, data = analyse(build(text)), source((3, 8, 8))
    (width,) = (len(group.channels) for group in analysis.channels.groups if group.name == gone)
    outcome = compensated(analysis, Plan({gone: np.zeros(width, bool)}), data)
    assert sum(node.op_type == "Add" for node in outcome.model.graph) == 1
    taken = {"b": "s", "e": "t"}[gone]
    (repair,) = (repair for repair in outcome.repairs if repair.node in (taken, "c"))
    assert repair.ridge is not None
    assert repair.error < repair.slice_error
    assert error(outcome.model, analysis, data) < 0.9 * error(outcome.sliced, analysis, data)


PERCEPTRON = """(float[N,6] x) => (float[N,4] y) <
    float[24,6] w1, float[24] b1, float[24,24] w2, float[24] b2, float[24,24] w3, float[24] b3, float[4,24] w4
> {
    a = Gemm <transB = 1> (x, w1, b1)
    ra = Relu (a)
    b = Gemm <transB = 1> (ra, w2, b2)
    rb = Relu (b)
    c = Gemm <transB = 1> (rb, w3, b3)
    rc = Relu (c)
    y = Gemm <transB = 1> (rc, w4)
}"""


@pytest.mark.parametrize("seed", range(3))
def test_inputs_of_the_pruned_network_are_better_than_those_of_the_original(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asymmetric compensation mends what earlier layers left; the symmetric one of the CaP paper does not see it."""
    analysis, data = analyse(build(PERCEPTRON, seed=seed)), source((6,), 800)
    plan, fit, held, test = halves(analysis.channels), np.arange(500), np.arange(500, 600), np.arange(600, 800)
    asymmetric = error(compensated(analysis, plan, data, fit=fit, held=held).model, analysis, data, test)
    rows = module._rows

    def symmetric(
        stage: module.Stage, before: Env, now: Env, channels: Channels, removed: frozenset[int], *rest: Any
    ) -> Rows:
        x = stage.consumer.x
        return rows(stage, before, {**now, x: module._kept(before[x], x, channels, removed)}, channels, removed, *rest)

    monkeypatch.setattr(module, "_rows", symmetric)
    assert asymmetric < error(compensated(analysis, plan, data, fit=fit, held=held).model, analysis, data, test)


def test_keeping_everything_changes_nothing(residual: Analysis) -> None:
    outcome = compensated(residual, Plan.everything(residual.channels), source((3, 8, 8)))
    assert weights(outcome.model) == weights(residual.model)
    assert all(repair.error < 1e-10 and not repair.note for repair in outcome.repairs)


def test_the_same_seed_gives_the_same_bytes_from_memory_and_from_disk(
    residual: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data = halves(residual.channels), source((3, 8, 8))
    first = compensated(residual, plan, data)
    assert weights(compensated(residual, plan, data).model) == weights(first.model)
    monkeypatch.setattr(module, "_MEMORY", 0)
    spilled = compensated(residual, plan, data)
    assert weights(spilled.model) == weights(first.model)
    assert spilled.repairs == first.repairs


def test_only_weights_change(residual: Analysis) -> None:
    outcome = compensated(residual, halves(residual.channels), source((3, 8, 8)))
    protos = [ir.to_proto(model) for model in (outcome.sliced, outcome.model)]
    for proto in protos:
        for tensor in proto.graph.initializer:
            tensor.ClearField("raw_data")
    assert protos[0] == protos[1]


def test_without_held_out_samples_the_fit_decides(residual: Analysis) -> None:
    data = source((3, 8, 8))
    outcome = compensated(residual, halves(residual.channels), data, held=HELD[:0])
    before, after = (error(which, residual, data) for which in (outcome.sliced, outcome.model))
    assert after < before


def test_a_shared_weight_is_left_and_named() -> None:
    text = """(float[N,10] x) => (float[N,6] y) <float[8,10] w1, float[8] b1, float[8,6] w2, float[8,10] w3>
        { a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) m = MatMul (r, w2)
          c = Gemm <transB = 1> (x, w3, b1) n = MatMul (c, w2) y = Add (m, n) }"""
    analysis = analyse(build(text))
    outcome = compensated(analysis, halves(analysis.channels), source((10,)))
    shared = {repair.node: repair.note for repair in outcome.repairs if "w2" in repair.note}
    assert set(shared) == {"m", "n"}
    assert all(note.endswith("is shared by several nodes; the plain slice was kept") for note in shared.values())
    assert weights(outcome.model)["w2"] == weights(outcome.sliced)["w2"]


def test_a_consumer_without_a_bias_gets_none() -> None:
    text = """(float[N,10] x) => (float[N,4] y) <float[8,10] w1, float[8] b1, float[8,4] w2>
        { a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) y = MatMul (r, w2) }"""
    analysis, data = analyse(build(text)), source((10,))
    outcome = compensated(analysis, halves(analysis.channels), data)
    assert outcome.model.graph.num_nodes() == analysis.model.graph.num_nodes()
    assert set(weights(outcome.model)) == set(weights(analysis.model))
    assert error(outcome.model, analysis, data) < error(outcome.sliced, analysis, data)
