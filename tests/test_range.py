"""The warning about data in a range that the model was not trained on."""

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from calibrate import PRESETS, open_source
from calibrate.range import range_warning
from graph.inputs import input_specs
from graph.model import load

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real networks and images are not beside the checkout")

# a convolution that adds 1 and doubles: of standard normal inputs it makes mean 1 and variance 4
MODEL = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y)
    <float[2, 2, 1, 1] w = {{2, 0, 0, 2}}, float[2] b = {{1, 1}}, float[2] one = {{1, 1}},
     float[2] mean = {{{mean}, {mean}}}, float[2] var = {{{var}, {var}}}>
    {{ c = Conv(x, w, b) {last} }}
"""
NORM = "y = BatchNormalization(c, one, one, mean, var)"


def warning(values, mean=1, var=4, last=NORM):
    model = ir.from_proto(onnx.parser.parse_model(MODEL.format(mean=mean, var=var, last=last)))
    return range_warning(model, open_source(values.astype(np.float32), input_specs(model)))


@pytest.mark.parametrize(
    ("scale", "shift", "warned"),
    [(1, 0, False), (1.6, 0, False), (0.6, 0.5, False), (60, 0, True), (1 / 60, 0, True), (1, 10, True)],
)
def test_only_values_far_off_are_warned_of(scale, shift, warned):
    values = np.random.default_rng(0).standard_normal((32, 2, 6, 6)) * scale + shift
    assert (warning(values) is not None) == warned


def test_the_warning_says_how_far():
    text = warning(np.random.default_rng(0).standard_normal((500, 2, 6, 6)) * 10)
    assert "times, and the mean" in text and "--preprocess" in text
    assert 80 < float(text.split("the variance is ")[1].split(" times")[0]) < 120


@pytest.mark.parametrize(("mean", "var", "last"), [(0, 1, NORM), (1, 4, "y = Relu(c)")])
def test_nobody_can_tell_without_statistics(mean, var, last):
    assert warning(np.full((4, 2, 6, 6), 1e6), mean, var, last) is None


@pytest.mark.parametrize("batch", [1, 5, 16, 20])
def test_a_fixed_batch_is_fed_whole(batch):
    text = MODEL.replace("float[N", f"float[{batch}").format(mean=1, var=4, last=NORM)
    model = ir.from_proto(onnx.parser.parse_model(text))
    values = np.random.default_rng(0).standard_normal((21, 2, 6, 6)).astype(np.float32)
    for scale, warned in ((1, False), (60, True)):
        source = open_source(scale * values, input_specs(model))
        assert (range_warning(model, source, batch) is not None) == warned


@needs_data
@pytest.mark.parametrize(("preset", "warned"), [("cifar10", False), ("raw", True), ("unit", True)])
@pytest.mark.parametrize("data", ["cifar10/calibration.npz", None])
def test_real_network(data, preset, warned):
    model = load(DATA / "networks" / "resnet56_cifar10_bn.onnx")
    source = open_source(data and DATA / data, input_specs(model), PRESETS[preset], samples=32)
    assert (range_warning(model, source) is not None) == warned
