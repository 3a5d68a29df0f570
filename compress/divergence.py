"""How far two networks' outputs are apart, without labels."""

from collections.abc import Sequence

import torch
from torch import Tensor


def divergence(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """Return, per sample (N), the sum over outputs of how far each is from its reference.

    Class scores (N, K>1): Kullback-Leibler divergence of the softmax, in nats (rows that are probabilities
    already are taken as they are). Other floating outputs: Σ|a − b|² ÷ Σ|a − ā|², a relative error.
    """
    total = torch.zeros(len(reference[0]), dtype=torch.float64, device=reference[0].device)
    for a, b in zip(reference, outputs, strict=True):
        if not a.is_floating_point() or len(a) != len(total):
            continue
        scores = are_scores(a)
        a, b = a.double().flatten(1), b.double().flatten(1)
        if scores:
            p, q = _log_probabilities(a), _log_probabilities(b)
            total += (p.exp() * (p - q)).sum(1)
        else:
            energy = ((a - a.mean(0)) ** 2).sum() / len(a)
            if len(a) == 1 or not float(energy):
                energy = (a**2).sum() / len(a)
            total += ((a - b) ** 2).sum(1) / energy.clamp_min(1e-30)
    return total


def are_scores(a: Tensor) -> bool:
    """Say whether an output looks like class scores: one vector of at least two values per sample."""
    return a.dim() == 2 and 2 <= a.shape[1] <= 100_000


def _log_probabilities(scores: Tensor) -> Tensor:
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all()):
        return scores.clamp_min(1e-12).log()
    return scores.log_softmax(1)
