"""Which channels go next, against a plain loop that takes them one by one, and what compensation makes of it."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import build

from calibrate.relevance import Relevance, channel_relevance
from calibrate.source import Source
from compress.costs import CostModel, Extent, Table, Term, Widths
from compress.criteria.relevance import made
from compress.searches import Budget
from compress.targets import Unreachable
from compress.training.thinning import channel_scores, compensated, least_relevant, of_the_narrow
from graph.analysis import analyse
from graph.bridge import to_torch
from graph.model import clone
from graph.plan import Plan
from graph.shrink import shrink

Array = np.ndarray
Scores = dict[str, Array]
Case = tuple[Scores, Plan, dict[str, Array], Budget]


def chain(seed: int, *, multiple: int = 1) -> Case:
    """Return scores, masks, permitted widths and a budget of a chain of layers, some of it gone already."""
    rng = np.random.default_rng(seed)
    full = {f"g{i}": int(rng.integers(3, 9)) for i in range(rng.integers(2, 5))}
    terms, before = [], Extent(3, {})
    for name in full:
        after = Extent(0, {name: 1.0})
        terms.append(Term(float(rng.integers(1, 50)), (before, after)))
        before = after
    cost = CostModel(10.0, (*terms, Term(7.0, (before,))))
    kept = {name: rng.random(width) < 0.9 for name, width in full.items()}
    for mask in kept.values():
        mask[:multiple] = True
    scores = {name: rng.integers(0, 12, mask.sum()) / 10 for name, mask in kept.items()}  # with ties
    allowed = {name: np.unique([*range(multiple, width + 1, multiple), width]) for name, width in full.items()}
    least = cost.total({name: int(widths[0]) for name, widths in allowed.items()})
    most = cost.total({name: int(mask.sum()) for name, mask in kept.items()})
    return scores, Plan(kept), allowed, Budget(cost, least + (most - least) * rng.uniform(0, 0.95))


def widths_of(plan: Plan) -> Widths:
    return {name: int(mask.sum()) for name, mask in plan.keep.items()}


def one_by_one(scores: Scores, kept: Plan, budget: Budget) -> dict[str, set[int]]:
    """Return the places kept of each group: the least goes until the budget holds, then what fits comes back."""
    left = {name: dict(zip(np.flatnonzero(mask), scores[name], strict=True)) for name, mask in kept.keep.items()}
    gone = []

    def over() -> bool:
        return budget.cost.total({name: len(places) for name, places in left.items()}) > budget.limit

    while over():
        score, _, place, name = min(
            (score, at, place, name)
            for at, (name, places) in enumerate(left.items())
            if len(places) > 1
            for place, score in places.items()
        )
        del left[name][place]
        gone.append((score, name, place))
    for score, name, place in sorted(gone, key=lambda each: (-each[0], list(left).index(each[1]), -each[2])):
        left[name][place] = score
        if over():
            del left[name][place]
    return {name: set(places) for name, places in left.items()}


@pytest.mark.parametrize("seed", range(30))
def test_the_least_relevant_go_one_by_one_and_what_fits_comes_back(seed: int) -> None:
    scores, kept, allowed, budget = chain(seed)
    plan = least_relevant(scores, kept, allowed, [budget])
    assert {name: set(np.flatnonzero(mask)) for name, mask in plan.keep.items()} == one_by_one(scores, kept, budget)


@pytest.mark.parametrize("seed", range(30))
def test_widths_are_permitted_and_within_every_budget(seed: int) -> None:
    scores, kept, allowed, budget = chain(seed, multiple=2)
    other = Budget(CostModel(0.0, tuple(Term(1.0, (Extent(1, {name: 1.0}),)) for name in allowed)), 3.2 * len(allowed))
    plan = least_relevant(scores, kept, allowed, [budget, other])
    widths = widths_of(plan)
    assert all(each.cost.total(widths) <= each.limit for each in (budget, other))
    for name, mask in plan.keep.items():
        assert not (mask & ~kept.keep[name]).any() and widths[name] in allowed[name]
        left, gone = mask[kept.keep[name]], ~mask[kept.keep[name]]
        assert not gone.any() or scores[name][gone].max() <= scores[name][left].min()
        wider = [w for w in allowed[name] if widths[name] < w <= kept.keep[name].sum()]
        if wider:  # nothing more can come back
            more = widths | {name: wider[0]}
            assert any(each.cost.total(more) > each.limit for each in (budget, other))


def test_a_slack_budget_leaves_all_but_widths_that_are_not_permitted() -> None:
    kept = Plan({"a": np.array([True, False, True, True]), "b": np.ones(4, bool), "c": np.ones(3, bool)})
    cost = CostModel(0.0, (Term(1.0, (Extent(0, {"a": 1.0, "b": 1.0, "c": 1.0}),)),))
    scores = {"a": np.array([0.3, 0.1, 0.2]), "b": np.arange(4.0)}
    allowed = {"a": np.array([2, 4]), "b": np.array([2, 4]), "c": np.array([3])}  # c is left whole: no scores
    plan = least_relevant(scores, kept, allowed, [Budget(cost, 100)])
    assert {name: mask.tolist() for name, mask in plan.keep.items()} == {
        "a": [True, False, False, True],
        "b": [True] * 4,
        "c": [True] * 3,
    }


def branch_costs() -> CostModel:
    """Return the costs of a branch in → a → b → out beside a layer c."""
    a, b, c = (Extent(0, {name: 1.0}) for name in "abc")
    return CostModel(0.0, (Term(10.0, (a,)), Term(10.0, (a, b)), Term(10.0, (b,)), Term(1.0, (c,))))


def test_what_serves_nothing_goes_with_its_branch() -> None:
    kept = Plan({name: np.ones(3, bool) for name in "abc"})
    scores = {"a": np.array([5.0, 6, 7]), "b": np.array([0.1, 0.2, 0.3]), "c": np.array([0.4, 0.5, 8])}
    allowed = {"a": np.arange(4), "b": np.arange(4), "c": np.arange(1, 4)}
    together = {"b": frozenset({"a"})}
    budgets = [Budget(branch_costs(), 14.0)]  # one channel of a would fit, but serve nothing
    assert widths_of(least_relevant(scores, kept, allowed, budgets, together=together)) == {"a": 0, "b": 0, "c": 3}
    assert widths_of(least_relevant(scores, kept, allowed, budgets)) == {"a": 1, "b": 0, "c": 3}
    gone = Plan({**kept.keep, "b": np.zeros(3, bool), "a": np.zeros(3, bool)})  # at a later removal
    later = least_relevant({"c": scores["c"]}, gone, allowed, [Budget(branch_costs(), 2.0)], together=together)
    assert widths_of(later) == {"a": 0, "b": 0, "c": 2}


def test_a_budget_below_the_narrowest_widths_is_out_of_reach() -> None:
    kept = Plan({name: np.ones(3, bool) for name in "abc"})
    scores = {name: np.arange(3.0) for name in "abc"}
    allowed = {name: np.arange(2, 4) for name in "abc"}
    with pytest.raises(Unreachable, match=r"narrowest permitted widths take 1\.220 of what"):
        least_relevant(scores, kept, allowed, [Budget(branch_costs(), 1e9), Budget(branch_costs(), 82 / 1.22)])
    with pytest.raises(ValueError, match="group b: 2 scores for 3 channels"):
        least_relevant({**scores, "b": np.zeros(2)}, kept, allowed, [Budget(branch_costs(), 1e9)])


def test_a_table_of_latency_is_a_budget_like_any_other() -> None:
    kept, scores = Plan({"a": np.ones(8, bool)}), {"a": np.arange(8.0)}
    table = Table(1.0, ("a",), (np.array([1, 4, 8]),), np.array([1.0, 2.0, 10.0]))
    plan = least_relevant(scores, kept, {"a": np.arange(1, 9)}, [Budget(CostModel(0.5, (table,)), 4.6)])
    assert widths_of(plan) == {"a": 5} and plan.keep["a"].tolist() == [False] * 3 + [True] * 5


NETWORK = """(float[N,3,6,6] x) => (float[N,4] y)
    <float[8,3,3,3] w1, float[8] b1, float[6,8,3,3] w2, float[6] b2, float[4,6] w3, float[4] b3> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1,1,1,1]> (r, w2, b2)
    t = Relu (c)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""


def with_weights(model: ir.Model, weights: Mapping[str, Array]) -> ir.Model:
    """Return a copy with other weights."""
    copy = clone(model)
    for name, array in weights.items():
        copy.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return copy


def images(count: int) -> Source:
    x = np.random.default_rng(8).normal(size=(count, 3, 6, 6)).astype(np.float32)
    return Source(count, lambda indices: {"x": x[indices]}, "test images")


def by_layer(scores: Mapping[str, Array]) -> list[float]:
    return [float(np.linalg.norm(score)) for score in scores.values()]


def test_scores_of_every_layer_have_norm_1_and_weights_speak_where_relevance_does_not() -> None:
    source = images(6)
    analysis = analyse(build(NETWORK), source.batch(np.arange(1)))
    model, channels = to_torch(analysis.model, source.batch(np.arange(2))), analysis.channels
    axes = made(channels.groups, channels)
    relevance = channel_relevance(model, source, np.arange(6), axes, chunk=3)
    scores = channel_scores(model, channels, relevance, pytest.fail)
    assert by_layer(scores) == pytest.approx([1.0] * 2) and axes == {"a": 1, "c": 1}
    np.testing.assert_allclose(scores["c"], np.abs(means := relevance.means()["c"]) / np.linalg.norm(means), rtol=1e-6)
    notes: list[str] = []
    silent = Relevance({name: torch.zeros_like(total) for name, total in relevance.sums.items()}, relevance.counts)
    by_weight = channel_scores(model, channels, silent, notes.append)
    w1 = model.parameters["w1"].detach().numpy().reshape(8, -1)
    np.testing.assert_allclose(by_weight["a"], np.linalg.norm(w1, axis=1) / np.linalg.norm(w1), rtol=1e-5)
    assert notes == ["a, c: no relevance came; channels are ranked by the size of their weights"]


def test_compensation_makes_up_for_what_went_in_a_second_step() -> None:
    """Channels that copy others can go without any loss, once their readers take the others for them."""
    source = images(40)
    analysis = analyse(build(NETWORK), source.batch(np.arange(1)))
    channels = analysis.channels
    first = Plan({"a": np.arange(8) != 0, "c": np.ones(6, bool)})
    later = Plan({"a": np.arange(8) > 1, "c": np.arange(6) > 1})
    model = shrink(analysis.model, channels, first)
    weights = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    for w, b in (("w1", "b1"), ("w2", "b2")):
        weights[w][0], weights[b][0] = weights[w][1] * 2, weights[b][1] * 2
    narrow = analyse(with_weights(model, weights), source.batch(np.arange(1)))
    step = of_the_narrow(first, later)
    assert [mask.tolist() for mask in step.keep.values()] == [[False, *[True] * 6], [False, False, *[True] * 4]]
    step = Plan({"a": step.keep["a"], "c": np.arange(6) > 0})  # the second is no copy of anything
    small = shrink(narrow.model, narrow.channels, step)
    feeds = source.batch(np.arange(2))
    before, now = to_torch(narrow.model, feeds), to_torch(small, feeds)
    everything = torch.from_numpy(source.batch(np.arange(40))["x"])

    def error() -> float:
        with torch.no_grad():
            (a,), (b,) = before.module(everything), now.module(everything)
        return float((a - b).norm() / a.norm())

    plain = error()
    repairs = compensated(
        before,
        now,
        small,
        narrow.channels,
        step,
        source,
        np.arange(32),
        np.arange(32, 40),
        chunk=16,
        batch=None,
        seed=0,
    )
    assert {repair.node for repair in repairs} == {"a", "c", "y"} and plain > 0.02
    assert error() < 1e-3 * plain
    stored = to_torch(small, feeds)  # the model has what its torch form has
    for name, value in stored.parameters.items():
        torch.testing.assert_close(value, now.parameters[name], rtol=0, atol=0)
