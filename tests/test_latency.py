"""Latency as a target: the tables choose, the clock decides, and what was off is mended or said."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from test_pipeline import CALIBRATION, job, macs, path
from test_report import timed

from calibrate.preprocess import PRESETS
from compress import Options, api, latency, prepare
from compress.cli import main
from compress.costs import macs_model
from compress.cut import choose
from compress.errors import OptionError
from compress.latency import Clock
from compress.onboard import Settings
from compress.profiling import multiples
from compress.progress import Timed, silent
from compress.searches import Problem
from compress.statistics import Ratio
from compress.targets import Target, Unreachable
from graph.analysis import Analysis

MODEL = "residual"


def machine(monkeypatch: pytest.MonkeyPatch, told: Callable[[float], float], real: Callable[[float], float]) -> None:
    """Put a machine in the place of this one: its tables tell one function of the share of MACs, its clock another."""

    def measured(made: tuple[Any, ...], _: Any) -> dict[str, Any]:
        analysis: Analysis = made[1]
        allowed: Mapping[str, np.ndarray] = made[2]
        cost = macs_model(analysis.channels, analysis.count, analysis.trace.shapes)
        rng = np.random.default_rng(0)
        networks = [{name: int(rng.choice(widths[widths > 0])) for name, widths in allowed.items()} for _ in range(20)]
        rows = [{"widths": w, "ratio": told(cost.total(w) / analysis.count.macs), "kernels": None} for w in networks]
        groups = {group.name: len(group.channels) for group in analysis.channels.groups}
        about = {"model": "digits", "groups": groups}
        return {"version": 1, "about": about, "machine": {}, "original_ms": 10.0, "networks": rows, "chains": {}}

    def ratio(clock: Clock, model: ir.Model) -> Ratio:
        value = real(macs(model) / macs(clock.original))
        return Ratio(value, value, value)

    monkeypatch.setattr(prepare, "kit", lambda *given: given)
    monkeypatch.setattr(prepare, "measured", measured)
    monkeypatch.setattr(Clock, "ratio", ratio)
    monkeypatch.setattr(multiples, "measured", lambda *_, **__: 4)


TRUTHS = {
    "as told": lambda share: 0.1 + 0.9 * share,
    "slower than told": lambda share: 0.3 + 0.7 * share,
    "faster than told": lambda share: 0.05 + 0.95 * share,
    "in steps": lambda share: 0.1 + 0.9 * np.ceil(share * 20) / 20,
}


@pytest.mark.parametrize(
    "truth", [truth if truth == "in steps" else pytest.param(truth, marks=pytest.mark.slow) for truth in TRUTHS]
)
def test_the_clock_holds_and_little_is_left_unused(truth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, TRUTHS["as told"], TRUTHS[truth])
    result = job(MODEL, Target("latency", 0.7, True))
    (asked,) = result.report.targets
    assert asked.met and asked.limit == pytest.approx(7.0)
    found = TRUTHS[truth](macs(result.model) / macs(path(MODEL)))
    assert 0.9 * 0.7 < found <= 0.7 and asked.reached == pytest.approx(10 * found)


def test_widths_are_multiples_of_what_the_machine_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, TRUTHS["as told"], TRUTHS["as told"])
    result = job(MODEL, Target("latency", 0.7, True))
    assert all(width.after % 4 == 0 for width in result.report.widths)
    free = job(MODEL, Target("latency", 0.7, True), round_to=1)
    assert any(width.after % 4 for width in free.report.widths)


def test_tables_that_mislead_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are noise and time goes with the MACs: no more is lost than by a target of MACs at that time."""
    rng = np.random.default_rng(3)
    machine(monkeypatch, lambda share: float(rng.uniform(0.3, 1.0)), TRUTHS["as told"])
    options = Options(preprocess=PRESETS["unit"], samples=48, round_to=4)
    examined = prepare.profiled(prepare.examine(path(MODEL), CALIBRATION, options, Timed(silent)), Timed(silent))
    prepared = prepare.prepare(examined, Timed(silent))

    def losing(*targets: Target) -> tuple[float, float]:
        limits = examined.limits(targets)
        plan, small = choose(prepared, limits, Timed(silent))
        problem = Problem(prepared.ranking.losses, examined.allowed, tuple(limit.budget for limit in limits))
        return problem.loss({name: int(mask.sum()) for name, mask in plan.keep.items()}), macs(small) / macs(
            path(MODEL)
        )

    loss, share = losing(Target("latency", 0.7, True))
    assert TRUTHS["as told"](share) <= 0.7
    assert loss <= losing(Target("macs", share, True))[0]


def test_a_machine_that_never_gets_faster_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, TRUTHS["as told"], lambda share: 1.02)
    with pytest.raises(Unreachable, match=r"0.7 of the original's latency was not reached: 10\.2 ms"):
        job(MODEL, Target("latency", 0.7, True))


def test_what_no_widths_can_reach_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, lambda share: 0.6 + 0.4 * share, TRUTHS["as told"])
    with pytest.raises(Unreachable, match=r"out of reach: the least .* ms of 10 ms"):
        job(MODEL, Target("latency", 0.5, True))


def test_a_latency_and_a_count_hold_together(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, TRUTHS["as told"], TRUTHS["as told"])
    result = job(MODEL, (Target("latency", 0.8, True), Target("macs", 0.5, True)))
    assert all(asked.met for asked in result.report.targets)
    assert macs(result.model) <= 0.5 * macs(path(MODEL))


def test_a_profile_of_another_machine_decides_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, TRUTHS["as told"], TRUTHS["as told"])
    kept: list[dict[str, Any]] = []
    here = prepare.measured
    monkeypatch.setattr(prepare, "measured", lambda *a, **k: kept.append(here(*a, **k)) or kept[-1])
    job(MODEL, Target("latency", 0.7, True))

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is measured here")

    monkeypatch.setattr(prepare, "measured", never)
    monkeypatch.setattr(Clock, "ratio", never)
    file = tmp_path / "board.json"
    file.write_text(json.dumps(kept[0]))
    with pytest.raises(OptionError, match="does not say what multiple"):
        job(MODEL, Target("latency", 0.7, True), profile=file)
    kept[0]["chains"] = {str(width): float(-(-width // 4)) for width in multiples.CHAIN_WIDTHS}
    file.write_text(json.dumps(kept[0]))
    result = job(MODEL, Target("latency", 0.7, True), profile=file)
    (asked,) = result.report.targets
    assert asked.met and 6.5 < asked.reached <= 7.0
    assert all(width.after % 4 == 0 for width in result.report.widths)


def test_a_provider_that_is_not_there_is_named() -> None:
    with pytest.raises(OptionError, match="'warp' is not in this ONNX Runtime"):
        job(MODEL, Target("latency", 0.7, True), provider="warp", round_to=4)


def test_the_clock_times_a_model_beside_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    from graph.model import load

    monkeypatch.setattr(latency, "SECONDS", 0.05)
    images = np.zeros((1, 1, 16, 16), np.float32)
    model = load(path(MODEL))
    found = Clock(model, {"input": images}, Settings(), 0).ratio(model)
    assert found.low <= found.value <= found.high


def test_the_command_ends_with_1_where_the_last_measurement_says_no(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, TRUTHS["as told"], TRUTHS["as told"])
    arguments = ["prune", str(path(MODEL)), "--target-latency", "0.7", "--data", CALIBRATION, "--samples", "48"]
    arguments += ["--preprocess", "unit", "--force", "-o", str(tmp_path / "small.onnx")]
    for ratio, code, words in (
        (Ratio(0.68, 0.67, 0.69), 0, "target latency ≤ 7 ms: reached, 6.8 ms"),
        (Ratio(0.71, 0.69, 0.73), 0, "reached within the interval of its measurement, 7.1 ms"),
        (Ratio(0.73, 0.71, 0.75), 1, "MISSED, 7.3 ms"),
    ):
        found = (timed(Ratio(1.0, 1.0, 1.0)), timed(ratio)), ()
        monkeypatch.setattr(api, "latencies", lambda *_, found=found: found)
        assert main(arguments) == code
        assert words in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-4", "4.5", "automatic", ""])
def test_a_multiple_is_a_number_or_auto(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(path(MODEL)), "--target-flops", "0.5", "--round-to", text]) == 2
    assert "give a number above 0, or auto" in capsys.readouterr().err
