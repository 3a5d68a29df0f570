"""`max_drop`: the least MACs that pass on samples of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_graphs import build

from compress import drop, ranking
from compress.api import Options, Result, prune
from compress.cut import Pruned
from compress.data import deal, open_samples
from compress.drop import CANDIDATES, Drop, fall
from compress.errors import OptionError
from compress.goal import Limit
from compress.measure import Comparison, OutputError
from compress.pipeline import prune_model, targets_of
from compress.prepare import Prepared
from compress.progress import Timed
from compress.targets import Target, Unreachable

SCORES = """(float[N,3,8,8] x) => (float[N,{classes}] y)
    <float[12,3,3,3] w1, float[12] b1, float[12,12,3,3] w2, float[12] b2, float[12,{classes}] w3> {{
        a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a)
        b = Conv (r, w2, b2) s = Relu (b)
        p = GlobalAveragePool (s) f = Flatten (p) y = MatMul (f, w3) }}"""


def images(count: int = 80) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)


def model(classes: int = 4) -> object:
    return build(SCORES.format(classes=classes))


def gated(max_drop: float, goal: object = None, data: object = None, classes: int = 4, **options: object) -> Pruned:
    chosen = Options(max_drop=max_drop, **options)  # type: ignore[arg-type]  # by keyword
    return prune_model(model(classes), goal, images() if data is None else data, chosen)  # type: ignore[arg-type]


def shares(pruned: Pruned) -> list[float]:
    assert pruned.drop is not None
    return [candidate.macs for candidate in pruned.drop.candidates]


def test_the_result_is_the_smallest_candidate_that_passed() -> None:
    pruned = gated(0.2)
    assert pruned.drop is not None and 4 <= len(pruned.drop.candidates) <= CANDIDATES
    passed = [candidate.macs for candidate in pruned.drop.candidates if candidate.passed]
    failed = [candidate.macs for candidate in pruned.drop.candidates if not candidate.passed]
    assert pruned.count.macs / pruned.analysis.original.macs == min(passed)
    assert all(share < min(passed) for share in failed)  # it is a bisection
    assert all(c.passed == (c.drop <= 0.2) for c in pruned.drop.candidates)
    judged = drop.judge(pruned)
    assert judged.samples == pruned.drop.samples == 16 and pruned.drop.judged == "agreement"
    assert fall(judged)[1] == next(c.drop for c in pruned.drop.candidates if c.macs == min(passed))


def test_all_is_calibrated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = ranking.collect

    def counted(*arguments: object, **named: object) -> object:
        calls.append(1)
        return original(*arguments, **named)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(ranking, "collect", counted)
    gated(0.3)
    assert calls == [1]


def test_a_share_that_cannot_be_reached_counts_as_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    original = drop.choose

    def chosen(prepared: Prepared, limits: Sequence[Limit], timed: Timed) -> object:
        if limits[-1].target.limit < 0.6:
            raise Unreachable("no such widths")
        return original(prepared, limits, timed)

    monkeypatch.setattr(drop, "choose", chosen)
    assert 0.5 < min(shares(gated(0.9))) <= 0.6


def test_targets_hold_besides_and_fail_first() -> None:
    pruned = gated(0.6, 0.4)
    assert pruned.count.macs <= 0.4 * pruned.analysis.original.macs
    assert [each.limit.target for each in pruned.reached] == [Target("macs", 0.4, True)]
    with pytest.raises(
        Unreachable, match=r"loses at most 0\.001 \(the largest relative error of an output\) was found"
    ):
        gated(0.001, 0.2, classes=1)


def test_the_drop_without_class_scores_is_the_relative_error() -> None:
    pruned = gated(0.3, classes=1)
    assert pruned.drop is not None and pruned.drop.resolution is None
    assert pruned.drop.judged == "the largest relative error of an output"
    assert 0 < fall(drop.judge(pruned))[1] <= 0.3


def test_labels_and_a_metric_are_what_falls() -> None:
    labels = np.arange(80) % 4

    def nearness(outputs: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], known: object) -> float:
        assert known is None or len(known) == len(outputs["y"])  # type: ignore[arg-type]  # an array
        return 5 - float(np.abs(outputs["y"] - references["y"]).mean())

    by_labels = gated(0.5, data={"images": images(), "labels": labels})
    assert by_labels.drop is not None and by_labels.drop.judged == "top-1"
    own = gated(0.1, data={"images": images(), "labels": labels}, metric=nearness)
    assert own.drop is not None and own.drop.judged == "the metric"
    assert drop.judge(own).metric_original == 5 and 4.9 <= (drop.judge(own).metric_other or 0) < 5


def report(result: Result) -> str:
    return " ".join((result.report.used_for, *result.report.notes))


def test_the_report_says_which_samples_served_for_what() -> None:
    result = prune(model(), None, images(), Options(max_drop=0.3), latency=False)  # type: ignore[arg-type]  # a model
    assert "of 80 samples 48 served for the fit, 8 for the search, 16 to judge the drop, 8 for this report" in report(
        result
    )
    assert result.report.samples == {"fit": 48, "search": 8, "report": 8, "drop": 16}
    assert result.report.drop is not None and "one of which is 0.0625" in result.report.drop.sentence()
    assert result.report.targets == ()


def test_parts_are_disjoint_and_nothing_is_left_out() -> None:
    opened = open_samples(model(), images(100))  # type: ignore[arg-type]  # a model
    for batch, used in ((None, 100), (4, 92)):
        for is_judged in (True, False):
            data, _ = deal(replace(opened, batch=batch), 0, drop=is_judged)
            every = np.concatenate(data.parts)
            assert len(set(every.tolist())) == len(every) >= used
            assert (len(data.parts.drop) > 0) == is_judged
            assert all(len(part) % (batch or 1) == 0 for part in data.parts)


def test_with_too_few_samples_everything_is_judged_on_the_fit() -> None:
    pruned = gated(0.9, data=images(3))
    assert pruned.drop is not None and pruned.drop.samples == 3
    assert "the drop is judged, and the result is reported, on the samples of the fit" in " ".join(pruned.notes)


@pytest.mark.parametrize(
    ("compared", "expected"),
    [
        (Comparison(9, (), "y", 0.9, 0.1, 0.8, 0.7, 3.0, 2.0), ("the metric", 1.0)),
        (Comparison(9, (), "y", 0.9, 0.1, 0.8, 0.7), ("top-1", 0.1)),
        (Comparison(9, (), "y", 0.9), ("agreement", 0.1)),
        (
            Comparison(9, (OutputError("a", 0.2), OutputError("b", 0.4))),
            ("the largest relative error of an output", 0.4),
        ),
    ],
)
def test_what_falls(compared: Comparison, expected: tuple[str, float]) -> None:
    judged, drop = fall(compared)
    assert (judged, drop) == (expected[0], pytest.approx(expected[1]))


def test_outputs_that_cannot_be_compared_need_a_metric() -> None:
    with pytest.raises(OptionError, match="give a --metric of your own"):
        fall(Comparison(9, (OutputError("a", None, "not numbers"),)))


def test_a_drop_says_how_finely_it_sees() -> None:
    said = Drop(0.01, "top-1", 100, ()).sentence()
    assert said == "the drop of at most 0.01 was judged by top-1 on 100 samples, one of which is 0.0100"
    assert Drop(0.01, "the metric", 100, ()).sentence().endswith("by the metric on 100 samples")


def test_without_a_goal_half_of_the_macs_are_left_or_what_the_drop_allows() -> None:
    assert targets_of(None, Options()) == (Target("macs", 0.5, True),)
    assert targets_of(None, Options(max_drop=0.1)) == ()
    assert targets_of("60M", Options(max_drop=0.1)) == (Target("macs", 60e6, False),)
    several = (Target("macs", 0.5, True), Target("bytes", 4e6, False))
    assert targets_of(several, Options()) == several


def test_a_drop_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for lost in (-0.1, 1.0):
        with pytest.raises(OptionError, match="--max-drop"):
            gated(lost)
    with pytest.raises(OptionError, match="checkpoint"):
        gated(0.1, checkpoint=tmp_path / "search.json")
