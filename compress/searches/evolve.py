"""One global ranking of all channels, with a latent pair per group that evolution finds (LcP, arXiv 1810.00518).

Following LeGR (arXiv 1904.12368) the loss of each group is scaled and bent,

    loss'_g(n) = exp(β_g) · r_g · (loss_g(n) ÷ r_g)^exp(α_g)        r_g = the loss with half of the group's channels

and the Lagrangian search, which is a global threshold on what a channel's cost may lose, turns it into widths.
The first individual, α = β = 0, is therefore what `lagrange` finds. Regularised evolution (Real et al. 2019) breeds the
others: the population is the last so many candidates, whatever their fitness; the best of a few drawn from it is the
parent; some groups are mutated, by steps that shrink. Fitness is the divergence of the outputs after compensation.

Hundreds of candidates find out what suits the few samples of that measure: on ResNet-56 the fittest was 18 % better
than the first on them, and 8 % worse on others. So the fittest few and the first are tried again on other samples,
where there are some, and the best of these is taken.

Candidates are bred in batches of one size, each with a random generator of its own, so that neither the number of
processes nor an interruption changes the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.costs import Widths
from compress.searches.checkpoint import Checkpoint
from compress.searches.effort import Effort
from compress.searches.lagrange import lagrange
from compress.searches.problem import Problem, search
from compress.searches.workers import workers

BATCH = 8
POPULATION = 24  # LeGR: 64 of 400 candidates, and tournaments of 16
TOURNAMENT = 8
MUTATED = 0.1  # of the groups, at least one
STEP = 0.5  # standard deviation of the first mutations of β; α takes a fraction of it
BEND = 0.25
LAST_STEP = 0.2  # of the first
FINALISTS = 8  # and the first individual


@dataclass(frozen=True)
class Individual:
    """The latent pairs (α_g, β_g) of all groups, and the fitness once it is known: less is better."""

    latent: np.ndarray
    fitness: float = float("nan")


@search("evolve")
def evolve(problem: Problem) -> Widths:
    """Return the widths of the fittest candidate; never less fit than those of `lagrange`."""
    if problem.fits(problem.widest) or not problem.fits(problem.narrowest):
        return lagrange(problem)
    effort = problem.effort
    checkpoint = Checkpoint.of(problem)
    history = [Individual(np.array(latent), fitness) for latent, fitness in checkpoint.read()]
    effort.advance(len(history))
    with workers(Fitness(replace(problem, effort=Effort(), retrials=None)), effort.jobs, effort.ray) as fitnesses:
        while len(history) < effort.candidates:
            latents = breed(history, len(problem.allowed), effort)
            found = fitnesses(latents)
            history += [Individual(*pair) for pair in zip(latents, found, strict=True)]
            checkpoint.write([(individual.latent.tolist(), individual.fitness) for individual in history])
            effort.advance(len(latents))
    return _final(problem, history)


def _final(problem: Problem, history: Sequence[Individual]) -> Widths:
    """Return the best of the fittest few and the first, by other samples where there are some."""
    fittest = sorted(history, key=lambda individual: individual.fitness)
    if problem.retrials is None:
        return widths_of(problem, fittest[0].latent)
    finalists = [widths_of(problem, individual.latent) for individual in (history[0], *fittest[:FINALISTS])]
    found: list[float] = []
    with workers(problem.retrials, 1) as retried:  # the samples are many: one process holds them once
        for widths in finalists:
            found += retried([widths])
            problem.effort.advance(1)
    return finalists[int(np.argmin(found))]


@dataclass(frozen=True)
class Fitness:
    """The fitness of a latent vector, to be called in whatever process."""

    problem: Problem

    def __call__(self, latent: np.ndarray) -> float:
        """Return the divergence of the outputs with the widths that the latent pairs make."""
        return self.problem.trial(widths_of(self.problem, latent))


def widths_of(problem: Problem, latent: np.ndarray) -> Widths:
    """Return what the Lagrangian search makes of the losses with latent pairs (groups × 2)."""
    pairs = zip(problem.losses.items(), latent, strict=True)
    return lagrange(replace(problem, losses={name: bent(loss, *pair) for (name, loss), pair in pairs}))


def bent(loss: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Return the loss of a group, by number of channels removed, under its latent pair."""
    if alpha == beta == 0:
        return loss  # exactly, not up to rounding
    unit = max(float(loss[len(loss) // 2]), 1e-30)
    return np.asarray(np.exp(beta) * unit * (loss / unit) ** np.exp(alpha))


def breed(history: Sequence[Individual], groups: int, effort: Effort) -> list[np.ndarray]:
    """Return the next batch of latent pairs: mutants of the identity at first, then of the fittest of a few."""
    generator = np.random.default_rng([effort.seed, len(history)])
    population = history[-POPULATION:]
    step = STEP * (1 - (1 - LAST_STEP) * len(history) / effort.candidates)
    batch = []
    for number in range(len(history), min(len(history) + BATCH, effort.candidates)):
        latent = np.zeros((groups, 2))
        if len(history) >= POPULATION:
            drawn = generator.choice(len(population), TOURNAMENT, replace=False)
            latent = min((population[i] for i in drawn), key=lambda individual: individual.fitness).latent.copy()
        if number:
            chosen = generator.choice(groups, max(1, round(MUTATED * groups)), replace=False)
            latent[chosen] += step * generator.normal(size=(len(chosen), 2)) * [BEND, 1]
        batch.append(latent)
    return batch
