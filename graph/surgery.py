"""What a mend sees and does: the widths that are left, and the sizes that a node states."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graph.channels import Channels, Labels
from graph.registry import MENDS, operator
from graph.walk import constant_array, identity, subgraphs

# operators that keep the number of entries, or take them by constants: safe to recompute on shape arithmetic
# fmt: off - rows read better than a column
_ARITHMETIC = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Mod",
        "Min",
        "Max",
        "Neg",
        "Abs",
        "Cast",
        "Gather",
        "Concat",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Identity",
        "ReduceProd",
        "Where",
        "Equal",
        "Greater",
        "Less",
        "Not",
        "And",
        "Or",
    }
)
# fmt: on


class Surgery:
    """The graph of a copy whose weights are cut already; sizes that nodes state are put right one node after another.

    Integers that the graph computes from shapes change with the widths. They are recomputed here, so that a size
    is overridden only where it would be wrong, and anything else that reads them is given the old ones.
    """

    def __init__(self, model: ir.Model, channels: Channels, removed: np.ndarray) -> None:
        """`removed` are the labels that go."""
        self.graph = model.graph
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self._channels = channels
        self._removed = removed
        self._now = dict(channels.integers)

    # --- widths ------------------------------------------------------------------------------------------------

    def kept(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the mask of channels left along the value's channel axis, or None where none is gone."""
        labels = self._labels(value)
        if labels is None or labels.axis is None:
            return None
        mask = ~np.isin(labels.ids, self._removed)
        return None if mask.all() else mask

    def axis(self, value: ir.Value | None) -> int | None:
        """Return the axis along which the value's channels lie."""
        labels = self._labels(value)
        return None if labels is None else labels.axis

    def old_shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return the traced shape before anything was removed."""
        labels = self._labels(value)
        if labels is not None:
            return labels.shape
        array = constant_array(value)
        return () if array is None else array.shape

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return the traced shape with the channels that are left."""
        shape, mask, axis = self.old_shape(value), self.kept(value), self.axis(value)
        if mask is None or axis is None:
            return shape
        return (*shape[:axis], int(mask.sum()), *shape[axis + 1 :])

    def width(self, value: ir.Value | None, axis: int) -> int:
        """Return the size along an axis with the channels that are left; of a constant, its size as it is now."""
        return self.shape(value)[axis]

    # --- sizes that nodes state --------------------------------------------------------------------------------

    def has(self, node: ir.Node, name: str, index: int) -> bool:
        """Whether a node states `name`, as an attribute (old opsets) or as input `index`."""
        return name in node.attributes or (index < len(node.inputs) and node.inputs[index] is not None)

    def before(self, node: ir.Node, name: str, index: int) -> np.ndarray:
        """Return the integers that the node stated before anything was removed."""
        if name in node.attributes:
            return np.array(node.attributes[name].as_ints(), np.int64)
        value = node.inputs[index]
        array = constant_array(value)
        return self._channels.integers[str(value.name if value else "")] if array is None else array

    def want(self, node: ir.Node, name: str, index: int, entries: Mapping[int, int]) -> None:
        """Make a node state what it stated before, but for `entries`."""
        before = self.before(node, name, index)
        wanted = before.copy()
        for entry, size in entries.items():
            wanted[entry] = size
        if name in node.attributes:
            if entries:
                self.set_ints(node, name, wanted.tolist())
            return
        value = node.inputs[index]
        assert value is not None
        constant = constant_array(value)
        now = self._now[str(value.name)] if constant is None else constant
        wrong = np.asarray(now != wanted)
        if not wrong.any():
            return
        if constant is not None or wrong.all():
            self.give(node, index, wanted)
        else:
            self._override(node, index, wrong, wanted)

    def give(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        """Feed input `index` of one node, and of no other, from a new initializer."""
        while len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self._initializer(f"{identity(node)}_{index}", array))

    def set_int(self, node: ir.Node, name: str, value: int) -> None:
        """Set an integer attribute."""
        node.attributes[name] = ir.AttrInt64(name, value)

    def set_ints(self, node: ir.Node, name: str, values: list[int]) -> None:
        """Set an attribute that is a list of integers."""
        node.attributes[name] = ir.AttrInt64s(name, values)

    # --- driving -----------------------------------------------------------------------------------------------

    def step(self, node: ir.Node) -> None:
        """Mend one node, then recompute the integers that it makes or restore those that it reads."""
        mend = MENDS.get(operator(node))
        known = set(node.inputs)
        if mend is not None and any(self.kept(value) is not None for value in (*node.inputs, *node.outputs)):
            mend(node, self)
        changed = [index for index, value in enumerate(node.inputs) if value in known and self._changed(value)]
        if operator(node) in (("", "Shape"), ("", "Size")):
            self._measure(node)
        elif changed and operator(node) in {("", name) for name in _ARITHMETIC} and self._computable(node):
            self._recompute(node)
        elif mend is None:
            for index in changed:
                self.want(node, "", index, {})

    def _labels(self, value: ir.Value | None) -> Labels | None:
        return None if value is None else self._channels.values.get(str(value.name))

    def _changed(self, value: ir.Value | None) -> bool:
        name = "" if value is None else str(value.name)
        if name not in self._channels.integers:
            return False
        return not np.array_equal(self._now[name], self._channels.integers[name])

    def _measure(self, node: ir.Node) -> None:
        shape, name = self.shape(node.inputs[0]), str(node.outputs[0].name)
        if node.op_type == "Size":
            self._now[name] = np.array(np.prod(shape, dtype=np.int64))
            return
        end = node.attributes.get_int("end", len(shape))
        self._now[name] = np.array(shape[node.attributes.get_int("start", 0) : end], np.int64)

    def _computable(self, node: ir.Node) -> bool:
        names = [str(value.name) for value in node.outputs]
        inputs = [value for value in node.inputs if value is not None]
        return (
            not subgraphs(node)
            and all(name in self._now for name in names)
            and all(value.name in self._now or constant_array(value) is not None for value in inputs)
        )

    def _recompute(self, node: ir.Node) -> None:
        feeds = {}
        for value in node.inputs:
            if value is not None:
                constant = constant_array(value)
                feeds[str(value.name)] = self._now[str(value.name)] if constant is None else constant
        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets={"": self.opset})
        results = evaluator.run(None, feeds)
        for value, result in zip(node.outputs, results, strict=True):
            self._now[str(value.name)] = np.asarray(result)

    def _override(self, node: ir.Node, index: int, wrong: np.ndarray, wanted: np.ndarray) -> None:
        """Replace some entries of a computed size, leaving the others (the batch, say) to the graph."""
        name = f"{identity(node)}_{index}"
        chosen = ir.node(
            "Where",
            [self._initializer(f"{name}_which", wrong), self._initializer(f"{name}_size", wanted), node.inputs[index]],
            name=self._free(f"{name}_stated"),
        )
        chosen.outputs[0].name = self._free(f"{name}_stated")
        self.graph.insert_before(node, chosen)
        node.replace_input_with(index, chosen.outputs[0])

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=self._free(name))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        taken = self._channels.values
        while name in taken or name in self.graph.initializers:
            name += "_"
        return name
