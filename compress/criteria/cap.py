"""CaP: the channels that the consumers, refitted without them, miss least (arXiv 2108.13728 §3.2; METHOD §3)."""

from calibrate.eliminate import Curve, eliminate, select
from compress.criteria.readers import each
from compress.criteria.table import Evidence, criterion


@criterion("cap")
def cap(evidence: Evidence) -> dict[str, Curve]:
    """Backwards: from all channels, the one that costs least goes first."""
    return each(evidence, lambda readers, group: eliminate(readers, len(group.channels)))


@criterion("cap-forward")
def cap_forward(evidence: Evidence) -> dict[str, Curve]:
    """Forwards, as in the paper: from none, the one that gains most is added first, and goes last."""
    return each(evidence, lambda readers, group: select(readers, len(group.channels)))
