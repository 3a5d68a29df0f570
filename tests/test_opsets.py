"""The same small network in every opset that ONNX Runtime runs, each operator in the form that it has there."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import build, random_plan

from compress.api import Options, prune
from graph.analysis import analyse
from graph.errors import ModelError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import load, save
from graph.runtime import run, session
from graph.shrink import shrink

OPSETS = range(7, 27)


def network(opset: int) -> ir.Model:
    """Return a network with most operators whose form changed from opset to opset, in the least IR version for it."""

    def form(since: int, new: str, old: str) -> str:
        return new if opset >= since else old

    upsample = form(
        11,
        "u = Resize<mode='nearest'>(p, none, scales)",
        form(
            10,
            "u = Resize(p, scales)",
            form(9, "u = Upsample(p, scales)", "u = Upsample<scales=[1.0,1.0,2.0,2.0]>(p)"),
        ),
    ).replace("'", '"')
    text = f"""(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w1, float[8] b1, float[8] gamma, float[8] beta, float[8] mean, float[8] var, float[8,8,3,3] w2,
     float[8] b2, float[6,4,1,1] w3, float[6] b3, float[10,5] w4, float[5] b4,
     float[4] scales = {{1.0,1.0,2.0,2.0}}, float[0] none = {{}}, float zero = {{0}}, float six = {{6}},
     int64[8] pads = {{0,0,1,1,0,0,1,1}}, int64[2] starts = {{1,1}}, int64[2] ends = {{9,9}}, int64[2] space = {{2,3}},
     int64[2] halves = {{4,4}}, int64[2] to = {{0,-1}}, int64[1] last = {{3}}> {{
        c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
        n1 = BatchNormalization(c1, gamma, beta, mean, var)
        r1 = {form(11, "Clip(n1, zero, six)", "Clip<min=0.0, max=6.0>(n1)")}
        c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        s = Add(c2, r1)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
        {upsample}
        d = {form(11, "Pad(u, pads)", "Pad<pads=[0,0,1,1,0,0,1,1]>(u)")}
        e = {form(10, "Slice(d, starts, ends, space)", "Slice<axes=[2,3], starts=[1,1], ends=[9,9]>(d)")}
        l, m = {form(18, "Split<axis=1, num_outputs=2>(e)", form(13, "Split<axis=1>(e, halves)", "Split<axis=1>(e)"))}
        q = Conv(l, w3, b3)
        k = Concat<axis=1>(q, m)
        g = {form(18, "ReduceMean(k, space)", "ReduceMean<axes=[2,3]>(k)")}
        h = {form(13, "Squeeze(g, last)", "Squeeze<axes=[3]>(g)")}
        f = Reshape(h, to)
        z = Gemm(f, w4, b4)
        y = Softmax<axis=1>(z)
    }}"""
    model = build(text, opset)
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    if model.ir_version < 4:
        model.graph.inputs.extend(model.graph.initializers.values())
    try:
        session(model, optimise=False)
    except ModelError as error:
        if "Current official support" in str(error):
            pytest.skip(f"this ONNX Runtime does not run opset {opset}")
        raise
    return model


@pytest.mark.parametrize("opset", OPSETS)
def test_the_network_is_pruned_and_obeys_the_law(opset: int, tmp_path: Path) -> None:
    model = network(opset)
    save(model, tmp_path / "m.onnx")
    analysis = analyse(load(tmp_path / "m.onnx"))
    assert sum(len(group.channels) for group in analysis.channels.groups) == 8 + 6, analysis.channels.frozen
    assert {entry.op_type for entry in analysis.channels.frozen} == {"Softmax"}  # of the output
    feeds = example_inputs(model, batch=2)
    for seed in range(2):
        plan = random_plan(analysis.channels, np.random.default_rng(seed))
        check_law(analysis.model, analysis.channels, plan, feeds)
        small = shrink(analysis.model, analysis.channels, plan)
        onnx.checker.check_model(ir.to_proto(small))
        assert small.opset_imports[""] == opset
        assert run(session(small), feeds)[0].shape == (2, 5)


@pytest.mark.parametrize("opset", [7, 13, 18, 26])
def test_the_whole_job(opset: int) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)}
    result = prune(network(opset), 0.6, data, Options(), latency=False)
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert result.model.opset_imports[""] == opset


@pytest.mark.parametrize("version", range(3, 14))
def test_every_ir_version(version: int) -> None:
    model = network(7)
    model.ir_version = version
    small = analyse(model).model
    assert small.ir_version == max(version, 4)
    feeds = example_inputs(model, batch=2)
    np.testing.assert_allclose(run(session(small), feeds)[0], run(session(model), feeds)[0], rtol=0, atol=1e-6)
