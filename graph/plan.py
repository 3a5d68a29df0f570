"""A plan: which channels of each group are kept. It can be shown, stored and read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graph.channels import Channels


@dataclass(frozen=True)
class Plan:
    """Masks by group name, one boolean per channel of the group (True = kept); absent groups are kept whole."""

    keep: Mapping[str, np.ndarray]

    @classmethod
    def everything(cls, channels: Channels) -> "Plan":
        """Return the plan that keeps every channel."""
        return cls({group.name: np.ones(len(group.channels), bool) for group in channels.groups})

    def removed(self, channels: Channels) -> frozenset[int]:
        """Return the labels that the plan removes."""
        return frozenset(
            label
            for group in channels.groups
            if group.name in self.keep
            for label, kept in zip(group.channels, self.keep[group.name], strict=True)
            if not kept
        )

    def to_json(self) -> str:
        """Return the plan as JSON: per group the indices of the channels kept and the width before."""
        return json.dumps(
            {name: {"width": len(mask), "kept": np.flatnonzero(mask).tolist()} for name, mask in self.keep.items()},
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote."""
        keep = {}
        for name, entry in json.loads(text).items():
            mask = np.zeros(entry["width"], bool)
            mask[entry["kept"]] = True
            keep[name] = mask
        return cls(keep)
