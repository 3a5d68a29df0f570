"""Statistics of the original network: the moments of every consumer, summed over the calibration images.

Rows are sampled: once a consumer has enough of them for its number of unknowns, more images make the sample
more varied, not larger, so time and memory stay bounded.

Every chunk of images has sums and a random generator of its own, and the sums are added in the order of the chunks:
wherever they were made, the result is the same to the bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from calibrate.consumer import Consumer
from calibrate.forward import as_tensors, walk
from calibrate.moments import Moments
from calibrate.source import Source, chunked
from graph.bridge import TorchModel

ROWS_PER_UNKNOWN = 12
LEAST_ROWS = 24_000
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Chunk:
    """Samples that run together, by input name, and which chunk it is."""

    number: int
    feeds: dict[str, np.ndarray]


@dataclass(frozen=True)
class ChunkMoments:
    """Makes the moments of each consumer's input and own output over one chunk of `samples` in all."""

    consumers: tuple[Consumer, ...]
    samples: int
    seed: int

    def __call__(self, model: TorchModel, chunk: Chunk) -> Iterator[tuple[str, Moments]]:
        """Run the chunk, and yield a consumer's node and moments as soon as it ran."""
        by_node = {consumer.y: consumer for consumer in self.consumers}
        behind = frozenset(consumer.x for consumer in self.consumers if consumer.y != consumer.node)
        seed = np.random.SeedSequence([self.seed, chunk.number]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        env = as_tensors(model, chunk.feeds)
        for step in walk(model, env, behind):
            consumer = by_node.get(step.node)
            if consumer is None:
                continue
            x, y = env[consumer.x], env[consumer.y]
            columns = model.parameters[consumer.weight].numel() // y.shape[1 if consumer.window else -1]
            wanted = -(-rows_wanted(columns + 1, consumer.groups) // self.samples)
            positions = consumer.positions(y, wanted, generator)
            yield consumer.node, Moments.of(consumer.rows(x, y.shape, positions), consumer.targets(y, positions))


Spread = Callable[[ChunkMoments, Iterable[Chunk]], Iterator[Iterable[tuple[str, Moments]]]]


def rows_wanted(columns: int, groups: int = 1) -> int:
    """Return how many rows to sample for a problem with that many columns per group (float32 rows are bounded)."""
    wanted = max(LEAST_ROWS, ROWS_PER_UNKNOWN * columns)
    return max(1, min(wanted, MOST_BYTES // (4 * columns * groups)))


def collect(
    model: TorchModel,
    consumers: Sequence[Consumer],
    source: Source,
    indices: np.ndarray,
    *,
    chunk: int,
    seed: int,
    advance: Callable[[int], None] = lambda samples: None,
    spread: Spread | None = None,
) -> dict[str, Moments]:
    """Return the moments of each consumer's input and own output, by node; `advance` hears of samples done.

    `spread` makes those of the chunks elsewhere, and returns them in their order.
    """
    parts = chunked(indices, chunk)
    chunks = (Chunk(number, source.batch(part)) for number, part in enumerate(parts))
    made = ChunkMoments(tuple(consumers), len(indices), seed)
    moments: dict[str, Moments] = {}
    with torch.inference_mode():
        found = (made(model, each) for each in chunks) if spread is None else spread(made, chunks)
        for part, sums in zip(parts, found, strict=True):
            for node, more in sums:
                if node in moments:
                    moments[node] += more
                else:
                    moments[node] = more
            advance(len(part))
    return moments
