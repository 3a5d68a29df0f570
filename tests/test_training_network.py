"""A network in training: what moves, that ONNX Runtime agrees, and that nothing is lost where channels go."""

import numpy as np
import pytest
import torch
from small_graphs import build, random_plan
from training_nets import RESIDUAL, cut, residual, runtime, samples, train, whole, without

from compress.training.network import narrowed
from compress.training.optimiser import MOMENTUM, Optimiser
from graph.analysis import analyse
from graph.channels import Channels
from graph.errors import ModelError
from graph.plan import Plan
from graph.shrink import mask as masked
from graph.shrink import shrink


def nested(channels: Channels, seed: int, gone: str = "") -> tuple[Plan, Plan]:
    """Two random plans, the second of which removes what the first does, and more."""
    rng = np.random.default_rng(seed)
    first, second = random_plan(channels, rng, 0.8), random_plan(channels, rng, 0.6)
    if gone:
        first.keep[gone][:] = False
    keep = {name: mask & second.keep[name] for name, mask in first.keep.items()}
    for name, mask in keep.items():
        if first.keep[name].any() and not mask.any():
            mask[np.flatnonzero(first.keep[name])[0]] = True
    return first, Plan(keep)


def test_what_moves() -> None:
    network = whole(residual())
    assert set(network.leaves) == {
        *("w1", "scale1", "bias1", "w2", "b2", "scale2", "bias2", "w3", "scale3", "bias3", "w4", "b4"),
        *(name for name in network.leaves if name.endswith("_bias")),  # of Convs that had none
    }
    assert set(network.buffers) == {f"{kind}{number}" for kind in ("mean", "var") for number in (1, 2, 3)}
    assert list(network.leaves) == sorted(network.leaves)
    moving = {name for name, value in network.torch.parameters.items() if value.requires_grad}
    assert moving == set(network.leaves) and not network.notes


def test_runs_as_onnx_runtime_does_what_is_written() -> None:
    network = whole(residual())
    train(network, Optimiser(network.leaves, 1e-3), range(3))
    x = samples(4, 9)
    with torch.no_grad():
        found = network.run({"x": torch.from_numpy(x)}, training=False)["y"].numpy()
    np.testing.assert_allclose(found, runtime(network.written(), x), rtol=1e-4, atol=1e-4)
    untrained = runtime(network.model, x)
    assert abs(found - untrained).max() > 1e-2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("gone", ["", "c2"])
def test_narrowed_is_what_a_cut_of_the_trained_original_has(seed: int, gone: str) -> None:
    analysis = residual()
    channels = analysis.channels
    network = whole(analysis)
    train(network, Optimiser(network.leaves, 0), range(2))
    everything, (first, second) = Plan.everything(channels), nested(channels, seed, gone)
    once = without(network, analysis, everything, second)
    twice = without(without(network, analysis, everything, first), analysis, first, second)
    x = samples(4, 9)
    expected = runtime(shrink(network.written(), channels, second), x)
    for found in (once, twice):
        np.testing.assert_array_equal(runtime(found.model, x), expected)
        np.testing.assert_array_equal(runtime(found.written(), x), expected)


def test_a_constant_that_a_branch_leaves_is_trained_and_stays() -> None:
    analysis = residual()
    channels = analysis.channels
    first, second = nested(channels, 0, "c2")
    network = without(whole(analysis), analysis, Plan.everything(channels), first)
    assert "n3" in network.leaves and "w3" not in network.leaves
    before = network.state()["n3"]
    train(network, Optimiser(network.leaves, 0), range(2))
    after = network.state()["n3"]
    assert abs(after - before).max() > 1e-3
    narrow = without(network, analysis, first, second)
    kept = second.keep["c1"][first.keep["c1"]]
    for each in (narrow, cut(analysis, second, narrow.state())):
        np.testing.assert_array_equal(each.state()["n3"], after[:, kept])


def test_a_constant_that_another_layer_takes_up_is_not_lost() -> None:
    """Once, and not again with the next removal: what comes out is the network without these channels' weights."""
    analysis = residual("""(float[N,3,8,8] x) => (float[N,5] y) <
        float[8,3,3,3] w1, float[8] b1, float[6,8,3,3] w2, float[6] b2, float[8,6,1,1] w3, float[8] b3,
        float[5,8,1,1] w4, float[5] b4
    > {
        c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1,1,1,1]> (r1, w2, b2)
        r2 = Relu (c2)
        c3 = Conv (r2, w3, b3)
        s = Add (c3, c1)
        r3 = Relu (s)
        p = GlobalAveragePool (r3)
        c4 = Conv (p, w4, b4)
        y = Flatten (c4)
    }""")
    channels, x, rng = analysis.channels, samples(4), np.random.default_rng(5)
    network = whole(analysis)
    network.load(
        {name: array + rng.normal(0, 0.3, array.shape).astype(np.float32) for name, array in network.state().items()}
    )
    trained = network.written()
    first, second = nested(channels, 1, "c2")
    narrow = without(network, analysis, Plan.everything(channels), first)
    assert "b3" not in narrow.leaves and "Add" not in {node.op_type for node in narrow.model.graph}
    for found, plan in ((narrow, first), (without(narrow, analysis, first, second), second)):
        expected = runtime(masked(trained, channels, plan), x)
        np.testing.assert_allclose(runtime(found.written(), x), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_stays_where_the_original_would_leave_none() -> None:
    """Where the branch added nothing in the file, but did when it went."""
    zeros = f"= {{{', '.join(8 * '0')}}}"
    analysis = residual(RESIDUAL.replace("scale3,", f"scale3 {zeros},", 1).replace("bias3,", f"bias3 {zeros},", 1))
    first, second = nested(analysis.channels, 0, "c2")
    start = whole(analysis)
    start.load(start.state() | {"bias3": np.arange(8, dtype=np.float32)})
    network = without(start, analysis, Plan.everything(analysis.channels), first)
    narrow = without(network, analysis, first, second)
    for each in (narrow, cut(analysis, second, narrow.state())):
        np.testing.assert_array_equal(each.state()["n3"].ravel(), np.flatnonzero(second.keep["c1"]))


def test_momentum_is_narrowed_like_the_weights() -> None:
    analysis = residual()
    channels = analysis.channels
    network = whole(analysis)
    optimiser = Optimiser(network.leaves, 0)
    train(network, optimiser, range(2))
    plan, _ = nested(channels, 1)
    momentum = narrowed(optimiser.state(), channels, frozenset(), plan.removed(channels))
    keep = plan.keep
    for name, axes in {"w1": (keep["c1"], None), "w2": (keep["c2"], keep["c1"]), "w4": (keep["c1"], None)}.items():
        expected = optimiser.state()[name]
        for axis, mask in enumerate(axes):
            expected = expected if mask is None else expected[(slice(None),) * axis + (mask,)]
        np.testing.assert_array_equal(momentum[name], expected)
    narrow = without(network, analysis, Plan.everything(channels), plan)
    follower = Optimiser(narrow.leaves, 0)
    follower.load(momentum)
    assert follower.state().keys() == optimiser.state().keys() == narrow.leaves.keys()


@pytest.mark.parametrize("removed", [False, True])
def test_goes_on_to_the_same_bits(removed: bool) -> None:
    """Also where channels have gone, a whole branch among them."""
    analysis = residual()
    channels = analysis.channels
    plan = nested(channels, 2, "c2")[0] if removed else Plan.everything(channels)
    network = without(whole(analysis), analysis, Plan.everything(channels), plan)
    optimiser = Optimiser(network.leaves, 1e-3)
    train(network, optimiser, range(3))
    state, momentum = network.state(), optimiser.state()
    train(network, optimiser, range(3, 6))

    resumed = cut(analysis, plan, state)
    follower = Optimiser(resumed.leaves, 1e-3)
    follower.load(momentum)
    train(resumed, follower, range(3, 6))
    for one, other in ((network.state(), resumed.state()), (optimiser.state(), follower.state())):
        assert {name: array.tobytes() for name, array in one.items()} == {
            name: array.tobytes() for name, array in other.items()
        }
    assert network.state()["w1"].tobytes() != state["w1"].tobytes()

    resumed.load(state)
    assert resumed.state()["w1"].tobytes() == state["w1"].tobytes()


def test_what_does_not_fit_is_not_loaded() -> None:
    network = whole(residual())
    state = network.state()
    with pytest.raises(ModelError, match=r"initializer w1 is torch.float32\[8, 3, 3, 3\], not"):
        network.load(state | {"w1": state["w1"][1:]})
    del state["mean2"]
    with pytest.raises(ModelError, match="mean2 of the network is missing"):
        network.load(state)
    with pytest.raises(ModelError, match=r"momentum of w1 is \[7, 3, 3, 3\], the weight \[8, 3, 3, 3\]"):
        Optimiser(network.leaves, 0).load({"w1": state["w1"][1:]})


def test_shared_weights_are_one_leaf() -> None:
    model = build("""(float[N,4] x) => (float[N,4] y) <float[4,4] w> {
        a = MatMul (x, w)
        r = Relu (a)
        y = MatMul (r, w)
    }""")
    network = whole(analyse(model))
    assert list(network.leaves) == ["w"]
    x = torch.rand(3, 4)
    network.run({"x": x}, training=True)["y"].sum().backward()
    w = torch.from_numpy(network.state()["w"]).requires_grad_()
    ((x @ w).relu() @ w).sum().backward()
    torch.testing.assert_close(network.leaves["w"].grad, w.grad)


def test_what_no_gradient_reaches_is_no_leaf() -> None:
    model = build("""(float[N,4] x) => (float[N,6] y) <float[4,4] w1, float[4,6] w2> {
        a = MatMul (x, w1)
        h = Hardmax (a)
        y = MatMul (h, w2)
    }""")
    network = whole(analyse(model))
    assert list(network.leaves) == ["w2"]
    assert network.notes == (
        "1 weights are not trained (the first: w1), as no gradient reaches them: none passes through Hardmax h, which "
        "runs in ONNX Runtime",
    )
    with pytest.raises(ModelError, match=r"1 weights are not trained \(the first: w1\).*Hardmax y"):
        whole(
            analyse(
                build("""(float[N,4] x) => (float[N,4] y) <float[4,4] w1> {
            a = MatMul (x, w1)
            y = Hardmax (a)
        }""")
            )
        )


def test_one_step_is_the_formula() -> None:
    """Nesterov's momentum, and weight decay on what is a matrix."""
    leaves = {"w": torch.tensor([[1.0, -2.0], [3.0, 4.0]]).requires_grad_(), "b": torch.ones(1, 2).requires_grad_()}
    optimiser = Optimiser(leaves, 0.1)
    expected = {name: leaf.detach().double().numpy() for name, leaf in leaves.items()}
    speed = {name: np.zeros_like(value) for name, value in expected.items()}
    for rate in (0.5, 0.2, 0.1):
        for name, value in expected.items():
            gradient = 2 * value + (0.1 * value if name == "w" else 0)
            speed[name] = MOMENTUM * speed[name] + gradient
            expected[name] = value - rate * (gradient + MOMENTUM * speed[name])
        optimiser.backward(sum((leaf.square().sum() for leaf in leaves.values()), torch.zeros(())))
        assert len(optimiser.gradients()) == 2
        optimiser.step(rate)
        assert not optimiser.gradients()
    for name, leaf in leaves.items():
        np.testing.assert_allclose(leaf.detach().numpy(), expected[name], rtol=1e-5)
        np.testing.assert_allclose(optimiser.state()[name], speed[name], rtol=1e-5)
    assert optimiser.scaling == {}
