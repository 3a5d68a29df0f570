"""The smallest model that loses no more than is allowed: `--max-drop` (METHOD §4, as CaP's search does it).

The share of MACs is bisected; each candidate is really cut, compensated and run on samples of its own, which no other
step sees. What may fall by at most `max_drop`, on the original's scale, is the first of these that is there:

    the user's metric   metric(original) − metric(pruned)
    top-1               share of right answers, where the samples have labels
    agreement           1 − share of samples on which the top-1 class is the original's
    relative error      of the output on which it is largest, where no output holds class scores

Among many candidates the one that passes may have been lucky; the report's own samples say what it is really worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.cut import Pruned, choose, cut_as_planned
from compress.errors import OptionError
from compress.gates import SLACK
from compress.goal import Limit, floor
from compress.measure import Comparison, compare
from compress.prepare import Prepared
from compress.progress import Timed, silent
from compress.targets import Target, Unreachable

CANDIDATES = 7


@dataclass(frozen=True)
class Candidate:
    """One model that was tried: its share of the original's MACs, how much it lost, and whether it passed."""

    macs: float
    drop: float
    passed: bool


@dataclass(frozen=True)
class Drop:
    """What was allowed and how it was judged; `judged` says of what the drop is, on how many `samples`."""

    max_drop: float
    judged: str
    samples: int
    candidates: tuple[Candidate, ...]

    @property
    def resolution(self) -> float | None:
        """The smallest drop that can be seen, one sample; None where it is no count of samples."""
        return 1 / self.samples if self.judged in ("top-1", "agreement") else None

    @property
    def lost(self) -> float:
        """The drop of the model that was taken, the last that passed."""
        return next(candidate.drop for candidate in reversed(self.candidates) if candidate.passed)

    def sentence(self) -> str:
        """Say how the drop was judged and how finely."""
        said = f"the drop of at most {self.max_drop:g} was judged by {self.judged} on {self.samples} samples"
        return said + ("" if self.resolution is None else f", one of which is {self.resolution:.4f}")


def smallest(prepared: Prepared, limits: Sequence[Limit], max_drop: float, timed: Timed) -> tuple[Pruned, Drop]:
    """Return the model with the least MACs that loses no more and holds the limits. Raises Unreachable."""
    examined = prepared.examined
    macs = examined.limit(Target("macs", 1.0, True))
    low, high = floor(macs, examined.allowed) / macs.original, 1.0
    found: Pruned | None = None
    quiet = Timed(silent)
    tried: dict[str, Candidate] = {}
    with timed("candidates", CANDIDATES) as advance:
        for number in range(CANDIDATES):
            first = number == 0 and bool(limits)  # as large as the limits allow: if that fails, everything does
            share = high if first else (low + high) / 2
            try:
                plan, small = choose(
                    prepared, limits if first else (*limits, examined.limit(Target("macs", share, True))), quiet
                )
            except Unreachable:
                if first:
                    raise
                low = share  # between two budgets that can be reached lies one that cannot
                advance()
                continue
            key = plan.to_json()
            if key not in tried:  # where there are few channels, two budgets may mean one plan
                pruned = cut_as_planned(prepared, limits, plan, small, quiet)
                judged, drop = fall(judge(pruned))
                passed = drop <= max_drop + SLACK
                tried[key] = Candidate(pruned.count.macs / macs.original, drop, passed)
                found = pruned if passed else found
            advance()
            if tried[key].passed:
                high = min(share, tried[key].macs)
            elif first:
                break
            else:
                low = share
    if found is None:
        if not tried:
            raise Unreachable("no share of the MACs below the whole could be reached with the permitted widths")
        least = min(tried.values(), key=lambda candidate: candidate.drop)
        raise Unreachable(
            f"no model that loses at most {max_drop:g} ({judged}) was found: at {least.macs:.3f} of the MACs it loses "
            f"{least.drop:.4f}"
        )
    return found, Drop(max_drop, judged, len(examined.data.parts.judged), tuple(tried.values()))


def judge(pruned: Pruned) -> Comparison:
    """Compare a candidate with the original on the samples that a drop is judged on."""
    examined = pruned.prepared.examined
    data = examined.data
    return compare(
        examined.original, pruned.model, data.source, data.parts.judged, metric=examined.metric, batch=data.batch
    )


def fall(compared: Comparison) -> tuple[str, float]:
    """Return what a drop is measured by, and how much was lost. Raises OptionError where nothing can be compared."""
    if compared.metric_original is not None and compared.metric_other is not None:
        return "the metric", compared.metric_original - compared.metric_other
    if compared.top1_original is not None and compared.top1_other is not None:
        return "top-1", compared.top1_original - compared.top1_other
    if compared.agreement is not None:
        return "agreement", 1 - compared.agreement
    errors = [output.relative_error for output in compared.outputs if output.relative_error is not None]
    if not errors:
        raise OptionError("--max-drop: no output can be compared: give a --metric of your own")
    return "the largest relative error of an output", max(errors)
