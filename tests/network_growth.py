"""A network that grows node by node as hypothesis draws, over values of known shapes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSETS = (17, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22)
DYNAMIC = 3  # how many samples shapes are worked out with where the model leaves that free
LARGEST = 4096  # elements per sample: steps that grow a value read none of more than a quarter of this


@dataclass(frozen=True)
class Value:
    """A tensor of the network; the first axis of an activation holds the samples."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape[1:])


class Unfit(Exception):
    """No value so far is one that the step could read."""


class Network:
    """A network that grows: its nodes and constants, and the activations that later steps may read.

    Shapes come from onnx's own inference, node by node; where that needs to know integers that are computed, the step
    states them. `draw` is hypothesis's.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.opset = self.one(*OPSETS)
        self.batch = self.one(None, 1, 2)  # None: left free
        self.stored = self.one("plain", "plain", "mixed")
        self.space_is_free, self.shapes_are_declared = self.flip(), self.flip()
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.values: list[Value] = []
        self._types: dict[str, onnx.TypeProto] = {}

    # --- drawing -----------------------------------------------------------------------------------------------

    def one(self, *options: Any) -> Any:
        """Draw one of the options; a failing example is shrunk towards the first."""
        return self.draw(st.sampled_from(options))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def some(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, max(least, most)))

    def pick(self, fits: Callable[[Value], bool] = lambda value: True) -> Value:
        """Draw an activation that fits: half the time the newest. Raises Unfit where there is none."""
        found = [value for value in reversed(self.values) if fits(value)]
        if not found:
            raise Unfit
        return found[0] if self.flip() else self.one(*found)

    def features(self, *ranks: int) -> Value:
        """Draw an activation of one of the ranks (by default 3 to 5), small enough to grow."""
        return self.pick(lambda value: value.rank in (ranks or (3, 4, 5)) and value.size <= LARGEST // 4)

    # --- growing -----------------------------------------------------------------------------------------------

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        made: int = 1,
        shape: Sequence[int] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a node and return its output, or a list of several; `shape` is stated where it cannot be inferred."""
        names = [f"v{len(self._types) + i}" for i in range(made)]
        node = helper.make_node(op_type, [v.name if v else "" for v in inputs], names, domain=domain, **attributes)
        self.nodes.append(node)
        types = self._infer(node) if shape is None else dict.fromkeys(names, _float(shape))
        results = []
        for name in names:
            self._types[name] = types[name]
            results.append(Value(name, _sizes(types[name])))
        return results if made > 1 else results[0]

    def constant(self, array: np.ndarray, *, by_node: bool = False) -> Value:
        """Add a constant, as an initializer or by a Constant node."""
        if by_node:
            return self.op("Constant", value=numpy_helper.from_array(array))
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return Value(name, array.shape)

    def ints(self, *numbers: int) -> Value:
        return self.constant(np.array(numbers, np.int64))

    def number(self, value: float) -> Value:
        return self.constant(np.array(value, np.float32))

    def weight(self, *shape: int, fan_in: int | None = None) -> Value:
        """Add random numbers that keep the magnitude of what they are multiplied with, stored in one of many ways."""
        scale = (fan_in or prod(shape[1:]) or 1) ** -0.5
        array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        ways = ("initializer", "Constant", "Cast", "DequantizeLinear", "Identity", "Transpose")
        return self._store(array, "initializer" if self.stored == "plain" else self.one(*ways))

    def vector(self, *shape: int) -> Value:
        """Add random numbers near 1: scales, slopes, variances."""
        array = self.rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return self.constant(array, by_node=self.stored == "mixed" and self.flip())

    def sized(self, name: str, numbers: Sequence[int], since: int) -> tuple[list[Value], dict[str, list[int]]]:
        """Return what states integers: an attribute in older opsets, a constant input `since` some opset."""
        return ([], {name: list(numbers)}) if self.opset < since else ([self.ints(*numbers)], {})

    def input(self, *shape: int) -> Value:
        """Add an input of these sizes per sample."""
        value = Value(f"x{len(self.inputs)}", (self.batch or DYNAMIC, *shape))
        self._types[value.name] = _float(value.shape)
        self.inputs.append(value)
        return value

    def unread(self) -> list[Value]:
        """Return the activations that nothing reads."""
        read = {name for node in self.nodes for name in node.input}
        read |= {name for node in self.nodes for a in node.attribute for inner in a.g.node for name in inner.input}
        return [value for value in self.values if value.name not in read]

    # --- the result --------------------------------------------------------------------------------------------

    def feeds(self, batch: int) -> dict[str, np.ndarray]:
        """Return inputs for the model; `batch` counts where the model leaves that free."""
        rng = np.random.default_rng(batch)
        sizes = [(self.batch or batch, *value.shape[1:]) for value in self.inputs]
        return {v.name: rng.standard_normal(s).astype(np.float32) for v, s in zip(self.inputs, sizes, strict=True)}

    def model(self) -> onnx.ModelProto:
        """Return the model."""
        between = [value for value in self.values if value not in (*self.inputs, *self.outputs)]
        inputs = [self._declared(value, "HWD") for value in self.inputs]
        outputs, shapes = ([self._declared(value) for value in values] for values in (self.outputs, between))
        shapes = shapes if self.shapes_are_declared else []
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, self.initializers, value_info=shapes)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports[:1]))

    def __repr__(self) -> str:
        """Return the model as ONNX text, in which constants of many numbers are left out."""
        return "\n" + re.sub(r"\{[-0-9.,e]{80,}\}", "{…}", onnx.printer.to_text(self.model()))

    def _declared(self, value: Value, names: Sequence[str | None] = (None,) * 8) -> onnx.ValueInfoProto:
        sizes: list[int | str | None] = ["N" if self.batch is None else self.batch, *value.shape[1:]]
        if self.space_is_free:
            sizes[2:] = names[: len(sizes) - 2]
        return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes)

    def _infer(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        data = {tensor.name: tensor for tensor in self.initializers if tensor.name in node.input}
        types = {name: self._types[name] for name in node.input if name in self._types}
        for name, tensor in data.items():
            types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        imports = [helper.make_opsetid("", self.opset)]
        return onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)

    def _store(self, array: np.ndarray, way: str) -> Value:
        match way:
            case "Cast":
                return self.op("Cast", self.constant(array.astype(np.float16)), to=TensorProto.FLOAT)
            case "DequantizeLinear":
                return self._quantised(array)
            case "Identity":
                return self.op("Identity", self.constant(array))
            case "Transpose":
                return self.op("Transpose", self.constant(np.ascontiguousarray(array.T)))
        return self.constant(array, by_node=way == "Constant")

    def _quantised(self, array: np.ndarray) -> Value:
        whole = np.clip(np.round(array * 40), -127, 127).astype(np.int8)
        zero = np.zeros((), np.int8)
        if self.opset < 13 or self.flip():
            return self.op("DequantizeLinear", self.constant(whole), self.number(1 / 40), self.constant(zero))
        scales = self.rng.uniform(0.02, 0.03, array.shape[0]).astype(np.float32)
        zeros = np.zeros(array.shape[0], np.int8)
        inputs = [self.constant(each) for each in (whole, scales, zeros)]
        return self.op("DequantizeLinear", *inputs, axis=0)


def _float(shape: Sequence[int]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(TensorProto.FLOAT, shape)


def _sizes(kind: onnx.TypeProto) -> tuple[int, ...]:
    dims = kind.tensor_type.shape.dim
    assert all(dim.HasField("dim_value") for dim in dims), kind
    return tuple(dim.dim_value for dim in dims)
