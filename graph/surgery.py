"""What a mend sees and does: the widths that are left, and the sizes that a node states."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graph.channels import Channels, Labels
from graph.constants import add_initializer
from graph.names import Names
from graph.registry import MENDS, operator
from graph.runtime import run_node
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
        self._names = Names(model)
        self._settled: set[int] = set()  # inputs of the node at hand whose integers are right

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
        """Return the traced shape before anything was removed; of a constant, its shape as it is now."""
        array, labels = constant_array(value), self._labels(value)
        if array is not None:
            return array.shape
        return () if labels is None else labels.shape

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
        self._settled.add(index)
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
        if np.array_equal(now, wanted):
            return
        if constant is None:
            self._override(node, index, np.asarray(now), wanted)
        else:
            self.give(node, index, wanted)

    def give(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        """Feed input `index` of one node, and of no other, from a new initializer."""
        while len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self._initializer(f"{identity(node)}_{index}", array))
        self._settled.add(index)

    def pick(self, node: ir.Node, index: int, axis: int, entries: np.ndarray) -> None:
        """Feed input `index` of one node with some entries, along an axis, of what it reads."""
        name = f"{identity(node)}_{index}"
        picked = self._initializer(f"{name}_entries", entries.astype(np.int64))
        self._insert(node, index, "Gather", [node.inputs[index], picked], axis)

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
        self._settled = set()
        if mend is not None and any(self.kept(value) is not None for value in (*node.inputs, *node.outputs)):
            mend(node, self)
        changed = [i for i, value in enumerate(node.inputs) if i not in self._settled and self._changed(value)]
        if operator(node) in (("", "Shape"), ("", "Size")):
            self._measure(node)
        elif changed and operator(node) in {("", name) for name in _ARITHMETIC} and self._computable(node):
            self._recompute(node)
        else:
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
        results = run_node(node, feeds, self.opset)
        for value, result in zip(node.outputs, results, strict=True):
            self._now[str(value.name)] = np.asarray(result)

    def _override(self, node: ir.Node, index: int, now: np.ndarray, wanted: np.ndarray) -> None:
        """Correct some entries of a computed size, leaving the others (the batch, say) to the graph.

        What was traced with one sample may count all samples as well (heads × batch), so sizes are scaled.
        """
        name, wrong = f"{identity(node)}_{index}", now != wanted
        if now.dtype.kind in "iu" and (now[wrong] > 0).all() and (wanted[wrong] > 0).all():
            common = np.gcd(now, wanted)
            for op_type, factor in (("Mul", wanted), ("Div", now)):
                array = np.where(wrong, factor // np.maximum(common, 1), 1).astype(now.dtype)
                self._insert(node, index, op_type, [node.inputs[index], self._initializer(f"{name}_of", array)])
        else:
            which = self._initializer(f"{name}_which", wrong)
            sizes = self._initializer(f"{name}_size", wanted)
            self._insert(node, index, "Where", [which, sizes, node.inputs[index]])

    def _insert(
        self, node: ir.Node, index: int, op_type: str, inputs: list[ir.Value | None], axis: int | None = None
    ) -> None:
        """Put a new node in front of input `index` of a node."""
        name = self._names.free(f"{identity(node)}_{index}_{op_type}")
        new = ir.node(op_type, inputs, {} if axis is None else {"axis": axis}, name=name)
        new.outputs[0].name = name
        self.graph.insert_before(node, new)
        node.replace_input_with(index, new.outputs[0])

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self.graph, self._names.free(name), array)
