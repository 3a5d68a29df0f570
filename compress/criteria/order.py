"""The curve of every group by the criterion asked for; what it cannot rank goes by the size of the weights."""

from dataclasses import replace

from calibrate.eliminate import Curve
from compress.criteria.magnitude import magnitude_l2, share
from compress.criteria.table import CRITERIA, Evidence


def order_channels(name: str, evidence: Evidence) -> tuple[dict[str, Curve], dict[str, list[str]]]:
    """Return the curve of every group by a criterion, and {why: groups} of those that it did not rank."""
    found = CRITERIA[name](evidence)
    reasons: dict[str, list[str]] = {}
    missing = [group for group in evidence.groups if group.name not in found]
    fitted = magnitude_l2(replace(evidence, groups=missing, advance=lambda: None))
    for group in missing:
        curve = fitted.get(group.name)
        why = "no consumer could be fitted" if curve is None else f"{name} says nothing of their channels"
        found[group.name] = curve or share(group, evidence.channels, evidence.model)
        reasons.setdefault(f"{why}; channels are ranked by the size of their weights", []).append(group.name)
    return found, reasons
