"""From an ONNX model to torch: each node is converted, compared with ONNX Runtime, and replaced where it differs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto
from torch import Tensor, nn

from graph.bridge import movement, pointwise, pooling, reduction, resizing, weighted
from graph.bridge.check import Check
from graph.bridge.node import Declined, Node, captured_names
from graph.bridge.onnx2torch_nodes import convert_foreign
from graph.bridge.reference import Reference, real_inputs, refer
from graph.bridge.registry import convert_own
from graph.bridge.runtime_node import run_in_runtime
from graph.bridge.torch_model import Fallback, Step, TorchModel
from graph.bridge.values import from_array, is_numeric, type_of_array
from graph.errors import ModelError
from graph.widen import widened, widened_feeds

# Imported for the converters that they register.
TABLES = (movement, pointwise, pooling, reduction, resizing, weighted)


def to_torch(
    model: ir.Model, feeds: Mapping[str, np.ndarray], *, device: str = "cpu", verify: bool = True
) -> TorchModel:
    """Return the model as torch modules whose weights keep their ONNX names, layouts and ties; halves are float32.

    `feeds` holds an array per input. With `verify` each step runs alone on ONNX Runtime's inputs (two samples,
    where the batch is dynamic) and must give ONNX Runtime's outputs, else it is replaced by a session of ONNX
    Runtime and listed in `fallbacks`. Parameters require gradients; the caller decides about `no_grad`.
    Raises ModelError for a model that ONNX Runtime cannot run, or with values that torch cannot hold.
    """
    model, feeds = widened(model), widened_feeds(feeds)
    reference = refer(model, feeds)
    source = _read(model, reference)
    parameters = {name: _parameter(value, device) for name, value in source.constants.items()}
    check = Check(reference, parameters, device) if verify else None
    converted = [_convert(source, proto, check, device) for proto in source.nodes]
    outputs = tuple(str(value.name) for value in model.graph.outputs)
    unknown = [name for name in outputs if name in source.opaque]
    if unknown:
        raise ModelError(f"output {unknown[0]} is a constant of a type that torch cannot hold")
    steps = tuple(step for step, _, _ in converted)
    made_by = {name: step.op_type for step in steps for name in step.outputs}
    return TorchModel(
        steps=steps,
        inputs=real_inputs(model),
        outputs=outputs,
        parameters=parameters,
        fallbacks=tuple(fallback for _, fallback, _ in converted if fallback),
        largest_difference=max((off for _, _, off in converted), default=0.0) if check else float("nan"),
        output_difference=check.outputs(made_by.keys() & set(outputs), made_by) if check else float("nan"),
    ).to(device)


@dataclass(frozen=True)
class _Source:
    """The model in parts: `opaque` are constants that torch cannot hold (strings, 4-bit integers …)."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, np.ndarray]
    opaque: Mapping[str, TensorProto]
    kinds: Mapping[str, str]
    ranks: Mapping[str, int]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    functions: tuple[onnx.FunctionProto, ...]
    ir_version: int

    def opset(self, domain: str) -> int:
        return next((item.version for item in self.opsets if (item.domain or "ai.onnx") == (domain or "ai.onnx")), 1)

    def fixed(self, node: Node, everything: bool) -> dict[str, TensorProto]:
        """Return the constants of a node that become part of its one-node model."""
        fixed = {name: self.opaque[name] for name in node.inputs if name in self.opaque}
        for name in node.inputs if everything else ():
            if name in self.constants:
                node.read.add(name)
                fixed[name] = onnx.numpy_helper.from_array(self.constants[name], name)
        return fixed


def _read(model: ir.Model, reference: Reference) -> _Source:
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    nodes = []
    for node in model.graph:
        value = ir.convenience.get_const_tensor(node.outputs[0]) if node.op_type == "Constant" else None
        if value is None:
            nodes.append(ir.to_proto(node))
        else:
            tensors[str(node.outputs[0].name)] = value
    constants, opaque = {}, {}
    for name, tensor in tensors.items():
        if tensor is None:
            raise ModelError(f"initializer {name} has no value")
        if tensor.dtype != ir.DataType.STRING and is_numeric(tensor.dtype.numpy()):
            constants[name] = tensor.numpy()
        else:
            opaque[name] = ir.to_proto(tensor)
            opaque[name].name = name
    return _Source(
        nodes=tuple(nodes),
        constants=constants,
        opaque=opaque,
        kinds={**{name: type_of_array(value.dtype) for name, value in constants.items()}, **reference.kinds},
        ranks={**{name: value.ndim for name, value in constants.items()}, **reference.ranks},
        opsets=tuple(onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()),
        functions=tuple(ir.to_proto(function) for function in model.functions.values()),
        ir_version=model.ir_version,
    )


def _parameter(value: np.ndarray, device: str) -> Tensor:
    tensor = from_array(np.array(value)).to(device)
    if not tensor.is_floating_point():
        return tensor
    # Channels last in memory only: convolutions follow their weight, and ran 1.1 to 1.9 times as fast on a CPU.
    return nn.Parameter(tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)


def _convert(
    source: _Source, proto: onnx.NodeProto, check: Check | None, device: str
) -> tuple[Step, Fallback | None, float]:
    """Return the first form of a node that agrees, in the order ours, onnx2torch, ONNX Runtime."""
    reasons = [
        f"{name} is a constant of a type that torch cannot hold" for name in proto.input if name in source.opaque
    ]
    nearest: float | None = None
    for convert, origin in () if reasons else ((convert_own, "the bridge"), (convert_foreign, "onnx2torch")):
        node = _node(source, proto)
        try:
            module = convert(node).to(device)
            off, agrees = check.alone(module, node) if check else (0.0, True)
            if check and agrees:
                check.in_line(module, node)
        except Declined as declined:
            reasons.append(str(declined))
            continue
        except Exception as error:  # whatever a conversion stumbles over, ONNX Runtime does instead
            reasons.append(f"the form of {origin} fails: {_brief(error)}")
            continue
        if agrees:
            return _step(source, node, module, False), None, off
        reasons.append(f"the form of {origin} differs from ONNX Runtime by {off:.2g}")
        nearest = off if nearest is None else min(nearest, off)
    node, module = _in_runtime(source, proto, check, device)
    return _step(source, node, module, True), Fallback(node.name, proto.op_type, "; ".join(reasons), nearest), 0.0


def _node(source: _Source, proto: onnx.NodeProto) -> Node:
    return Node(proto, source.opset(proto.domain), source.constants, source.ranks, captured_names(proto))


def _step(source: _Source, node: Node, module: nn.Module, fallback: bool) -> Step:
    inputs = tuple("" if name in source.opaque else name for name in node.inputs)
    return Step(node.name, node.proto.op_type, inputs, node.outputs, module.eval(), fallback, frozenset(node.read))


def _in_runtime(source: _Source, proto: onnx.NodeProto, check: Check | None, device: str) -> tuple[Node, nn.Module]:
    """Return the node as a session; constants are fed, or part of the session where the operator wants that."""
    reason = ""
    for everything in (False, True):
        node = _node(source, proto)
        fixed = source.fixed(node, everything)
        try:
            session = run_in_runtime(node, source.kinds, fixed, source.opsets, source.functions, source.ir_version)
            module = session.to(device)
            if check:
                check.alone(module, node)  # what differs here is random; that it runs is what matters
                check.in_line(module, node)
            return node, module
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            reason = reason or _brief(error)
    raise ModelError(f"node {node.name} ({proto.op_type}) runs neither in torch nor alone in ONNX Runtime: {reason}")


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
