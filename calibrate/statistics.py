"""Statistics of the original network: the moments of every consumer, summed over the calibration images.

Rows are sampled: once a consumer has enough of them for its number of unknowns, more images make the sample
more varied, not larger, so time and memory stay bounded.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from calibrate.consumer import Consumer
from calibrate.forward import feed, walk
from calibrate.moments import Moments
from calibrate.source import Source, chunked
from graph.bridge import TorchModel

ROWS_PER_UNKNOWN = 12
LEAST_ROWS = 24_000
MOST_BYTES = 256 << 20


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
) -> dict[str, Moments]:
    """Return the moments of each consumer's input and own output, by node; `advance` hears of samples done."""
    by_node = {consumer.y: consumer for consumer in consumers}
    behind = frozenset(consumer.x for consumer in consumers if consumer.y != consumer.node)
    moments: dict[str, Moments] = {}
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for part in chunked(indices, chunk):
            env = feed(model, source, part)
            for step in walk(model, env, behind):
                consumer = by_node.get(step.node)
                if consumer is None:
                    continue
                x, y = env[consumer.x], env[consumer.y]
                columns = model.parameters[consumer.weight].numel() // y.shape[1 if consumer.window else -1]
                wanted = -(-rows_wanted(columns + 1, consumer.groups) // len(indices))
                positions = consumer.positions(y, wanted, generator)
                rows, targets = consumer.rows(x, y.shape, positions), consumer.targets(y, positions)
                known = moments.get(consumer.node)
                moments[consumer.node] = known.absorb(rows, targets) if known else Moments.of(rows, targets)
            advance(len(part))
    return moments
