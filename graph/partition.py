"""Union-find over integer labels, vectorised: which labels must stay or go together."""

import numpy as np

Ids = np.ndarray  # int64 labels


class Partition:
    """A partition of the labels 0, 1, 2 …; the root of a set is its smallest label, so what meets 0 becomes 0."""

    def __init__(self) -> None:
        """Start with the label 0 (fixed) alone."""
        self._parent = np.zeros(1, np.int64)

    def fresh(self, count: int) -> Ids:
        """Return `count` new labels."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def find(self, ids: Ids) -> Ids:
        """Return the root of each label (pointer jumping)."""
        roots: Ids = self._parent[ids]
        while True:
            higher = self._parent[roots]
            if np.array_equal(higher, roots):
                break
            roots = higher
        self._parent[ids] = roots
        return roots

    def union(self, left: Ids, right: Ids | int) -> None:
        """Put `left[i]` and `right[i]` (broadcast) into one set, for every i."""
        left, right = np.broadcast_arrays(np.asarray(left, np.int64), np.asarray(right, np.int64))
        while True:
            a, b = self.find(left.ravel()), self.find(right.ravel())
            apart = a != b
            if not apart.any():
                return
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            # a root may be paired with several lower ones: keep the lowest, the next round joins the others
            np.minimum.at(self._parent, high, low)

    def freeze(self, ids: Ids) -> None:
        """Put labels into the set of 0."""
        self.union(ids, 0)

    def copy(self) -> "Partition":
        """Return a copy on which a union can be tried."""
        other = Partition()
        other._parent = self._parent.copy()
        return other


def free(roots: Ids) -> int:
    """Return how many different removable sets there are among `roots`."""
    return len(np.unique(roots[roots > 0]))
