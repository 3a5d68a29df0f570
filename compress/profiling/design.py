"""Which widths to measure, so that few networks say what every layer costs at any widths on both of its sides.

Every group takes K of its permitted widths, its levels. K² networks are measured; in each, a group's level is its entry
in one column of an orthogonal array (Bose and Bush 1952, strength 2, K prime):

    column 0: i          column c: j + (c − 1)·i  mod K          network (i, j), 0 ≤ i, j < K

Any two columns show each pair of levels exactly once. Groups whose channels meet in a layer get different columns, by
colouring the graph of neighbours, so every layer is seen at every pair of levels.
"""

from collections.abc import Mapping, Set

import numpy as np

from compress.costs import Widths

MOST_LEVELS = 5
PRIMES = (2, 3, 5)


def levels(allowed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the widths to measure of each group: evenly spaced among those permitted, the ends included, none 0."""
    found = {}
    for name, widths in allowed.items():
        some = widths[widths > 0]
        count = min(len(some), MOST_LEVELS)
        found[name] = some[np.unique(np.linspace(0, len(some) - 1, count).round().astype(int))]
    return found


def networks(chosen: Mapping[str, np.ndarray], neighbours: Mapping[str, Set[str]]) -> tuple[Widths, ...]:
    """Return the widths of the networks to measure: the whole and the narrowest first, then the orthogonal array.

    Where there are more colours than columns, some neighbours share one: their layer is then not seen at every pair.
    """
    whole = {name: int(widths[-1]) for name, widths in chosen.items()}
    narrowest = {name: int(widths[0]) for name, widths in chosen.items()}
    most = max((len(widths) for widths in chosen.values()), default=1)
    if most == 1:
        return (whole,)
    k = next(prime for prime in PRIMES if prime >= most)
    colours = coloured(chosen, neighbours)
    found = [whole, narrowest]
    for i, j in np.ndindex(k, k):
        row = [i, *((j + c * i) % k for c in range(k))]
        found.append({name: _level(chosen[name], row[colours[name] % (k + 1)], k) for name in chosen})
    return tuple({tuple(widths.values()): widths for widths in found}.values())


def coloured(chosen: Mapping[str, np.ndarray], neighbours: Mapping[str, Set[str]]) -> dict[str, int]:
    """Return a colour per group, different from those of its neighbours; greedy, the most connected first.

    Groups with a single level need none of their own: they have colour 0.
    """
    free = {name for name, widths in chosen.items() if len(widths) > 1}
    colours = dict.fromkeys(chosen, 0)
    done: set[str] = set()
    for name in sorted(free, key=lambda name: (-len(neighbours.get(name, frozenset())), name)):
        taken = {colours[other] for other in neighbours.get(name, frozenset()) if other in done}
        colours[name] = next(colour for colour in range(len(chosen) + 1) if colour not in taken)
        done.add(name)
    return colours


def _level(widths: np.ndarray, entry: int, k: int) -> int:
    """Return the width that an entry of the array stands for; with fewer levels than k some come more often."""
    return int(widths[entry * len(widths) // k])
