"""Which multiples of channels the machine's kernels like: measured, not known (METHOD §7).

A chain of three 3×3 convolutions is timed at every width of one octave. A width is wasted where a wider one takes no
longer; the multiple to round to is the least of 1, 2, 4 … of which few are wasted. On a processor with AVX-512 that is
16, with AVX2 8, and where kernels do not work in blocks it is small.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import platformdirs

from compress.errors import OptionError
from compress.files import write_file
from compress.onboard import Settings, machine
from compress.profiling.on_device import chain_ms
from graph.model import serialised

CHAIN_WIDTHS = tuple(range(32, 65))
SIDE = 28  # of the chain's pictures
LAYERS = 3
NO_LONGER = 1.03  # times as long is no longer
FEW = 0.25
MULTIPLES = (1, 2, 4, 8, 16, 32)
CACHED_BY = ("cpu", "onnxruntime", "provider", "provider_options", "threads")  # what the times depend on


def chain(width: int) -> ir.Model:
    """Return a chain of convolutions from `width` channels to as many, each with a Relu."""
    x = ir.Value(name="x", shape=ir.Shape(chain_shape(width)), type=ir.TensorType(ir.DataType.FLOAT))
    value, nodes, weights = x, list[ir.Node](), list[ir.Value]()
    for layer in range(LAYERS):
        array = np.full((width, width, 3, 3), 1 / (9 * width), np.float32)  # keeps the numbers near 1
        weight = ir.Value(name=f"w{layer}", const_value=ir.tensor(array, name=f"w{layer}"))
        made = ir.node("Conv", [value, weight], {"pads": [1, 1, 1, 1]}, name=f"conv{layer}")
        active = ir.node("Relu", made.outputs, name=f"relu{layer}")
        made.outputs[0].name, active.outputs[0].name = f"c{layer}", f"r{layer}"
        value, weights, nodes = active.outputs[0], [*weights, weight], [*nodes, made, active]
    value.shape, value.type = x.shape, x.type
    return ir.Model(ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 17}), ir_version=8)


def chain_shape(width: int) -> tuple[int, int, int, int]:
    """Return the shape of a chain's input."""
    return (1, width, SIDE, SIDE)


def liked(times: Mapping[int, float]) -> int:
    """Return the multiple to round widths to, from the time of a chain at each width of an octave."""
    octave = max(times)
    for multiple in MULTIPLES:
        narrower = [width for width in times if width % multiple == 0 and width < octave]
        wasted = [w for w in narrower if any(times[wider] <= NO_LONGER * times[w] for wider in times if wider > w)]
        if len(wasted) < FEW * len(narrower):
            return multiple
    return MULTIPLES[-1]


def measured(settings: Settings, cache: Path | None = None, advance: Callable[[], None] = lambda: None) -> int:
    """Return the multiple of this machine, measured once and then read from the user's cache folder."""
    file = (cache or Path(platformdirs.user_cache_dir("compress"))) / "multiples.json"
    about = machine(settings)
    key = json.dumps([about[name] for name in CACHED_BY])
    known = _read(file)
    if key not in known:
        models = {width: serialised(chain(width)) for width in CHAIN_WIDTHS}
        times = chain_ms(models, {width: chain_shape(width) for width in CHAIN_WIDTHS}, settings, advance)
        known[key] = {"multiple": liked(times), "ms": times}
        _keep(known, file)
    return int(known[key]["multiple"])


def _read(file: Path) -> dict[str, Any]:
    """Return what is cached; what cannot be read is as if it were not there."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {key: entry for key, entry in known.items() if entry["multiple"] in MULTIPLES}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def _keep(known: Mapping[str, Any], file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(json.dumps(known, indent=1).encode("utf-8"), file)
    except (OSError, OptionError):  # a home that cannot be written to costs the measurement again, no more
        return
