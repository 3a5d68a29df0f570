"""Which channels go next while a network is trained, and what makes up for them.

FRS (arXiv 2002.09958; METHOD §6) removes the globally least relevant channels: the scores of each layer have L2
norm 1, so that those of all layers make one list. Its least entries go one after another until every budget holds.
As the last of them may have been a large one, what still fits is then given back, the most relevant first.

Widths that have to be multiples fall in blocks: a channel marked for removal goes with the last of its block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrate.relevance import Relevance
from calibrate.source import Source
from compress.compensate import compensate
from compress.costs import Widths
from compress.criteria.magnitude import norms
from compress.criteria.relevance import scores
from compress.ranking import listed
from compress.repair import Repair
from compress.searches import Budget
from compress.targets import Unreachable
from graph.bridge import TorchModel
from graph.channels import Channels
from graph.plan import Plan
from graph.trace import trace


def channel_scores(
    model: TorchModel,
    channels: Channels,
    relevance: Relevance,
    note: Callable[[str], None] = lambda sentence: None,
) -> dict[str, np.ndarray]:
    """Return the score of every channel, by group: relevance, with L2 norm 1 in each layer.

    Groups that no relevance reached are scored by the L2 norm of their channels' weights, on the same scale, and `note`
    hears of it. `channels` are those of `model`, of which `compress.criteria.relevance.made` gives what to measure.
    """
    means, found = relevance.means(), {}
    silent = []
    for group in channels.groups:
        score = scores(group, channels, means)
        if score is None:
            silent.append(group.name)
            score = np.sqrt(norms(group, channels, model, 2))
        found[group.name] = score
    if silent:
        note(f"{listed(silent)}: no relevance came; channels are ranked by the size of their weights")
    return found


def least_relevant(
    found: Mapping[str, np.ndarray],
    kept: Plan,
    allowed: Mapping[str, np.ndarray],
    budgets: Sequence[Budget],
    *,
    together: Mapping[str, frozenset[str]] | None = None,
) -> Plan:
    """Return the plan that keeps less than `kept`, without its least relevant channels, such that all budgets hold.

    `found` has the scores of the channels that `kept` keeps, by group in their order; `allowed` the permitted widths of
    each group, ascending; `together` the groups that serve nothing where another has no channel left, which then become
    as narrow as they may. A group ends on the next lower permitted width even where the budgets ask for nothing.
    Raises Unreachable where the narrowest permitted widths do not fit.
    """
    ladders = {name: _Ladder.of(name, found.get(name), mask, allowed.get(name)) for name, mask in kept.keep.items()}
    names = [name for name, ladder in ladders.items() for _ in ladder.falling]
    marks = np.concatenate([np.zeros(0), *(ladder.falling for ladder in ladders.values())])
    # stable, so that of equals the first group's go first, and within a group each after those below it
    order = [names[at] for at in np.argsort(marks, kind="stable")]

    def at(count: int) -> Widths:
        """Return the widths once that many channels are marked."""
        marked = dict.fromkeys(ladders, 0)
        for name in order[:count]:
            marked[name] += 1
        return _with_branches({name: ladders[name].width(n) for name, n in marked.items()}, ladders, together or {})

    def fits(widths: Widths) -> bool:
        return all(budget.cost.total(widths) <= budget.limit for budget in budgets)

    low, high = -1, len(order)  # too wide, narrow enough
    if not fits(at(high)):
        worst = max(budget.share(at(high)) for budget in budgets)
        raise Unreachable(f"the narrowest permitted widths take {worst:.3f} of what may be left at this removal")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(at(middle)) else (middle, high)
    widths = _given_back(at(high), ladders, fits, together or {})
    return Plan({name: ladder.mask(widths[name]) for name, ladder in ladders.items()})


@dataclass(frozen=True)
class _Ladder:
    """The widths that a group may still take, ascending, and the scores of its channels, in the order of removal.

    `kept` is the mask so far, `order` the places in it of the channels that are left, the least relevant first.
    """

    kept: np.ndarray
    order: np.ndarray
    scores: np.ndarray
    widths: np.ndarray

    @classmethod
    def of(cls, name: str, found: np.ndarray | None, kept: np.ndarray, allowed: np.ndarray | None) -> "_Ladder":
        places = np.flatnonzero(kept)
        widths = np.array([len(places)]) if allowed is None else allowed[allowed <= len(places)]
        widths = widths if len(widths) else np.array([len(places)])
        score = np.zeros(len(places)) if found is None and len(widths) == 1 else found
        if score is None or len(score) != len(places):
            raise ValueError(f"group {name}: {0 if score is None else len(score)} scores for {len(places)} channels")
        order = np.argsort(score, kind="stable")
        return cls(kept, places[order], score[order], widths)

    @property
    def falling(self) -> np.ndarray:
        """The scores of the channels that may go."""
        return self.scores[: len(self.order) - self.widths[0]]

    def width(self, marked: int) -> int:
        """Return the width with so many channels marked: the least that keeps all the others."""
        place = int(np.searchsorted(self.widths, len(self.order) - marked))
        return int(self.widths[min(place, len(self.widths) - 1)])

    def wider(self, width: int) -> tuple[float, int] | None:
        """Return the next width, and the score of the most relevant channel that this brings back."""
        place = int(np.searchsorted(self.widths, width, side="right"))
        if place == len(self.widths):
            return None
        return float(self.scores[len(self.order) - width - 1]), int(self.widths[place])

    def mask(self, width: int) -> np.ndarray:
        """Return the mask that keeps so many."""
        mask = self.kept.copy()
        mask[self.order[: len(self.order) - width]] = False
        return mask


def _with_branches(widths: Widths, ladders: Mapping[str, _Ladder], together: Mapping[str, frozenset[str]]) -> Widths:
    """Return the widths with everything as narrow as it may that serves a group without channels."""
    idle = {other for name, others in together.items() if widths.get(name) == 0 for other in others}
    return widths | {name: int(ladders[name].widths[0]) for name in sorted(idle) if name in ladders}


def _given_back(
    widths: Widths,
    ladders: Mapping[str, _Ladder],
    fits: Callable[[Widths], bool],
    together: Mapping[str, frozenset[str]],
) -> Widths:
    """Return the widths with what still fits given back; a branch that is gone stays so."""
    gone = {name for name, width in widths.items() if width == 0}
    gone |= {other for name in gone for other in together.get(name, ())}
    open_ = set(widths) - gone

    def offers() -> Iterator[tuple[float, str, int]]:
        for name in widths:
            if name in open_ and (step := ladders[name].wider(widths[name])) is not None:
                yield step[0], name, step[1]

    while (best := max(offers(), key=lambda offer: offer[0], default=None)) is not None:
        _, name, width = best
        if fits(more := widths | {name: width}):
            widths = more
        else:
            open_.remove(name)  # nothing that is given back later makes room
    return widths


def of_the_narrow(before: Plan, after: Plan) -> Plan:
    """Return what leads from one plan to a narrower one, as a plan for the network that has the first behind it."""
    return Plan({name: after.keep[name][mask] for name, mask in before.keep.items() if mask.any()})


def compensated(
    before: TorchModel,
    now: TorchModel,
    model: ir.Model,
    channels: Channels,
    step: Plan,
    source: Source,
    fit: np.ndarray,
    held: np.ndarray,
    *,
    chunk: int,
    batch: int | None,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Repair]:
    """Let every layer of the narrower network give what the network `before` this removal gave.

    `model` holds the narrower network's weights as they are now, and `now` is its torch form: both are changed.
    `channels` are those of the network `before`, and `step` is a plan for it (`of_the_narrow`). The fit is on samples
    `fit`, judged on `held`; the model takes `batch` samples at a time (None: any number).
    """
    shapes = dict(trace(model, source.batch(fit[: batch or 1])).shapes)
    return compensate(
        before, now, model, channels, step, shapes, source, fit, held, chunk=chunk, seed=seed, advance=advance
    )
