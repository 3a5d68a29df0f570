"""BatchNormalization in training: torch's own module is the oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_graphs import build
from torch import Tensor, nn
from training_nets import one_of_several, residual, runtime, samples, whole

from compress.training.batch_norm import BatchNorm, estimate
from compress.training.network import Network
from graph.errors import ModelError

NORM = """(float[N,6,H,W] x) => (float[N,6,H,W] y) <float[6] scale, float[6] bias, float[6] mean, float[6] var> {
    y = BatchNormalization <momentum = 0.7, epsilon = 0.01> (x, scale, bias, mean, var)
}"""


def normalisation(text: str = NORM) -> Network:
    return Network.of(build(text), {"x": batch(2)})


def batch(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(30, 2, (number, 6, 3, 4)).astype(np.float32)


def twin(network: Network, momentum: float | None = 0.3) -> nn.BatchNorm2d:
    module, state = nn.BatchNorm2d(6, eps=0.01, momentum=momentum), network.state()
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    module.load_state_dict({theirs: torch.from_numpy(state[ours]) for theirs, ours in names.items()}, strict=False)
    return module


def check_against_torch(network: Network) -> None:
    module = twin(network).train()
    for seed in range(3):
        weight = torch.from_numpy(batch(5, 9))
        ours, theirs = (torch.from_numpy(batch(5, seed)).requires_grad_() for _ in range(2))
        found, expected = network.run({"x": ours}, training=True)["y"], module(theirs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for y in (found, expected):
            (y.relu() * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in (("scale", module.weight), ("bias", module.bias)):
        torch.testing.assert_close(network.leaves[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)
    for name, statistic in (("mean", module.running_mean), ("var", module.running_var)):
        assert isinstance(statistic, Tensor)
        torch.testing.assert_close(network.buffers[name], statistic, rtol=1e-6, atol=1e-6)


def test_is_that_of_torch() -> None:
    check_against_torch(normalisation())


def test_is_that_of_torch_over_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_of_several(tmp_path, monkeypatch):
        check_against_torch(normalisation())


def test_a_momentum_of_1_would_never_follow_the_weights() -> None:
    (norm,) = normalisation(NORM.replace("0.7", "1.0")).norms.values()
    assert norm == BatchNorm("y", "mean", "var", pytest.approx(0.01), pytest.approx(0.1))


def test_estimates_are_means_over_the_batches() -> None:
    network = normalisation()
    module = twin(network, momentum=None).train()
    parts = [batch(number, number) for number in (4, 5, 7)]
    with torch.no_grad():
        for part in parts:
            module(torch.from_numpy(part))
    estimate(network, ({"x": torch.from_numpy(part)} for part in parts))
    np.testing.assert_allclose(network.state()["mean"], module.running_mean, rtol=1e-5)
    np.testing.assert_allclose(network.state()["var"], module.running_var, rtol=1e-5)
    np.testing.assert_allclose(network.state()["mean"], np.mean([p.mean((0, 2, 3)) for p in parts], 0), rtol=1e-5)
    variances = [p.transpose(1, 0, 2, 3).reshape(6, -1).var(1, ddof=1) for p in parts]
    np.testing.assert_allclose(network.state()["var"], np.mean(variances, 0), rtol=1e-4)


def test_estimated_statistics_normalise_what_they_are_of() -> None:
    """In a network with several: with one batch, ONNX Runtime makes of it what training does."""
    network = whole(residual())
    before, x = network.state(), samples(256)
    estimate(network, [{"x": torch.from_numpy(x)}])
    after = network.state()
    assert {name for name in after if (after[name] != before[name]).any()} == set(network.buffers)
    with torch.no_grad():
        trained = network.run({"x": torch.from_numpy(x)}, training=True, share=0.0)["y"].numpy()
    np.testing.assert_allclose(runtime(network.written(), x), trained, atol=2e-3)


def test_a_network_without_it_is_not_run() -> None:
    network = Network.of(
        build("(float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul (x, w) }"),
        {"x": np.ones((2, 4), np.float32)},
    )
    estimate(network, (pytest.fail("a batch was taken") for _ in range(1)))


def test_one_number_per_channel_has_no_variance() -> None:
    message = r"BatchNormalization y sees \[1, 6, 1, 1\], one number per channel"
    with pytest.raises(ModelError, match=message):
        normalisation().run({"x": torch.ones(1, 6, 1, 1)}, training=True)
