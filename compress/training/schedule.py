"""When channels go, how much may be left each time, and how long a step is.

With E epochs, N = ⌊2E/3⌋ before the last third begins, and an interval n (FRS, arXiv 2002.09958: 21 of 200 epochs):

    removals  before the epochs n, 2n, 3n … ≤ N
    budgets   c_i = c_0 + (limit − c_0)·i / k        after the i-th of k removals; the last is the limit itself
    rate      a linear warm-up over a twentieth of the steps, then half a cosine towards 0
"""

import math

REMOVALS = 10  # about as many, where no interval was given
WARM_UP = 20  # the share of the steps that the warm-up takes is one of so many


def removals(epochs: int, interval: int | None = None) -> tuple[int, ...]:
    """Return the epochs (counted from 0) before which channels are removed, ascending; never none.

    They are multiples of `interval` (None: such that there are about ten), none of them in the last third. Where not
    even the first lies before it, all goes at once when it begins: the later, the more a network from scratch has
    learnt. Raises ValueError below one epoch, or for an interval below 1.
    """
    if epochs < 1 or (interval is not None and interval < 1):
        raise ValueError(f"{epochs} epochs with removals every {interval}: both have to be 1 or more")
    last = 2 * epochs // 3
    every = max(1, round(last / REMOVALS)) if interval is None else interval
    return tuple(range(every, last + 1, every)) or (last,)


def budgets(original: float, limit: float, count: int) -> tuple[float, ...]:
    """Return what may be left after each of `count` removals: equal steps from `original`, the last exactly `limit`."""
    steps = [original + (limit - original) * i / count for i in range(1, count)]
    return (*steps, limit)


def rate(step: int, steps: int, highest: float) -> float:
    """Return the learning rate of a step (from 0) out of `steps`: above 0, and `highest` when it is warm."""
    warm = steps // WARM_UP
    if step < warm:
        return highest * (step + 1) / (warm + 1)
    return highest * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
