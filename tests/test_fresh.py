"""New weights: of the right size, the same for the same seed, and those of norms neutral."""

import numpy as np
import pytest
from small_graphs import build
from training_nets import residual, whole

from compress.training.fresh import fresh
from compress.training.network import Network

KINDS = """(float[N,8,9,9] x) => (float[N,6] y) <
    float[64,2,3,3] conv, float[64] conv_bias, float[64] slope, float[64,16,2,2] transposed, float[32] transposed_bias,
    float[32] scale, float[32] shift, float[48,32] gemm, float[48] gemm_bias, float[48,6] product, float[6] product_bias
> {
    a = Conv <group = 4> (x, conv, conv_bias)
    b = PRelu (a, slope_of_channels)
    c = ConvTranspose <group = 2> (b, transposed, transposed_bias)
    d = InstanceNormalization (c, scale, shift)
    e = GlobalAveragePool (d)
    f = Flatten (e)
    g = Gemm <transB = 1> (f, gemm, gemm_bias)
    h = MatMul (g, product)
    y = Add (h, product_bias)
}""".replace("float[64] slope", "float[64,1,1] slope").replace("slope_of_channels", "slope")


def kinds() -> Network:
    return Network.of(build(KINDS), {"x": np.ones((2, 8, 9, 9), np.float32)})


def test_weights_have_the_variance_of_their_fan_and_the_rest_is_neutral() -> None:
    network = kinds()
    fresh(network, 0)
    state = network.state()
    fans = {"conv": 64 // 4 * 9, "transposed": 16 * 4, "gemm": 32, "product": 48}
    for name, fan in fans.items():
        assert state[name].std() == pytest.approx(np.sqrt(2 / fan), rel=0.1), name
        assert abs(state[name].mean()) < 0.2 * state[name].std()
    neutral = {"slope": 0.25, "scale": 1.0} | dict.fromkeys(
        ("conv_bias", "transposed_bias", "shift", "gemm_bias", "product_bias"), 0.0
    )
    assert fans.keys() | neutral.keys() == state.keys()
    for name, number in neutral.items():
        assert (state[name] == number).all(), name


def test_statistics_start_anew() -> None:
    network = whole(residual())
    fresh(network, 0)
    for name, array in network.state().items():
        if name.startswith(("mean", "var", "scale", "bias")):
            assert (array == float(name.startswith(("var", "scale")))).all(), name


def test_the_seed_alone_decides() -> None:
    drawn = []
    for seed, changed in ((1, False), (1, True), (2, False)):
        network = kinds()
        if changed:
            network.load({name: array + 1 for name, array in network.state().items()})
        fresh(network, seed)
        drawn.append({name: array.tobytes() for name, array in network.state().items()})
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2]
