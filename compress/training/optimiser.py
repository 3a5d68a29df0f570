"""Stochastic gradient descent with Nesterov's momentum (torch's), whose state is plain arrays and numbers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from graph.errors import ModelError

MOMENTUM = 0.9
_KEPT = "momentum_buffer"  # torch's name


class Optimiser:
    """Moves leaves by their gradients.

    `weight_decay` is for those that are matrices or kernels, more than one of whose axes is longer than 1: biases,
    and the scales of norms, are left alone. With `halves` gradients are scaled so that they do not vanish in halves
    (`backward` comes before anything that reads them, and they stay scaled until `step`).
    """

    def __init__(self, leaves: Mapping[str, Tensor], weight_decay: float, *, halves: bool = False) -> None:
        """Take the leaves by name, without momentum."""
        self._leaves = dict(leaves)
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for leaf in self._leaves.values():
            kinds[sum(size > 1 for size in leaf.shape) > 1].append(leaf)
        groups = [
            {"params": params, "weight_decay": weight_decay if decays else 0.0}
            for decays, params in kinds.items()
            if params
        ]
        self._sgd = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
        device = next(iter(self._leaves.values())).device.type
        self._scaler = torch.amp.GradScaler(device, enabled=halves)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there since the last step."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's

    def gradients(self) -> list[Tensor]:
        """Return the gradients that are there, in the order of the leaves; several processes sum them before a step."""
        return [leaf.grad for leaf in self._leaves.values() if leaf.grad is not None]

    def step(self, rate: float) -> None:
        """Move the leaves, at this learning rate, and forget the gradients.

        Gradients in halves that are not finite move nothing; they are scaled less from then on.
        """
        for group in self._sgd.param_groups:
            group["lr"] = rate
        self._scaler.step(self._sgd)
        self._scaler.update()
        self._sgd.zero_grad()

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the momentum, by name, of the leaves that have one."""
        kept = {name: self._sgd.state[leaf].get(_KEPT) for name, leaf in self._leaves.items()}
        return {name: np.array(each.cpu().numpy(), order="C") for name, each in kept.items() if each is not None}

    def load(self, momentum: Mapping[str, np.ndarray]) -> None:
        """Take over the momentum of the leaves, by name; the others begin without. Raises ModelError for a shape."""
        self._sgd.state.clear()
        for name, array in momentum.items():
            leaf = self._leaves.get(name)
            if leaf is None:
                continue
            if array.shape != tuple(leaf.shape):
                raise ModelError(f"the momentum of {name} is {list(array.shape)}, the weight {list(leaf.shape)}")
            kept = torch.empty_like(leaf, requires_grad=False)  # in the leaf's layout
            self._sgd.state[leaf] = {_KEPT: kept.copy_(torch.from_numpy(array))}

    @property
    def scaling(self) -> dict[str, float]:
        """How gradients are scaled, as plain numbers; none without halves."""
        return dict(self._scaler.state_dict())

    @scaling.setter
    def scaling(self, numbers: Mapping[str, float]) -> None:
        if numbers:
            self._scaler.load_state_dict(dict(numbers))
