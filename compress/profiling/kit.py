"""The networks to measure, in memory for this machine or in one file that runs on another."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.costs import Widths, macs_model
from compress.errors import OptionError
from compress.file_size import finished
from compress.files import write_file
from compress.onboard import Settings
from compress.profiling import design
from compress.profiling.multiples import CHAIN_WIDTHS, chain, chain_shape
from compress.pyz import packed
from graph.analysis import Analysis
from graph.model import INLINE_BYTES, clone, serialised, weight_bytes
from graph.plan import Plan
from graph.shrink import shrink

KEPT_AS_THEY_ARE = 4096  # numbers of a weight: small ones may be sizes or positions, by which the time does change
MODULES = ("onboard.py", "ending.py", "profiling/on_device.py")


@dataclass(frozen=True)
class Kit:
    """What `on_device.measure` takes: the request, the models that it names, and their inputs."""

    request: Mapping[str, Any]
    model: Callable[[str], ir.Model]
    feeds: Mapping[str, np.ndarray]

    def read(self, file: str) -> bytes:
        """Return the bytes of a model."""
        return serialised(self.model(file))

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all models."""
        many = (*self.request["networks"], *self.request["chains"])
        return (self.request["original"], *(each["file"] for each in many))


def kit(
    original: ir.Model,
    analysis: Analysis,
    allowed: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    chains: bool = False,
) -> Kit:
    """Return the kit of a model: `allowed` are the permitted widths of its groups, `feeds` one sample.

    With `chains` it holds the chains of `multiples`, too. Raises OptionError for a model of two gigabytes or more.
    """
    if weight_bytes(original) >= INLINE_BYTES:
        raise OptionError(f"a model of {weight_bytes(original):,} bytes of weights is too large for latency tables")
    levels = design.levels(allowed)
    neighbours = macs_model(analysis.channels, analysis.count, analysis.trace.shapes).neighbours
    networks = design.networks(levels, neighbours)
    widths = CHAIN_WIDTHS if chains else ()
    request = {
        "settings": asdict(settings),
        "original": "original.onnx",
        "networks": [{"file": f"{number}.onnx", "widths": each} for number, each in enumerate(networks)],
        "chains": [{"file": f"chain{each}.onnx", "width": each, "shape": chain_shape(each)} for each in widths],
        "about": {
            "model": original.graph.name or "model",
            "groups": {group.name: len(group.channels) for group in analysis.channels.groups},
            "inputs": {name: list(array.shape) for name, array in feeds.items()},
        },
    }

    def model(file: str) -> ir.Model:
        name = file.removesuffix(".onnx")
        if name.startswith("chain"):
            return chain(int(name.removeprefix("chain")))
        return original if name == "original" else named(narrowed(original, analysis, networks[int(name)]))

    return Kit(request, model, feeds)


def narrowed(original: ir.Model, analysis: Analysis, widths: Widths) -> ir.Model:
    """Return the model as it would be written at these widths, with the first channels of every group."""
    masks = {group.name: np.arange(len(group.channels)) < widths[group.name] for group in analysis.channels.groups}
    small = shrink(analysis.model, analysis.channels, Plan(masks))
    return finished(small, analysis.stored, original)[0]


def named(model: ir.Model) -> ir.Model:
    """Return a copy whose nodes are called as their first outputs: ONNX Runtime's profile then speaks of values."""
    new = clone(model)
    for node in new.graph:
        node.name = node.outputs[0].name
    return new


def hollow(model: ir.Model) -> ir.Model:
    """Return a copy whose large weights are zeros, which take no room in a zip and as long to compute with."""
    new = clone(model)
    for value in new.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.size > KEPT_AS_THEY_ARE:
            value.const_value = ir.tensor(np.zeros_like(tensor.numpy()), dtype=tensor.dtype, name=value.name)
    return new


def write(kit: Kit, path: Path) -> None:
    """Write a kit as one file that python3 runs; nothing half-written is left behind."""
    arrays = {f"input{number}": array for number, array in enumerate(kit.feeds.values())}  # a name may be anything
    models = ((file, serialised(hollow(kit.model(file)))) for file in kit.files)
    write_file(packed("compress.profiling.on_device", MODULES, kit.request, arrays, models), path)
