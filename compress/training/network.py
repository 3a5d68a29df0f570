"""A network that is trained: the torch form of a narrow model, and the weights that move, by ONNX name.

The channels go several times, each time out of the original: labels never change their meaning, so an array that has
lost the labels `before` is brought to the labels `after` by one `np.compress` per labelled axis (`narrowed`).
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from calibrate.forward import Env, as_tensors, drop, last_uses
from compress.student import trainable
from compress.training.batch_norm import BatchNorm, batch_norms
from graph.bridge import TorchModel, to_torch
from graph.channels import Channels
from graph.errors import ModelError
from graph.model import clone
from graph.plan import Plan
from graph.shrink import shrink

State = Mapping[str, np.ndarray]


class Network:
    """A model in torch, what moves in it (`leaves`), and the stored statistics of its BatchNormalizations (`buffers`).

    Both are parameters of `torch`, under their ONNX names, sorted, so what changes one changes the other. `norms` are
    the nodes that normalise by the batch in training. `notes` say in words what is not trained. `model` has the numbers
    that the network began with.
    """

    def __init__(
        self, model: ir.Model, torch_model: TorchModel, leaves: Collection[str], notes: tuple[str, ...], rest: State
    ) -> None:
        """Take a model and its torch form, nothing but the `leaves` of which requires gradients.

        `rest` goes along with the state: what branches had that are gone, of which constants may be left.
        """
        self.model, self.torch, self.notes, self._rest = model, torch_model, notes, dict(rest)
        self.norms = batch_norms(torch_model, model)
        self.buffers = {name: torch_model.parameters[name] for name in sorted(_statistics(self.norms))}
        self.leaves = {name: torch_model.parameters[name] for name in sorted(leaves)}
        for name, parameter in torch_model.parameters.items():
            parameter.requires_grad_(name in self.leaves)
        self._needed = [needed | set(torch_model.outputs) for needed in last_uses(torch_model.steps)[1:]]

    @classmethod
    def of(
        cls,
        model: ir.Model,
        sample: State,
        device: str = "cpu",
        *,
        constants: Collection[str] = (),
        rest: State | None = None,
    ) -> "Network":
        """Convert a model; `sample` holds inputs that it runs on.

        The leaves are its weights in the sense of `compress.student`, and those of its initializers that are among
        `constants`, less what no gradient of the outputs reaches. Raises ModelError where that is all of them.
        """
        torch_model = to_torch(model, sample, device=device)
        floats = {name for name, parameter in torch_model.parameters.items() if parameter.is_floating_point()}
        wanted = trainable(torch_model, model) | (floats & set(constants) & set(model.graph.initializers))
        wanted -= _statistics(batch_norms(torch_model, model))
        reached = _reached(torch_model, sample, sorted(wanted))
        return cls(model, torch_model, reached, _notes(torch_model, wanted - reached), rest or {})

    @classmethod
    def cut(
        cls, original: ir.Model, channels: Channels, plan: Plan, state: State, sample: State, device: str = "cpu"
    ) -> "Network":
        """Return the network of the original cut to a plan, with the `state` of one that was cut so.

        `channels` are the original's. Constants that branches leave when they go altogether are leaves.
        """
        small = shrink(_embedded(original, state, channels, plan.removed(channels)), channels, plan)
        inside = small.graph.initializers
        model = _with_arrays(small, {name: array for name, array in state.items() if name in inside})
        rest = {name: array for name, array in state.items() if name not in inside}
        return cls.of(model, sample, device, constants=channels.values, rest=rest)

    def without(self, original: ir.Model, channels: Channels, before: Plan, after: Plan, sample: State) -> "Network":
        """Return the network narrower: `before` says what it has lost of the original, `after` what it shall have lost.

        What moves keeps its numbers; constants that a branch leaves are made of the weights that it has now, and added
        to the bias that takes them up where there is one.
        """
        state = narrowed(self.state(), channels, before.removed(channels), after.removed(channels))
        for name, constant in self._taken_up(original, channels, before, after).items():
            state[name] = state[name] + constant
        return Network.cut(original, channels, after, state, sample, str(self.torch.device))

    def _taken_up(self, original: ir.Model, channels: Channels, before: Plan, after: Plan) -> dict[str, np.ndarray]:
        """Return what shrinking to `after`, and not yet to `before`, adds to weights, by name."""
        gone = before.removed(channels)
        now = _embedded(original, self.state(), channels, gone)
        earlier, later = (shrink(now, channels, plan).graph.initializers for plan in (before, after))
        names = {name for name, _ in self._moving()} & earlier.keys() & later.keys()
        arrays = {name: _array(earlier[name]) for name in names}
        narrow = narrowed(arrays, channels, gone, after.removed(channels))
        added = {name: _array(later[name]) - narrow[name] for name in sorted(names)}
        return {name: array for name, array in added.items() if array.any()}

    def run(self, inputs: Env, *, training: bool, share: float | None = None) -> dict[str, Tensor]:
        """Return the outputs by name, for inputs by name.

        With `training` BatchNormalizations normalise by the statistics of the batch, that of all processes together,
        and move the stored ones by a `share`, else by what the nodes say. Without, it is what ONNX Runtime computes;
        a Dropout does nothing in either case.
        """
        env, parameters = dict(inputs), self.torch.parameters
        for step, needed in zip(self.torch.steps, self._needed, strict=True):
            if training and step.node in self.norms:
                given = (env[name] if name in env else parameters[name] for name in step.inputs)
                x, scale, bias, mean, variance = given
                env[step.node] = self.norms[step.node](x, scale, bias, mean, variance, share)
            else:
                self.torch.run(env, [step])
            drop(env, needed)
        return {name: env[name] if name in env else parameters[name] for name in self.torch.outputs}

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of leaves and buffers by ONNX name, in ONNX layout; halves are float32.

        What went with whole branches is there as well.
        """
        moving = {name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in self._moving()}
        return self._rest | moving

    def load(self, state: State) -> None:
        """Overwrite leaves and buffers in place; what the network does not have is left out.

        Raises ModelError where one is missing, or has another shape.
        """
        for name, _ in self._moving():
            if name not in state:
                raise ModelError(f"weight {name} of the network is missing in what is to be loaded")
            self.torch.set_parameter(name, state[name])

    def written(self) -> ir.Model:
        """Return a copy of the model whose initializers hold the state, in their own types."""
        return _with_arrays(self.model, {name: tensor.detach().cpu().numpy() for name, tensor in self._moving()})

    def _moving(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.leaves.items()
        yield from self.buffers.items()


def narrowed(state: State, channels: Channels, before: frozenset[int], after: frozenset[int]) -> dict[str, np.ndarray]:
    """Return arrays by ONNX name that have lost the labels `before` without those of `after` as well.

    These are weights or anything of their shape, as momentum is; a constant in the place of a value has its labels.
    """
    found = dict(state)
    for name, axis, ids in _labelled(state, channels):
        ids = ids[~np.isin(ids, list(before))]
        if found[name].ndim >= -axis and found[name].shape[axis] == len(ids):  # a constant may be the same along it
            found[name] = np.compress(~np.isin(ids, list(after)), found[name], axis)
    return found


def _embedded(model: ir.Model, state: State, channels: Channels, removed: frozenset[int]) -> ir.Model:
    """Return a copy of the original whose initializers hold the state, which has lost the labels `removed`.

    Where channels are gone, and for what the state does not have, the original's numbers stay.
    """
    places: dict[str, list[np.ndarray]] = {}
    inside = model.graph.initializers
    whole = {name: _array(inside[name]).astype(array.dtype) for name, array in state.items() if name in inside}
    for name, array in whole.items():
        places[name] = [np.ones(size, bool) for size in array.shape]
    for name, axis, ids in _labelled(whole, channels):
        places[name][axis] = ~np.isin(ids, list(removed))
    for name, array in whole.items():
        array[np.ix_(*places[name])] = state[name]
    return _with_arrays(model, whole)


def _labelled(names: Collection[str], channels: Channels) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield the labelled axes of weights, and of the values that constants stand for, counted from the end there."""
    for axis, ids in channels.labels.items():
        if axis.weight in names:
            yield axis.weight, axis.axis, ids
    for name in names:
        labels = channels.values.get(name)
        if labels is not None and labels.axis is not None:
            yield name, labels.axis - len(labels.shape), labels.ids


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None, value.name
    return value.const_value.numpy()


def _with_arrays(model: ir.Model, arrays: State) -> ir.Model:
    new = clone(model)
    for name, array in arrays.items():
        value = new.graph.initializers[name]
        assert value.dtype is not None, name
        value.const_value = ir.tensor(array.astype(value.dtype.numpy()), name=name)
    return new


def _statistics(norms: Mapping[str, BatchNorm]) -> set[str]:
    return {name for norm in norms.values() for name in (norm.mean, norm.variance)}


def _reached(torch_model: TorchModel, sample: State, names: list[str]) -> set[str]:
    """Return those of the parameters that a gradient of the outputs reaches."""
    env = as_tensors(torch_model, sample)
    leaves = [torch_model.parameters[name] for name in names]
    try:
        with torch.enable_grad():
            torch_model.run(env)
            ends = [env[name] for name in torch_model.outputs if name in env and env[name].requires_grad]
            sums = [end.sum() for end in ends]
            gradients = torch.autograd.grad(sums, leaves, allow_unused=True) if sums and leaves else ()
    except RuntimeError as error:  # an operator without a derivative, or too little memory
        raise ModelError(f"no gradient could be had: {str(error).splitlines()[0]}") from error
    reached = {name for name, gradient in zip(names, gradients, strict=False) if gradient is not None}
    if not reached:
        raise ModelError(_unreached(torch_model, names) if names else "the model has no weights that could be trained")
    return reached


def _notes(torch_model: TorchModel, left: set[str]) -> tuple[str, ...]:
    return (_unreached(torch_model, sorted(left)),) if left else ()


def _unreached(torch_model: TorchModel, names: list[str]) -> str:
    blind = [step for step in torch_model.steps if step.fallback]
    where = f": none passes through {blind[0].op_type} {blind[0].node}, which runs in ONNX Runtime" if blind else ""
    return f"{len(names)} weights are not trained (the first: {names[0]}), as no gradient reaches them{where}"
