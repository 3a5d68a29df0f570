"""The cost model against counting the graph that is really exported, and by hand."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from test_stored import behind

from compress.costs import CostModel, Extent, Term, Widths, macs_model, params_model
from compress.file_size import finished, written_bytes
from compress.goal import Original, limit_of
from compress.targets import Target
from graph.analysis import Analysis, analyse
from graph.count import count
from graph.model import load
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

HALF = np.dtype(np.float16)
SAMPLES = Path(__file__).parents[1] / "sample_models"

GROUPED = """<ir_version: 8, opset_import: ["" : 17]>
    grouped (float[1,4,6,6] x) => (float[1,3] y) <
        float[8,4,3,3] w1, float[8] b1, float[8,4,3,3] w2, float[8] b2, float[8,1,3,3] w3, float[32,5] w4,
        float[5,3] w5, int64[2] flat = {1, -1}
    > {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1)
        r = Relu (a)
        b = Conv <pads = [1,1,1,1], group = 2> (r, w2, b2)
        s = Add (b, a)
        d = Conv <group = 8, strides = [2,2]> (s, w3)
        f = Reshape (d, flat)
        h = Gemm (f, w4)
        g = Relu (h)
        y = MatMul (g, w5)
    }"""


def grouped() -> ir.Model:
    """Return a model with a grouped convolution, a depthwise one, and 4 entries per channel after the Reshape."""
    proto = onnx.parser.parse_model(GROUPED)
    generator = np.random.default_rng(0)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in proto.graph.value_info}
    for name, shape in shapes.items():
        array = generator.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@cache
def analysis(name: str) -> Analysis:
    model = grouped() if name == "grouped" else load(SAMPLES / f"{name}.onnx")
    return analyse(model, keep_batchnorm=name == "digits_residual")


def untimed() -> tuple[float, CostModel]:
    raise AssertionError("nobody asked for the latency")


def cut(found: Analysis, generator: np.random.Generator) -> Plan:
    """Return a plan that keeps at least one channel at random of every group."""
    keep = {}
    for group in found.channels.groups:
        keep[group.name] = generator.random(len(group.channels)) < generator.uniform(0.1, 1)
        keep[group.name][generator.integers(len(group.channels))] = True
    return Plan(keep)


def widths_of(plan: Plan) -> Widths:
    return {name: int(mask.sum()) for name, mask in plan.keep.items()}


def counted(found: Analysis, plan: Plan) -> tuple[int, int]:
    small = shrink(found.model, found.channels, plan)
    total = count(small, trace(small))
    return total.macs, total.params


def models(found: Analysis) -> tuple[CostModel, CostModel]:
    arguments = found.channels, found.count, found.trace.shapes
    return macs_model(*arguments), params_model(*arguments)


@pytest.mark.parametrize("name", ["digits_residual", "digits_mobile", "grouped"])
def test_the_total_is_what_counting_the_shrunk_graph_gives(name: str) -> None:
    found = analysis(name)
    macs, params = models(found)
    generator = np.random.default_rng(1)
    whole = Plan.everything(found.channels)
    for plan in (whole, *(cut(found, generator) for _ in range(4))):
        assert (macs.total(widths_of(plan)), params.total(widths_of(plan))) == pytest.approx(counted(found, plan))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("name", ["digits_residual", "digits_mobile"])
def test_the_bytes_of_the_file_that_is_written(name: str, kind: str) -> None:
    """Exact but for what is no weight: sizes in the text of the file take more digits or fewer."""
    original = load(SAMPLES / f"{name}.onnx") if kind == "float32" else behind(load(SAMPLES / f"{name}.onnx"), HALF)
    found = analyse(original, keep_batchnorm=True)  # a weight that BatchNormalization was folded into is no half

    def size(model: ir.Model) -> int:
        return written_bytes(finished(model, found.stored, original)[0])

    model = limit_of(Target("bytes", 0.5, True), found, lambda: Original(0, size(found.model)), untimed).cost
    generator = np.random.default_rng(1)
    for plan in (Plan.everything(found.channels), *(cut(found, generator) for _ in range(3))):
        written = size(shrink(found.model, found.channels, plan))
        assert model.total(widths_of(plan)) == pytest.approx(written, abs=600)


@pytest.mark.parametrize("name", ["digits_residual", "digits_mobile", "grouped"])
def test_the_cost_of_a_group_differs_as_the_total_does(name: str) -> None:
    found = analysis(name)
    generator = np.random.default_rng(2)
    for model in models(found):
        widths = widths_of(cut(found, generator))
        for group in found.channels.groups:
            candidates = np.arange(1, len(group.channels) + 1)
            costs = model.of_group(group.name, candidates, widths)
            totals = [model.total({**widths, group.name: int(width)}) for width in candidates]
            np.testing.assert_allclose(np.diff(costs), np.diff(totals), rtol=1e-9)


def test_sums_and_products_by_hand() -> None:
    a, b = Extent(0, {"a": 1.0}), Extent(2, {"b": 4.0})
    model = CostModel(7.0, (Term(10.0, (a,)), Term(3.0, (a, b, Extent(9, {})))))
    assert model.total({"a": 5, "b": 6}) == 7 + 10 * 5 + 3 * 5 * (2 + 4 * 6) * 9
    np.testing.assert_array_equal(model.of_group("a", np.array([1, 2]), {"a": 9, "b": 0}), [10 + 54, 20 + 108])
    np.testing.assert_array_equal(model.of_group("b", np.array([0, 1]), {"a": 1, "b": 9}), [54, 162])


def test_independent_groups_add_up() -> None:
    model = CostModel(1.0, (Term(2.0, (Extent(0, {"a": 1.0}),)), Term(5.0, (Extent(0, {"b": 1.0}),))))
    np.testing.assert_array_equal(model.of_group("a", np.array([1, 3]), {"a": 0, "b": 100}), [2, 6])


def test_a_group_on_both_axes_of_a_weight_counts_squared() -> None:
    a = Extent(1, {"a": 1.0})
    np.testing.assert_array_equal(CostModel(0, (Term(2, (a, a)),)).of_group("a", np.array([1, 2]), {"a": 5}), [8, 18])
