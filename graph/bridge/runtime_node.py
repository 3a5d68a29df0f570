"""A node that runs in ONNX Runtime inside the torch graph: forward only, through numpy."""

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import FunctionProto, ModelProto, OperatorSetIdProto, TensorProto
from torch import nn

from graph.bridge.node import Node
from graph.bridge.values import to_numpy, to_tensor, type_proto
from graph.errors import ModelError

_FATAL = 4  # what goes wrong is raised; lesser messages would only repeat what the user knows


class RuntimeNode(nn.Module):
    """One ONNX node as a session of ONNX Runtime; takes one tensor (or None) per input of the node.

    No gradient passes through it: outputs are fresh tensors on the device that the module was moved to.
    """

    device_anchor: torch.Tensor

    def __init__(self, model: ModelProto, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Make the session; raises whatever ONNX Runtime raises for a model it does not take."""
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        # Many sessions side by side: threads that spin while they wait would take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        fed = [item.name for item in self.session.get_inputs()]
        self.feeds = tuple((name, inputs.index(name)) for name in fed)
        self.fetched = [name for name in outputs if name]
        self.outputs = outputs
        self.op_type = str(model.graph.node[0].op_type)
        self.register_buffer("device_anchor", torch.empty(0), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RuntimeNode":
        """Return the node itself: a session cannot be copied and holds no state."""
        return self

    def forward(self, *args: Any) -> Any:
        """Run the node; a tensor for one output, else a tuple with None for absent outputs."""
        results = self.session.run(self.fetched, {name: to_numpy(args[at]) for name, at in self.feeds})
        values = dict(zip(self.fetched, (to_tensor(item, self.device_anchor.device) for item in results), strict=True))
        return values[self.outputs[0]] if len(self.outputs) == 1 else tuple(values.get(name) for name in self.outputs)

    def extra_repr(self) -> str:
        """Name the operator."""
        return self.op_type


def run_in_runtime(
    node: Node,
    kinds: Mapping[str, str],
    fixed: Mapping[str, TensorProto],
    opsets: Iterable[OperatorSetIdProto],
    functions: Iterable[FunctionProto],
    ir_version: int,
) -> RuntimeNode:
    """Return the node as a session of its own.

    `kinds` are ONNX Runtime's words for the types of values; `fixed` are constants that become part of the
    one-node model, all other inputs are fed at each call.
    """
    names = dict.fromkeys(name for name in node.inputs if name)
    missing = [name for name in names if name not in fixed and name not in kinds]
    if missing:
        raise ModelError(
            f"node {node.name} ({node.proto.op_type}) reads {missing[0]}, which nothing in the model makes"
        )
    graph = onnx.GraphProto(
        name="node",
        node=[node.proto],
        initializer=[fixed[name] for name in names if name in fixed],
        input=[_value(name, kinds[name]) for name in names if name not in fixed],
        output=[_value(name, kinds[name]) for name in node.outputs if name],
    )
    model = ModelProto(ir_version=ir_version, graph=graph, opset_import=opsets, functions=functions)
    return RuntimeNode(model, node.inputs, node.outputs)


def _value(name: str, kind: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name, type=type_proto(kind))
