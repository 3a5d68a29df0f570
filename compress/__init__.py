"""Prune a trained ONNX CNN to a budget, with closed-form compensation and no retraining.

    import compress
    result = compress.prune("model.onnx", 0.5, "images/")
    result.save("small.onnx")

Names are loaded when they are first used: `import compress` stays quick and does not import torch.
"""

import importlib
import os
from typing import TYPE_CHECKING

# as in graph/__init__.py, which would import numpy here: ONNX Runtime sends telemetry unless it is told not to
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from compress.api import Result, prune
    from compress.int8 import Quantised, quantize
    from compress.settings import Options
    from compress.sweep import Sweep, sweep
    from compress.targets import Target, Unreachable, parse_target
    from compress.training.api import Trained, train
    from compress.training.settings import Training

_HOMES = {
    "prune": "compress.api",
    "Result": "compress.api",
    "quantize": "compress.int8",
    "Quantised": "compress.int8",
    "Options": "compress.settings",
    "sweep": "compress.sweep",
    "Sweep": "compress.sweep",
    "Target": "compress.targets",
    "Unreachable": "compress.targets",
    "parse_target": "compress.targets",
    "train": "compress.training.api",
    "Trained": "compress.training.api",
    "Training": "compress.training.settings",
}

__all__ = [
    "Options",
    "Quantised",
    "Result",
    "Sweep",
    "Target",
    "Trained",
    "Training",
    "Unreachable",
    "parse_target",
    "prune",
    "quantize",
    "sweep",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
