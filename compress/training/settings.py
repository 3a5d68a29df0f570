"""How to train: what `compress.Options` does not say already, as one frozen object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[[Mapping[str, "Tensor"], Mapping[str, "Tensor"], "Tensor | None"], "Tensor"]

TUNING_RATE, SCRATCH_RATE = 0.01, 0.1  # for a batch of 128


@dataclass(frozen=True)
class Training:
    """How to train; the defaults go on from the weights in the file.

    Every `interval` epochs channels are removed (None: about ten times in all). `batch` samples make a step (None:
    128, or as many as memory allows for large inputs), whose length starts at `rate` (None: 0.01, or 0.1
    `from_scratch`, for a batch of 128) and falls as a cosine. `augment` names presets of `compress.training.batches`;
    `distil` is the share of the loss that follows the original network, which is a `teacher` of its own (a model with
    the same inputs and outputs) or the one that is trained as it was; the rest follows the labels. `loss` is a
    function of one's own or "module:function" (see `compress.training.objective`). A `checkpoint` is written after
    every epoch, and with `resume` training goes on from it. `mixed_precision` is for CUDA.
    """

    epochs: int = 20
    interval: int | None = None
    batch: int | None = None
    rate: float | None = None
    weight_decay: float = 5e-4
    augment: tuple[str, ...] = ()
    distil: float = 0.0
    teacher: str | Path | None = None
    loss: LossFunction | str | None = None
    from_scratch: bool = False
    mixed_precision: bool = False
    checkpoint: str | Path | None = None
    resume: bool = False

    def highest_rate(self, batch: int) -> float:
        """Return the largest learning rate, for batches of that size."""
        usual = SCRATCH_RATE if self.from_scratch else TUNING_RATE
        return usual * batch / 128 if self.rate is None else self.rate
