"""The torch bridge: an ONNX model as a torch module whose weights keep their ONNX names and layout."""

from graph.bridge.convert import to_torch
from graph.bridge.portable import Portable
from graph.bridge.torch_model import Fallback, Step, TorchModel

__all__ = ["Fallback", "Portable", "Step", "TorchModel", "to_torch"]
