"""What a model must be fed: its inputs, sizes that it runs with, and how many samples it takes at a time."""

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import build

from compress.api import Options, prune
from graph.errors import ModelError, ShapeError
from graph.inputs import (
    InputSpec,
    example_feeds,
    example_inputs,
    fixed_batch,
    input_specs,
    sample_axes,
    settle,
    stand_in,
    takes_several,
)
from graph.runtime import run, session

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)


def one_size(side: int, channels: str = "C") -> ir.Model:
    """Return a network with a free size whose head fits one size only."""
    return build(f"""(float[N,{channels},H,W] x) => (float[N,10] y)
    <int64[2] flat = {{0,-1}}, float[4,3,1,1] w, float[10,{4 * side * side}] m> {{
        c = Conv(x, w)
        f = Reshape(c, flat)
        y = Gemm<transB=1>(f, m)
    }}""")


def test_specs_leave_dynamic_dimensions_open_and_initializers_out() -> None:
    model = build("(float[N,3,H,8] x) => (float[N,3,H,8] y) <float[1] one = {1}> { y = Add(x, one) }")
    model.graph.inputs.append(model.graph.initializers["one"])  # as IR version 3 requires
    assert input_specs(model) == (InputSpec("x", (None, 3, None, 8), FLOAT),)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("float[N,3,H,W] x", (2, 3, 224, 224)),
        ("float[N,3,32,32] x", (2, 3, 32, 32)),
        ("float[1,3,32,32] x", (1, 3, 32, 32)),
        ("float[N,L] x", (2, 512)),
        ("float[N,3,T,H,W] x", (2, 3, 16, 16, 16)),
        ("float[2,N,4] x, float[N] other", (2, 2, 4)),
    ],
)
def test_example_shapes(declared: str, shape: tuple[int, ...]) -> None:
    assert example_inputs(build(f"({declared}) => (float y) {{ y = ReduceMax(x) }}"), batch=2)["x"].shape == shape


@pytest.mark.parametrize("side", [224, 320, 48, 28])
def test_sizes_are_found_by_trying(side: int) -> None:
    model = one_size(side)
    (settled,) = settle(model, input_specs(model))
    assert settled.sizes == (1, 3, side, side)  # the channels are those that the convolution reads
    assert settled.shape == (None, None, None, None)
    run(session(model), example_feeds((settled,), batch=2))


def test_a_size_that_cannot_be_found_is_asked_for() -> None:
    with pytest.raises(ModelError, match=r"no size was found that the model runs with; give --shape for x: .*Gemm"):
        example_inputs(one_size(13))
    given = example_inputs(one_size(13), shapes={"x": (1, 3, 13, 13)}, batch=4)
    assert given["x"].shape == (4, 3, 13, 13)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3, 8, 8)}, "'z', which is no input; the model has x"),
        ({"x": (1, 4, 8, 8)}, r"input x has the shape \?×3×\?×\?; it cannot be 1×4×8×8"),
        ({"x": (1, 3, 8)}, "it cannot be 1×3×8"),
    ],
)
def test_shapes_that_contradict_the_model_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        input_specs(one_size(8, "3"), shapes)


def test_examples_are_seeded() -> None:
    model = build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    one, two, other = (example_inputs(model, seed=seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("name", "value"), [("sr", 16000), ("input_lengths", 512), ("attention_mask", 1), ("input_ids", 0)]
)
def test_integers_are_filled_by_their_name(name: str, value: int) -> None:
    specs = (InputSpec("x", (None, None, 80), FLOAT), InputSpec(name, (None,), INT))
    assert stand_in(specs[1], specs) == value
    assert (example_feeds(specs)[name] == value).all()


@pytest.mark.parametrize(
    ("shapes", "batch", "axes"),
    [
        ([(None, 3)], None, [0]),
        ([(4, 3)], 4, [0]),
        ([(4, 3), ()], 4, [0, None]),
        ([(2, None, 64), (8, 3)], 8, [1, 0]),
        ([(1, 3), (1, 5)], 1, [0, 0]),
        ([(1, 512), (2, 1, 64)], 1, [0, 1]),  # a recurrent state, its number of samples stated
        ([(1, 3, 32, 32), (3,)], 1, [0, None]),  # a vector of settings
        ([(None, 80), (2, 1, 64), (3,)], None, [0, None, None]),
    ],
)
def test_samples_lie_along(shapes: list[tuple[int | None, ...]], batch: int | None, axes: list[int | None]) -> None:
    specs = [InputSpec(f"x{i}", shape, FLOAT) for i, shape in enumerate(shapes)]
    assert fixed_batch(specs) == batch
    assert list(sample_axes(specs).values()) == axes


def test_sequence_inputs_are_refused() -> None:
    model = build("(seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }")
    with pytest.raises(ModelError, match="input x is not a tensor of numbers"):
        input_specs(model)


def test_an_input_that_asks_for_terabytes_is_refused() -> None:
    model = build("(float[1000000,1000000] x) => (float y) { y = ReduceMax(x) }")
    with pytest.raises(ModelError, match="input x of shape"):
        example_inputs(model)


ONE_AT_A_TIME = """(float[N,3,6,6] x) => (float[1,10] y) <int64[2] flat = {1,288}, float[8,3,3,3] v, float[10,288] m> {
    c = Conv<pads=[1,1,1,1]>(x, v)
    r = Relu(c)
    f = Reshape(r, flat)
    y = Gemm<transB=1>(f, m)
}"""


def test_a_batch_that_is_free_by_name_only_is_found_out_and_lived_with() -> None:
    model = build(ONE_AT_A_TIME)
    assert takes_several(model, example_inputs(model))
    assert not takes_several(model, example_inputs(model, batch=2))
    result = prune(model, 0.6, None, Options(samples=10), latency=False)
    assert "the model leaves the number of samples free, but runs with one at a time only" in result.report.notes
    assert [str(size) for size in result.model.graph.inputs[0].shape or ()] == ["N", "3", "6", "6"]


def test_a_size_that_is_asked_for_is_pruned_at() -> None:
    result = prune(one_size(13), 0.6, None, Options(samples=4, shapes={"x": (1, 3, 13, 13)}), latency=False)
    assert result.report.before.macs == 13 * 13 * 12 + 10 * 4 * 13 * 13
