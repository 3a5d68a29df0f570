"""What training makes smaller, a mean over samples.

    loss = (1 − d) · task + d · distillation                             d the share that --distil gives

    task          cross entropy of the class scores with the labels, or a function of the user's, --loss
    distillation  of class scores   T² · KL(softmax(t ÷ T) ‖ softmax(s ÷ T))   t of the original, s of the network,
                                                                         T = 4 (Hinton et al., arXiv 1503.02531)
                  of other outputs  |t − s|² ÷ energy of t               (`compress.divergence`)

Without labels and without --loss the distillation is all. Where several outputs look like class scores, or none does,
all outputs are others. Scores behind a Softmax that belongs to the model are the logarithms of its probabilities.

    def loss(outputs, references, labels): return a scalar torch.Tensor, smaller is better

gets the outputs of a batch as tensors by name, those of the original, and the labels of the batch as a tensor or None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calibrate.forward import Env, feed, walk
from calibrate.images import show
from calibrate.source import Source, chunked
from compress.classes import no_classes, score_output
from compress.divergence import are_probabilities, divergence, energies
from compress.errors import OptionError
from compress.sensitivity import join
from compress.training.settings import LossFunction
from compress.users_code import load_function, users_code
from graph.bridge import TorchModel

TEMPERATURE = 4.0  # T
SAMPLES = 64  # that tell what the outputs are like

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss of the user's and the name to show for it."""

    name: str
    function: LossFunction

    def __call__(self, outputs: Outputs, references: Outputs, labels: Tensor | None) -> Tensor:
        """Return its value; OptionError for whatever goes wrong in the function, and for a value without a gradient."""
        with users_code(f"loss {self.name}"):
            value = self.function(outputs, references, labels)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise OptionError(f"loss {self.name}: it returned {what}: give a scalar torch tensor, smaller is better")
        if any(each.requires_grad for each in outputs.values()) and not value.requires_grad:
            raise OptionError(f"loss {self.name}: no gradient reaches the outputs: compute it from them, in torch")
        return value.reshape(())


@dataclass(frozen=True)
class Objective:
    """The loss of a training; `objective` makes it.

    `scores` is the output with the class scores, None where no single one has them, `classes` how many these are, and
    `probabilities` whether they have been through a softmax. `distilled` are the other outputs that follow the original
    with `share` above 0, and `energy` is what the squared error of each is divided by.
    """

    scores: str | None
    classes: int
    probabilities: bool
    share: float
    own: Loss | None
    distilled: tuple[str, ...]
    energy: Sequence[float] = field(repr=False)

    @property
    def needs_references(self) -> bool:
        """Whether the loss asks for the original's outputs."""
        return self.own is not None or self.share > 0

    def __call__(self, outputs: Outputs, references: Outputs | None, labels: Tensor | None) -> Tensor:
        """Return the mean loss over a batch, a scalar; `references` are only needed where `needs_references` says so.

        Raises OptionError for a mistake in the user's loss, and where there is nothing to learn from.
        """
        parts = []
        share = self.share_of_original(labels is not None)
        if share < 1:
            parts.append((1 - share) * self._task(outputs, references, labels))
        if share > 0:
            parts.append(share * self._distillation(outputs, _given(references)))
        return torch.stack(parts).sum()

    def share_of_original(self, labelled: bool) -> float:
        """Return d for samples with or without labels. Raises OptionError where that leaves nothing to learn from."""
        if labelled or self.own is not None:
            return self.share
        if self.share == 0:
            raise OptionError(
                "there is nothing to learn from: the samples have no labels; give some, or let the original network "
                "teach by --distil, or give a --loss of your own"
            )
        return 1.0

    def check(self, labels: np.ndarray | None) -> None:
        """Raise OptionError where these labels cannot be learnt from."""
        if self.own is not None or self.share_of_original(labels is not None) == 1 or labels is None:
            return
        if self.scores is None:
            raise OptionError(
                "cross entropy wants one output with a vector of class scores per sample, and the model has none or "
                "several: let the original network teach by --distil 1, or give a --loss of your own"
            )
        if reason := no_classes(labels, self.classes):
            raise OptionError(reason)

    def _task(self, outputs: Outputs, references: Outputs | None, labels: Tensor | None) -> Tensor:
        if self.own is not None:
            return self.own(outputs, _given(references), labels)
        if self.scores is None or labels is None:
            raise ValueError("no class scores or no labels: call check() first")
        return functional.cross_entropy(self._logits(outputs[self.scores]), labels.long())

    def _distillation(self, outputs: Outputs, references: Outputs) -> Tensor:
        parts = []
        if self.scores is not None:
            found, expected = (self._logits(each[self.scores]) / TEMPERATURE for each in (outputs, references))
            s, t = functional.log_softmax(found, 1), functional.log_softmax(expected, 1)
            parts.append(TEMPERATURE**2 * functional.kl_div(s, t, reduction="batchmean", log_target=True))
        for name in self.distilled:
            if outputs[name].shape != references[name].shape:
                shapes = " and ".join(show(tuple(each[name].shape)) for each in (outputs, references))
                raise OptionError(
                    f"output {name!r} has the shape {shapes} of the original, so it cannot follow that: "
                    "leave --distil out, or give a --loss of your own"
                )
        if self.distilled:
            a, b = ([each[name] for name in self.distilled] for each in (references, outputs))
            parts.append(divergence(a, b, self.energy).mean().float())
        return torch.stack(parts).sum()

    def _logits(self, scores: Tensor) -> Tensor:
        wide = scores.float()
        return wide.clamp_min(torch.finfo(wide.dtype).tiny).log() if self.probabilities else wide


def objective(
    original: TorchModel,
    source: Source,
    indices: np.ndarray,
    *,
    chunk: int,
    distil: float = 0.0,
    loss: LossFunction | str | None = None,
) -> Objective:
    """Make the loss for training on these samples; what the outputs are like, the original shows on the first of them.

    `chunk` samples run at a time. `distil` is the share d, `loss` a function or "module:function". Raises OptionError
    for a loss that cannot be had, and where there is nothing to learn from: neither labels nor `distil` nor `loss`,
    labels that are no classes, outputs that hold no class scores.
    """
    if not 0 <= distil <= 1:
        raise OptionError(f"--distil {distil:g}: give a share from 0 to 1")
    own = None if loss is None else Loss(*load_function(loss, "loss"))
    few = indices[: max(SAMPLES // chunk, 1) * chunk]
    parts = [references(original, feed(original, source, part)) for part in chunked(few, chunk)]
    outputs = {name: join([each[name] for each in parts]) for name in parts[0]}
    scores = score_output({name: value.cpu().numpy() for name, value in outputs.items()}, len(few))
    others = tuple(
        name
        for name, value in outputs.items()
        if name != scores and value.is_floating_point() and value.dim() and len(value) == len(few)
    )
    if distil > 0 and scores is None and not others:
        raise OptionError("--distil: no output holds one or more floating numbers per sample that could be followed")
    made = Objective(
        scores,
        0 if scores is None else outputs[scores].shape[1],
        scores is not None and are_probabilities(outputs[scores]),
        distil,
        own,
        others if distil > 0 else (),
        energies([outputs[name] for name in others]) if distil > 0 else (),
    )
    made.check(None if source.labels is None else source.labels[indices])
    return made


@torch.no_grad()
def references(original: TorchModel, inputs: Env) -> dict[str, Tensor]:
    """Return the original network's outputs by name, those that are tensors."""
    env = dict(inputs)
    for _ in walk(original, env):
        pass
    found = {name: env[name] if name in env else original.parameters[name] for name in original.outputs}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def labels_of(source: Source, indices: np.ndarray, device: torch.device) -> Tensor | None:
    """Return the labels of these samples as a tensor; None where they have none."""
    return None if source.labels is None else torch.from_numpy(source.labels[indices]).to(device)


def _given(references: Outputs | None) -> Outputs:
    if references is None:
        raise ValueError("the original's outputs are needed, see needs_references")
    return references
