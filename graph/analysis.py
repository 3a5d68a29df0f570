"""A model made ready for pruning, with all that is known of it without data."""

from dataclasses import dataclass

import onnx_ir as ir

from graph.bias import with_biases
from graph.channels import Channels
from graph.count import Count, count
from graph.couple import couple
from graph.simplify import simplify
from graph.trace import Trace, trace


@dataclass(frozen=True)
class Analysis:
    """A model simplified, traced, with its channels coupled and its costs counted.

    `original` counts the model as it was given; `count` the simplified one.
    """

    model: ir.Model
    trace: Trace
    channels: Channels
    count: Count
    original: Count


def analyse(model: ir.Model, *, keep_batchnorm: bool = False) -> Analysis:
    """Simplify, trace, couple and count a model, which is not changed. Raises ModelError."""
    original = count(model, trace(model))
    ready = with_biases(simplify(model, keep_batchnorm=keep_batchnorm))
    traced = trace(ready)
    return Analysis(ready, traced, couple(ready, traced), count(ready, traced), original)
