"""A model made ready for pruning, with all that is known of it without data."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graph.bias import with_biases
from graph.channels import Channels
from graph.converted import converted
from graph.count import Count, count
from graph.couple import couple
from graph.errors import ModelError
from graph.guard import watched
from graph.inputs import example_inputs
from graph.model import weight_bytes
from graph.simplify import simplify
from graph.standard import standardise
from graph.stored import Stored
from graph.trace import Trace, trace


@dataclass(frozen=True)
class Analysis:
    """A model simplified, traced, with its channels coupled and its costs counted.

    `original` counts the model as it was given; `count` the simplified one. `stored` says how the file holds the
    weights that are floats in `model` (see `graph.stored.pack`), `converted` why there is little to prune, where the
    model was quantised or laid out for one processor.
    """

    model: ir.Model
    trace: Trace
    channels: Channels
    count: Count
    original: Count
    stored: tuple[Stored, ...] = ()
    converted: str | None = None


def analyse(
    model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None, *, keep_batchnorm: bool = False
) -> Analysis:
    """Simplify, trace, couple and count a model, which is not changed. Raises ModelError.

    `feeds` is one sample by input name (or as many as the model insists on); made up where it is absent.
    """
    try:
        return _analysed(model, feeds, keep_batchnorm)
    except ModelError:
        raise
    except Exception as error:  # what a damaged model does to the passes of others, and to ours, has no end of kinds
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"the model cannot be analysed ({type(error).__name__}: {line}): it is damaged, or this is a fault of this "
            "program, which its makers would like to hear of"
        ) from error


def _analysed(model: ir.Model, feeds: Mapping[str, np.ndarray] | None, keep_batchnorm: bool) -> Analysis:
    with watched(weight_bytes(model)):
        feeds = example_inputs(model) if feeds is None else feeds
        standard, stored = standardise(model)
        original = count(standard, trace(standard, feeds))
        ready = with_biases(simplify(standard, keep_batchnorm=keep_batchnorm))
        traced = trace(ready, feeds)
        channels, counted = couple(ready, traced), count(ready, traced)
    return Analysis(ready, traced, channels, counted, original, stored, converted(standard))
