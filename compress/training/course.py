"""The course of a training: what every epoch and every removal brought, for the report, JSON and checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compress.training.evaluate import Figures


@dataclass(frozen=True)
class Epoch:
    """One epoch: the mean `loss` over its steps, what the network was worth after it, its MACs, and its seconds.

    `rate` is the learning rate of its first step. Epochs are counted from 1.
    """

    number: int
    loss: float
    held: Figures
    macs: int
    rate: float
    seconds: float


@dataclass(frozen=True)
class Removal:
    """Channels that went before the epoch `before`: what is left of MACs and groups, and what the network is worth.

    `notes` say in words what relevance or compensation could not do.
    """

    before: int
    macs: int
    widths: Mapping[str, int]
    held: Figures
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Course:
    """Everything that happened, from the network as it was given (`start`) on; `widths` and `macs` are the whole's."""

    start: Figures
    macs: int
    widths: Mapping[str, int]
    epochs: tuple[Epoch, ...] = ()
    removals: tuple[Removal, ...] = ()

    def with_epoch(self, epoch: Epoch) -> "Course":
        """Return the course with one more epoch."""
        return replace(self, epochs=(*self.epochs, epoch))

    def with_removal(self, removal: Removal) -> "Course":
        """Return the course with one more removal."""
        return replace(self, removals=(*self.removals, removal))

    @property
    def last(self) -> Figures:
        """What the network was worth at last."""
        return self.epochs[-1].held if self.epochs else self.start

    @property
    def notes(self) -> tuple[str, ...]:
        """What the removals have to say, each sentence once."""
        return tuple(dict.fromkeys(note for removal in self.removals for note in removal.notes))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Course":
        """Read what `compress.report.plain_values` made of a course."""
        return cls(
            Figures(**data["start"]),
            data["macs"],
            data["widths"],
            tuple(Epoch(**each | {"held": Figures(**each["held"])}) for each in data["epochs"]),
            tuple(
                Removal(**each | {"held": Figures(**each["held"]), "notes": tuple(each["notes"])})
                for each in data["removals"]
            ),
        )
