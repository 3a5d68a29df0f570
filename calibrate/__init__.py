"""Calibration data, second-order statistics, least squares: the floor between the graph and the decisions.

Names are loaded when they are first used: what only needs to know an error of this floor does not open its libraries.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibrate.errors import DataError
    from calibrate.preprocess import PRESETS, Preprocess, preprocess_from_options
    from calibrate.sources import Source, open_source, split

_HOMES = {
    "DataError": "calibrate.errors",
    "PRESETS": "calibrate.preprocess",
    "Preprocess": "calibrate.preprocess",
    "preprocess_from_options": "calibrate.preprocess",
    "Source": "calibrate.sources",
    "open_source": "calibrate.sources",
    "split": "calibrate.sources",
}

__all__ = ["PRESETS", "DataError", "Preprocess", "Source", "open_source", "preprocess_from_options", "split"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'calibrate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
