"""Any order, for comparison: what the repair alone is worth."""

import numpy as np

from calibrate.eliminate import Curve
from compress.criteria.readers import by_score
from compress.criteria.table import Evidence, criterion


@criterion("random")
def random(evidence: Evidence) -> dict[str, Curve]:
    """Draw the order of every group from the seed."""
    generator = np.random.default_rng(evidence.seed)
    return by_score(evidence, lambda group: generator.random(len(group.channels)))
