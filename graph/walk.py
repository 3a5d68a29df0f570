"""What a rule sees and does while labels are carried through the graph in topological order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import onnx_ir as ir

from graph.channels import Axis, Frozen, Labels
from graph.partition import Ids, Partition
from graph.registry import RULES, Decline, operator
from graph.trace import Trace

NOTHING: Ids = np.zeros(0, np.int64)


class Role(Enum):
    """What a node does with the channels on a weight's axis."""

    PRODUCER = "producer"
    FOLLOWER = "follower"
    CONSUMER = "consumer"


@dataclass(frozen=True)
class Use:
    """One labelled axis of a constant, as read by input `index` of a node."""

    node: ir.Node
    index: int
    axis: Axis
    ids: Ids
    role: Role


@dataclass(frozen=True)
class Choice:
    """At a node, labels came to vary along several axes of one value, of these `sizes`: one could keep them."""

    sizes: tuple[int, ...]
    ids: Ids


class Walk:
    """Labels of all values so far, the partition of labels, and the labelled uses of constants.

    Rules read with `labels`, `constant`, `integers`, `shape`; they write with `fresh`, `union`, `fix`, `label`.
    """

    def __init__(self, model: ir.Model, trace: Trace, prefer: Mapping[str, int] | None = None) -> None:
        """Start with every input of the graph fixed; `prefer` says, by node, which axis to choose."""
        self.trace = trace
        self.prefer = prefer or {}
        self.choices: dict[str, Choice] = {}
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self.partition = Partition()
        self.values: dict[str, Labels] = {}
        self.uses: list[Use] = []
        self.frozen: list[Frozen] = []
        self._staged: list[Use] = []
        self._made: list[Ids] = []
        for value in model.graph.inputs:
            self.values[str(value.name)] = self.fixed(value)

    # --- reading -----------------------------------------------------------------------------------------------

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the traced shape; declines where the value is not a tensor that the run showed."""
        array = self.constant(value)
        if array is not None:
            return array.shape
        shape = self.trace.shapes.get(str(value.name))
        if shape is None:
            raise Decline(f"{value.name} is not a tensor of known shape")
        return shape

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the array of an initializer or Constant node, or None."""
        return constant_array(value)

    def integers(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the array of a constant, or of a small integer value as traced, or None."""
        if value is None:
            return None
        array = constant_array(value)
        return self.trace.integers.get(str(value.name)) if array is None else array

    def labels(self, value: ir.Value) -> Labels:
        """Return the labels of an operand, up to date; constants are fixed, as is a value with no free label."""
        found = self.values.get(str(value.name))
        if found is None or found.axis is None:
            return self.fixed(value)
        ids = self.partition.find(found.ids)
        return replace(found, ids=ids) if ids.any() else self.fixed(value)

    def fixed(self, value: ir.Value) -> Labels:
        """Return labels that say that no channel of the value can go."""
        array = constant_array(value)
        shape = array.shape if array is not None else self.trace.shapes.get(str(value.name), ())
        return Labels(shape, None, NOTHING)

    def along(self, labels: Labels, axis: int) -> Ids:
        """Return the ids along an axis: zeros where the labels do not vary along it."""
        if labels.axis == axis:
            return labels.ids
        return np.zeros(labels.shape[axis], np.int64)

    def worth(self, ids: Ids) -> int:
        """Return how many removable sets there are among the labels, of those to which a weight's channel belongs."""
        roots = self.partition.find(ids)
        if not roots.any():
            return 0
        made = self.partition.find(np.concatenate([NOTHING, *self._made]))
        return int(np.isin(np.unique(roots[roots > 0]), made).sum())

    def outputs(self, node: ir.Node, axis: int | None, ids: Ids) -> tuple[Labels, ...]:
        """Return the same labels for every output of a node, with the traced shapes."""
        return tuple(self.made(value, axis, ids) for value in node.outputs)

    def made(self, value: ir.Value, axis: int | None, ids: Ids) -> Labels:
        """Return labels of an output; declines where they do not fit its traced shape."""
        if not value.name:
            return Labels((), None, NOTHING)
        shape = self.shape(value)
        if axis is None or not ids.any():
            return Labels(shape, None, NOTHING)
        if shape[axis] != len(ids):
            raise Decline(f"axis {axis} of {value.name}, of shape {shape}, does not hold {len(ids)} channels")
        return Labels(shape, axis, ids)

    # --- writing -----------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> Ids:
        """Return new labels; an axis of one channel is fixed, since a tensor must not become empty."""
        if count < 2:
            return np.zeros(count, np.int64)
        self._made.append(self.partition.fresh(count))
        return self._made[-1]

    def spare(self, count: int) -> Ids:
        """Return new labels of channels that no weight makes (padding, constants): fixing them costs nothing."""
        return self.partition.fresh(count)

    def union(self, left: Ids, right: Ids) -> Ids:
        """Tie labels pairwise and return the result."""
        self.partition.union(left, right)
        return self.partition.find(left)

    def fix(self, node: ir.Node, ids: Ids, reason: str) -> None:
        """Fix labels, and record why where they are worth something."""
        if self.worth(ids):
            self.frozen.append(Frozen(identity(node), node.op_type, reason))
        self.partition.freeze(ids)

    def choose(self, node: ir.Node, array: Ids, axes: Sequence[int], best: int) -> int:
        """Return which of the axes, along all of which the labels vary, is to keep them; the choice is recorded."""
        sizes = tuple(array.shape[axis] for axis in axes)
        self.choices[identity(node)] = Choice(sizes, np.unique(array[array > 0]))
        place = self.prefer.get(identity(node), len(axes))
        return axes[place] if place < len(axes) else best  # other choices before it may leave fewer axes

    def most(self, node: ir.Node, candidates: Sequence[Labels]) -> Labels:
        """Keep the labels that are worth most and fix the others."""
        best = candidates[0] if len(candidates) == 1 else max(candidates, key=lambda labels: self.worth(labels.ids))
        for labels in candidates:
            if labels is not best:
                self.fix(node, labels.ids, f"channels meet on axes {labels.axis} and {best.axis} of one value")
        return self.refreshed(best)

    def refreshed(self, labels: Labels) -> Labels:
        """Return labels after the unions made since they were read."""
        return replace(labels, ids=self.partition.find(labels.ids))

    def label(self, node: ir.Node, index: int, axis: int, ids: Ids, role: Role = Role.FOLLOWER) -> None:
        """Record that channels `ids` lie on an axis of the constant at input `index` (kept if the rule succeeds)."""
        value = node.inputs[index]
        assert value is not None
        self._staged.append(Use(node, index, Axis(str(value.name), axis), ids, role))

    # --- driving -----------------------------------------------------------------------------------------------

    def step(self, node: ir.Node) -> None:
        """Carry labels through one node, by its rule or, failing that, by fixing all that it touches."""
        self._staged = []
        try:
            outputs = self._apply(node)
        except Decline as reason:
            self._fix(node, str(reason))
            return
        self.uses += self._staged
        for value, labels in zip(node.outputs, outputs, strict=True):
            if value.name:
                self.values[value.name] = labels

    def _apply(self, node: ir.Node) -> tuple[Labels, ...]:
        found = RULES.get(operator(node))
        if inside := [attribute.name for attribute in node.attributes.values() if _holds_graphs(attribute)]:
            raise Decline(f"what is computed in its {' and '.join(inside)} is not followed")
        if found is None:
            domain = operator(node)[0] or "ONNX's own"
            raise Decline(f"there is no rule for the operator {node.op_type} (domain: {domain})")
        return found(node, self)

    def _fix(self, node: ir.Node, reason: str) -> None:
        touched = [self.labels(value).ids for value in operands(node)]
        # what the rule had labelled is fixed too: these constants keep their axes
        ids = np.concatenate([NOTHING, *touched, *(use.ids for use in self._staged)])
        if self.worth(ids) or has_weights(node):
            self.frozen.append(Frozen(identity(node), node.op_type, reason))
        self.partition.freeze(ids)
        for value in node.outputs:
            if value.name:
                self.values[value.name] = self.fixed(value)


def identity(node: ir.Node) -> str:
    """Return what identifies a node: the name of its first output that has one."""
    return next((str(value.name) for value in node.outputs if value.name), str(node.name))


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of an initializer, or of a Constant node's tensor."""
    if value is None:
        return None
    if value.const_value is not None and value.is_initializer():
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor().numpy()
    return None


def subgraphs(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Return the graphs that a node carries as attributes (If, Loop, Scan …)."""
    found: list[ir.Graph] = []
    for attribute in filter(_holds_graphs, node.attributes.values()):
        found += [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
    return tuple(found)


def _holds_graphs(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def operands(node: ir.Node) -> Iterable[ir.Value]:
    """Yield what a node reads: its inputs, and the outer values that its subgraphs capture."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        # inner values are harmless here: they have no labels
        for inner in graph.all_nodes():
            yield from (value for value in inner.inputs if value is not None)


def has_weights(node: ir.Node) -> bool:
    """Whether a node reads a constant of floats with more than one element, so that fixing it costs something."""
    arrays = [constant_array(value) for value in operands(node)]
    return any(array is not None and array.dtype.kind == "f" and array.size > 1 for array in arrays)
