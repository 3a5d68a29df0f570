"""Running a torch model over many samples in chunks, step by step, holding only the values still needed."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from calibrate.source import Source
from graph.bridge import Step, TorchModel
from graph.widen import widened_feeds

Env = dict[str, Tensor]


def feed(model: TorchModel, source: Source, indices: np.ndarray) -> Env:
    """Return the model's inputs for the given samples, as tensors on the model's device; halves are widened."""
    return as_tensors(model, source.batch(indices))


def as_tensors(model: TorchModel, arrays: Mapping[str, np.ndarray]) -> Env:
    """Return the model's inputs by name as tensors on the model's device; halves are widened."""
    wide = widened_feeds(arrays)
    return {name: torch.from_numpy(np.ascontiguousarray(wide[name])).to(model.device) for name in model.inputs}


def last_uses(steps: Sequence[Step]) -> list[set[str]]:
    """Return for each position i the values that steps i, i+1, … still read; one more entry than steps."""
    needed: list[set[str]] = [set()]
    for step in reversed(steps):
        needed.append(needed[-1] | {name for name in step.inputs if name})
    return needed[::-1]


def walk(model: TorchModel, env: Env, keep: frozenset[str] = frozenset()) -> Iterator[Step]:
    """Run the model step by step on env, yielding each step after it ran; values nobody reads any more are dropped.

    While a step is yielded its inputs and outputs are in env. Values named in `keep` stay.
    """
    needed = last_uses(model.steps)
    for position, step in enumerate(model.steps):
        model.run(env, [step])
        yield step
        drop(env, needed[position + 1] | keep | set(model.outputs))


def outputs_of(model: TorchModel, env: Env) -> list[Tensor]:
    """Return the outputs for the inputs (and weights) in env, holding only what is still needed."""
    for _ in walk(model, env):
        pass
    return [env[name] for name in model.outputs]


def drop(env: Env, wanted: set[str]) -> None:
    """Remove from env all values that are not wanted."""
    for name in [name for name in env if name not in wanted]:
        del env[name]
