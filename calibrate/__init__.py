"""Calibration data, second-order statistics, least squares: the floor between the graph and the decisions."""

from calibrate.errors import DataError
from calibrate.preprocess import PRESETS, Preprocess, preprocess_from_options
from calibrate.sources import Source, open_source, split

__all__ = ["PRESETS", "DataError", "Preprocess", "Source", "open_source", "preprocess_from_options", "split"]
