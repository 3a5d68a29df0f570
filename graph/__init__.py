"""The graph floor: ONNX in, which channels hang together, surgery, ONNX out. Knows nothing of data or of decisions.

Only the plain data are exported here, so that importing the package costs nothing; the functions are in the modules
`model` (load, save), `trace`, `simplify`, `couple`, `shrink`, `law` and `count`, one each.
"""

import os

from graph.channels import Axis, ChannelGroup, Channels, Frozen, Labels, Site
from graph.errors import LawError, ModelError, WriteError
from graph.plan import Plan

# ONNX Runtime's wheels send telemetry, and write a device ID, from the moment they are imported, unless they are told
# not to. This tool makes no network connections; whoever wants telemetry sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Axis",
    "ChannelGroup",
    "Channels",
    "Frozen",
    "Labels",
    "LawError",
    "ModelError",
    "Plan",
    "Site",
    "WriteError",
]
