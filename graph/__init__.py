"""The graph floor: ONNX in, which channels hang together, surgery, ONNX out. Knows nothing of data or of decisions.

Only the plain data are exported here, so that importing the package costs nothing; the functions are in the modules
`model` (load, save), `trace`, `simplify`, `couple`, `shrink`, `law` and `count`, one each.
"""

from graph.channels import Axis, ChannelGroup, Channels, Frozen, Labels, Site
from graph.errors import LawError, ModelError
from graph.plan import Plan

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
]
