"""Writing a changed weight back: into the model's initializer, and into the torch form that computes with it."""

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from graph.bridge import TorchModel


def store(name: str, value: Tensor, pruned: TorchModel, model: ir.Model) -> None:
    """Overwrite an initializer of the model and the parameter of its torch form, with the same numbers."""
    array = _stored(name, value, model)
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    pruned.set_parameter(name, array.astype(_numpy(value).dtype))


def rounded(name: str, value: Tensor, model: ir.Model) -> Tensor:
    """Return the value as the network has it once it is stored: a half in the model is a float32 in torch."""
    return torch.from_numpy(_stored(name, value, model).astype(_numpy(value).dtype)).to(value.device)


def _stored(name: str, value: Tensor, model: ir.Model) -> np.ndarray:
    initializer = model.graph.initializers[name]
    assert initializer.dtype is not None
    return _numpy(value).astype(initializer.dtype.numpy())


def _numpy(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy()
    return array
