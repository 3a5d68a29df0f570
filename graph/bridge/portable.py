"""A torch model that can be pickled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graph.bridge.convert import to_torch
from graph.bridge.torch_model import TorchModel
from graph.errors import ModelError
from graph.model import serialised


class Portable:
    """A torch model with what it was made of; pickled, that goes in its place, and the model is made again."""

    def __init__(self, original: ir.Model, sample: Mapping[str, np.ndarray], model: TorchModel) -> None:
        """Take the ONNX model and the feeds `sample` that `to_torch` made `model` of."""
        self.original, self.sample, self.model = original, dict(sample), model

    def __getstate__(self) -> tuple[Any, ...]:
        """Return what the model is made of; raises ModelError for a giant model."""
        try:
            return serialised(self.original), self.sample, str(self.model.device)
        except ValueError as error:  # protobuf ends at 2 GiB
            raise ModelError("the model is too large to be handed to other processes: work with one") from error

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Make the torch model again."""
        data, self.sample, device = state
        self.original = ir.from_proto(onnx.load_model_from_string(data))
        self.model = to_torch(self.original, self.sample, device=device)
