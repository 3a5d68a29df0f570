"""Small models as ONNX text with random weights, random plans, and where the real files are."""

import lzma
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from onnx import numpy_helper

from graph.channels import Channels
from graph.inputs import example_inputs
from graph.plan import Plan

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".." / "shared" / "data"
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"


def build(text: str, opset: int = 17, seed: int = 0) -> ir.Model:
    """Read `(inputs) => (outputs) <weights> { nodes }`; a weight declared without a value gets random numbers."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    proto = onnx.parser.parse_model(f"{header} agraph {text}")
    rng = np.random.default_rng(seed)
    made = {name for node in proto.graph.node for name in node.output}
    for declared in list(proto.graph.value_info):
        if declared.name not in made:
            shape = [dim.dim_value for dim in declared.type.tensor_type.shape.dim]
            array = random_weight(declared.name, shape, rng)
            proto.graph.initializer.append(numpy_helper.from_array(array, declared.name))
            proto.graph.value_info.remove(declared)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def random_weight(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Return normal numbers that keep magnitudes; variances (by name) are positive."""
    if "var" in name or name.endswith("_riv_0"):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def light_model(path: Path) -> ir.Model:
    """Read a real graph of the onnx wheel, whose weights are ConstantOfShape, and give it random weights."""
    proto = onnx.load(path)
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    keep, made = [], {}
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            made[node.output[0]] = random_weight(node.output[0], shapes[node.input[0]].tolist(), rng)
        else:
            keep.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(keep)
    proto.ir_version = 8
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in made.items())
    model = ir.from_proto(proto)
    ir.passes.common.RemoveInitializersFromInputsPass()(model)
    last = model.graph.outputs[0].producer()
    if last is not None and last.op_type == "Softmax":  # saturated by random weights, it would hide faults
        model.graph.outputs[0] = last.inputs[0]
    return model


def real_inputs(model: ir.Model, path: Path, batch: int = 1) -> dict[str, np.ndarray]:
    """Return inputs that a real file can run on, which for the voice detectors are of a certain length and rate."""
    shapes = {"silero_vad_v3_micro": {"input": (batch, 4000)}}.get(path.stem)
    feeds = example_inputs(model, shapes=shapes, batch=batch)
    if path.stem == "silero_vad_16k_op15":
        feeds["sr"] = np.array(16000)
    return feeds


def random_plan(channels: Channels, rng: np.random.Generator, kept: float = 0.6, gone: float = 0.0) -> Plan:
    """Keep each channel with probability `kept`, and at least one of each group, but none with probability `gone`.

    Groups that must keep a channel do so.
    """
    keep = {}
    for group in channels.groups:
        mask = rng.random(len(group.channels)) < kept
        mask[rng.integers(len(mask))] = True
        keep[group.name] = mask & (group.name not in channels.removable or rng.random() >= gone)
    return Plan(keep)


def table(channels: Channels) -> list[str]:
    """Return one line per group: `name width: producers | followers | consumers`, each as weight.axis."""
    lines = []
    for group in channels.groups:
        roles = (group.producers, group.followers, group.consumers)
        parts = [" ".join(f"{site.axis.weight}.{site.axis.axis}" for site in sites) for sites in roles]
        lines.append(f"{group.name} {len(group.channels)}: {' | '.join(parts)}")
    return lines


def shared_networks() -> list[object]:
    """Return a parameter per file of ../shared/data/networks (some of them packed), or one that skips."""
    return _files(sorted((SHARED / "networks").glob("*.onnx*")), "../shared/data/networks")


def shared_zoo() -> list[object]:
    """Return a parameter per file of ../shared/data/zoo, or one that skips."""
    return _files(sorted((SHARED / "zoo").glob("*.onnx")), "../shared/data/zoo")


def unpacked(path: Path, folder: Path) -> Path:
    """Return the path of the plain ONNX file, unpacking it into `folder` where it is packed."""
    if path.suffix != ".xz":
        return path
    target = folder / path.stem
    target.write_bytes(lzma.decompress(path.read_bytes()))
    return target


def _files(paths: list[Path], where: str) -> list[object]:
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{where} is absent"))]
    slow = [pytest.mark.slow]
    return [
        pytest.param(path, id=path.name.split(".onnx")[0], marks=slow if "resnet50" in path.name else [])
        for path in paths
    ]
