"""The repair of one consumer: exact where an exact answer exists, and never worse than the plain slice."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from calibrate.least_squares import Factor, MatrixFactor, RowsFactor, SingularSystem
from compress import repair as module
from compress.repair import Activation, Repair, Rows, repair

LINEAR = Activation(None, None, -torch.inf, torch.inf)
RELU = Activation(None, None, 0.0, torch.inf)
CLIP = Activation(None, None, 0.0, 1.0)


def inputs(seed: int, n: int = 300, d: int = 6, groups: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, n, d, generator=generator)
    x[..., -1] = 1
    return x


def weights(seed: int, d: int = 6, k: int = 4, groups: int = 1) -> Tensor:
    return torch.randn(groups, d, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(x: Tensor, w: Tensor) -> Rows:
    return Rows(x, (x.double() @ w).float(), None)


def noisy(seed: int, n: int, noise: float = 1.0, wanted: Tensor | None = None) -> Rows:
    """Return rows whose targets follow the same weights, up to noise."""
    wanted = weights(99) if wanted is None else wanted
    exact = rows(inputs(seed, n, wanted.shape[1]), wanted)
    added = noise * torch.randn(exact.t.shape, generator=torch.Generator().manual_seed(seed))
    return replace(exact, t=exact.t + added)


def error_after(held: Rows, w: Tensor, activation: Activation) -> float:
    """Return Σ |act(p) − act(t)|² ÷ Σ |t − t̄|² by numpy."""
    p = held.x.double().numpy() @ w.numpy()
    if activation.scale is not None and activation.shift is not None:
        p = p * activation.scale.numpy() + activation.shift.numpy()
    if held.s is not None:
        p = p + held.s.numpy()
    t = held.t.double().numpy()
    act = (np.clip(v, activation.low, activation.high) for v in (p, t))
    difference = next(act) - next(act)
    return float((difference**2).sum() / ((t - t.mean(1, keepdims=True)) ** 2).sum())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("activation", [LINEAR, RELU], ids=["linear", "relu"])
def test_weights_that_exist_are_found(activation: Activation, groups: int) -> None:
    wanted = weights(1, groups=groups)
    found, record = repair(
        "node",
        rows(inputs(2, groups=groups), wanted),
        rows(inputs(3, groups=groups), wanted),
        activation,
        torch.zeros_like(wanted),
    )
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert record.error < 1e-8 < record.slice_error and record.note == ""


def test_the_target_is_at_the_end_of_the_affine_map_and_the_shortcut() -> None:
    wanted = weights(4)
    activation = Activation(torch.tensor([[[2.0, -0.5, 3.0, 1.0]]]), torch.tensor([[[1.0, 0, -2.0, 5.0]]]), 0.0, 6.0)

    def at_the_end(x: Tensor) -> Rows:
        s = torch.randn(1, x.shape[1], 4, generator=torch.Generator().manual_seed(x.shape[1]))
        assert activation.scale is not None and activation.shift is not None
        return Rows(x, (rows(x, wanted).t * activation.scale + activation.shift + s), s)

    fit, held = at_the_end(inputs(5)), at_the_end(inputs(6, n=100))
    found, record = repair("node", fit, held, activation, torch.zeros_like(wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    assert record.error < 1e-6
    assert record.error == pytest.approx(error_after(held, found, activation), rel=0.05, abs=1e-12)


@pytest.mark.parametrize("activation", [LINEAR, RELU, CLIP], ids=["linear", "relu", "clip"])
@pytest.mark.parametrize(("n", "seed"), [(4, 0), (7, 1), (20, 2), (200, 3)])
def test_never_worse_than_the_slice_on_held_out_rows(n: int, seed: int, activation: Activation) -> None:
    held, prior = noisy(100 + seed, 50), weights(99) + 0.1 * weights(98)
    found, record = repair("node", noisy(seed, n), held, activation, prior)
    assert record.slice_error == pytest.approx(error_after(held, prior, activation), rel=1e-4)
    assert error_after(held, found, activation) <= record.error * (1 + 1e-4)  # held-out rows join the last fit
    assert record.error <= record.slice_error
    assert (record.ridge is None) == bool(record.note) == torch.equal(found, prior)


def test_a_slice_that_no_fit_betters_is_kept() -> None:
    prior = weights(7)
    held = rows(inputs(9), prior)
    held.t[:] += 0.01
    found, record = repair("node", noisy(8, 5, noise=9.0), held, LINEAR, prior)
    assert torch.equal(found, prior)
    assert record == Repair("node", record.slice_error, record.slice_error, None, 0, record.note)
    assert record.note == "no fit was better on held-out images; the plain slice was kept"


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_singular_system_keeps_the_slice_and_says_so(value: float) -> None:
    """Inputs that are always 0 (dead channels), or that overflowed."""
    x = inputs(10)
    x[..., :-1] = value
    t = torch.randn(1, 300, 4, generator=torch.Generator().manual_seed(11))
    found, record = repair("node", Rows(x, t, None), Rows(x, t, None), RELU, weights(12))
    assert torch.equal(found, weights(12))
    assert record.ridge is None and record.note == "every fit was singular; the plain slice was kept"


def test_any_negative_output_will_do_where_the_target_is_negative() -> None:
    wanted, prior = weights(13), weights(14)
    fit, held = rows(inputs(15), wanted), rows(inputs(16), wanted)

    # what lies below 0 is moved at random: nobody behind a Relu sees the difference
    def moved(given: Rows, seed: int) -> Rows:
        low = -5 * torch.rand(given.t.shape, generator=torch.Generator().manual_seed(seed))
        return replace(given, t=torch.where(given.t < 0, low, given.t))

    _, blind = repair("node", moved(fit, 17), moved(held, 18), LINEAR, prior)
    found, seeing = repair("node", moved(fit, 17), moved(held, 18), RELU, prior)
    assert seeing.repetitions > 0
    assert seeing.error < 0.1 * blind.error
    assert error_after(held, found, RELU) < 0.1 * error_after(held, prior, RELU)


@pytest.mark.parametrize("activation", [RELU, CLIP], ids=["relu", "clip"])
@pytest.mark.parametrize("seed", range(4))
def test_repetitions_do_no_harm(seed: int, activation: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, held, prior = noisy(seed, 100), noisy(50 + seed, 60), weights(20 + seed)
    _, repeated = repair("node", fit, held, activation, prior)
    monkeypatch.setattr(module, "REPETITIONS", 0)
    _, once = repair("node", fit, held, activation, prior)
    assert once.repetitions == 0
    assert repeated.error <= once.error


def test_few_rows_stay_near_the_slice() -> None:
    """With fewer rows than unknowns, the ridge chosen keeps what the rows do not speak of."""
    prior = weights(99) + 0.05 * weights(30)
    found, record = repair("node", noisy(31, 3, noise=0.05), noisy(32, 200, noise=0.05), LINEAR, prior)
    assert record.error < record.slice_error
    assert float((found - prior).abs().max()) < 0.5


def too_low(n: int) -> tuple[Tensor, Rows, Rows]:
    """Return a prior all of whose outputs are too low, n noisy rows to fit, and many to judge by."""
    prior = weights(50, d=200)
    wanted = prior.clone()
    wanted[:, -1] += 20
    return prior, noisy(51, n, 10, wanted), noisy(52, 400, 10, wanted)


def test_a_shift_is_mended_though_rows_are_few_and_noisy() -> None:
    """What hundreds of unknowns lose is noise to a few dozen rows; that all outputs are too low is plain to see."""
    prior, fit, held = too_low(40)
    found, record = repair("node", fit, held, LINEAR, prior)
    only_bias = prior.clone()
    only_bias[:, -1] += (held.t.double() - held.x.double() @ prior).mean(1)
    assert record.error < 1.1 * error_after(held, only_bias, LINEAR) < 0.5 * record.slice_error
    assert error_after(held, found, LINEAR) < 0.5 * record.slice_error


@pytest.mark.parametrize(("n", "better", "taken"), [(20, 0.92, False), (40, 0.8, True)])
def test_a_large_ridge_serves_only_where_it_is_clearly_better(
    n: int, better: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, fit, held = too_low(n)
    _, record = repair("node", fit, held, LINEAR, prior)
    errors = {}
    for ridge in module.RIDGES + module.LARGE_RIDGES:
        monkeypatch.setattr(module, "RIDGES", (ridge,))
        monkeypatch.setattr(module, "LARGE_RIDGES", (ridge,))
        errors[ridge] = repair("node", fit, held, LINEAR, prior)[1].error
    usual, large = min(errors[r] for r in errors if r < 1), min(errors[r] for r in errors if r >= 1)
    assert large == pytest.approx(better * usual, rel=0.01)
    assert record.error == (large if taken else usual)


def test_a_fit_that_only_large_ridges_make_is_not_called_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_RIDGES", (1.0,))
    monkeypatch.setattr(module, "Factor", SimpleNamespace(of=singular_below_one))
    rising = inputs(61)
    fit, held, prior = rows(rising, weights(62)), rows(rising, weights(63)), weights(63) + 1e-3
    found, record = repair("node", fit, held, LINEAR, prior)
    assert torch.equal(found, prior)
    assert record.note == "no fit was better on held-out images; the plain slice was kept"


def singular_below_one(xx: Tensor, ridge: float) -> MatrixFactor | RowsFactor:
    if ridge < 1:
        raise SingularSystem(f"at {ridge:g}")
    return Factor.of(xx, ridge)


def test_a_slice_that_is_exact_needs_no_words() -> None:
    prior = weights(40)
    exact = rows(inputs(41), prior)
    found, record = repair("node", exact, exact, RELU, prior)
    assert torch.equal(found, prior)
    assert record == Repair("node", record.slice_error, record.slice_error, None, 0)


def test_held_out_rows_take_part_in_the_last_fit_unless_they_judge_what_follows() -> None:
    fit, held, prior = noisy(1, 60), noisy(2, 40), torch.zeros_like(weights(99))
    for hold_out in (False, True):
        found, record = repair("node", fit, held, LINEAR, prior, hold_out=hold_out)
        parts = (fit,) if hold_out else (fit, held)
        x = np.concatenate([part.x.numpy()[0] for part in parts])
        t = np.concatenate([part.t.numpy()[0] for part in parts])
        xx = x.T.astype(float) @ x
        assert record.ridge is not None
        damping = record.ridge * np.diag(xx)[:-1].mean() * np.diag([1.0] * 5 + [0.0])
        expected = np.linalg.solve(xx + damping, x.T.astype(float) @ t)
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_without_held_out_rows_those_of_the_fit_decide() -> None:
    fit, prior = noisy(33, 50), weights(34)
    nothing = Rows(fit.x[:, :0], fit.t[:, :0], None)
    found, record = repair("node", fit, nothing, LINEAR, prior)
    again, same = repair("node", fit, fit, LINEAR, prior)
    assert torch.equal(found, again) and record == same


def test_a_column_of_zeros_stands_for_no_bias() -> None:
    wanted = weights(35)
    wanted[:, -1] = 0
    fit, held = rows(inputs(36), wanted), rows(inputs(37), wanted)
    for given in (fit, held):
        given.x[..., -1] = 0
    prior = torch.zeros_like(wanted)
    found, _ = repair("node", fit, held, LINEAR, prior)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not found[:, -1].any()


def test_a_target_that_never_varies_can_be_met() -> None:
    x = inputs(38)
    constant = Rows(x, torch.full((1, 300, 4), 2.0), None)
    found, record = repair("node", constant, constant, RELU, weights(39))
    assert record.error < 1e-5 < record.slice_error
    torch.testing.assert_close(found[0, -1], torch.full((4,), 2.0, dtype=torch.float64), rtol=1e-3, atol=1e-3)
