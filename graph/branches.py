"""Which groups may go altogether, and what a graph without them is like.

Without any channel of a group some values have no channel left: they are EMPTY. What reads them is followed in
topological order:

    every output is empty                                      the node goes
    Concat along the channels, some operands empty             it joins the others
    Conv, ConvTranspose, Gemm, MatMul of an empty value        a constant per channel: its bias, or 0
    elementwise, of constants alone                            a constant
    Conv of size 1, Gemm, MatMul of a constant                 a constant
    elementwise, of constants and a value of the full shape    what it was before, with another operand
    anything else                                              LOST: it cannot be had

A group may go where no output of the graph is empty, constant or lost; what is lost on the way there but read by
nothing that stays does not matter.

Any choice of removable groups may go together. With E(g), K(g) the empty and the constant values of g alone, two
things see to it that those of a choice are the unions of its groups' own, so that each node that stays meets only
what it met before: no value is made of the channels of several removable groups and of nothing else, and the value of
full shape which keeps an elementwise node without g is in no other group's E or K, unless that one takes the node too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import onnx_ir as ir

from graph.channels import ChannelGroup, Channels, Site
from graph.registry import operator
from graph.rules.pointwise import BROADCAST, UNARY
from graph.walk import constant_array, identity, operands, subgraphs


class Gone(Enum):
    """What is left of a value: nothing, or nothing that could be computed."""

    EMPTY = "has no channel left"
    LOST = "cannot be computed"


Shape = tuple[int, ...]
State = Gone | Shape  # the shape is that of a constant in the value's place, before anything is removed

_DRAWN = {"Dropout", "CastLike"}  # by chance, or for the type of what is no longer there
_ELEMENTWISE = {("", name) for name in (*UNARY, *BROADCAST) if name not in _DRAWN}


@dataclass(frozen=True)
class Remains:
    """What is left of the values that change, by name; the others stay what they were.

    `anchors` are, for the output of each elementwise node that stays, the operands of which any one keeps its shape.
    `cause` is a sentence about the first output of the graph that cannot stay, "" where all can.
    """

    states: Mapping[str, State]
    anchors: Mapping[str, frozenset[str]]
    cause: str = ""


@dataclass
class Graph:
    """A graph read once, to be followed for many groups."""

    model: ir.Model
    channels: Channels
    readings: list[tuple[ir.Node, tuple[str, ...]]] = field(default_factory=list)
    data: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """List what each node reads, and the values that hold what the inputs hold, not only their sizes."""
        self.data |= {str(value.name) for value in self.model.graph.inputs}
        for node in self.model.graph:
            reads = tuple(str(value.name) for value in operands(node) if constant_array(value) is None)
            self.readings.append((node, reads))
            if node.op_type not in {"Shape", "Size"} and not self.data.isdisjoint(reads):
                self.data |= {str(value.name) for value in node.outputs}

    def shape(self, name: str) -> Shape:
        """Return the traced shape of a value, before anything is removed."""
        return self.channels.values[name].shape


def branches(model: ir.Model, channels: Channels) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Return for every group why it must keep a channel, or "" where it may go; any of those that may, together.

    Then, for those that may go, the other groups that serve nothing any more without them.
    """
    graph, made_of = Graph(model, channels), _made_of(channels)
    pure: dict[str, set[str]] = defaultdict(set)
    for name, groups in made_of.items():
        if len(groups) == 1:
            pure[next(iter(groups))].add(name)
    alone = {group.name: follow(graph, pure[group.name]) for group in channels.groups}
    why = {name: remains.cause for name, remains in alone.items()}
    width = {group.name: len(group.channels) for group in channels.groups}
    for groups in dict.fromkeys(made_of.values()):
        if len(groups) > 1 and not any(why[name] for name in groups):
            last = max(sorted(groups), key=lambda name: width[name])
            why[last] = f"nothing would be left of what it makes with {', '.join(sorted(groups - {last}))}"
    for name in (name for name in alone if not why[name]):
        others = {other: alone[other].states for other in alone if other != name and not why[other]}
        if crowd := _unanchored(alone[name], others):
            why[name] = f"{crowd} may go, and one of the two must keep one"
    users = {group.name: {site.node for site in _sites(group)} for group in channels.groups}
    serving = {name: _serving(graph, alone[name].states) for name in alone if not why[name] and pure[name]}
    with_it = {
        name: frozenset(other for other, nodes in users.items() if other != name and nodes.isdisjoint(serving[name]))
        for name in serving
    }
    return why, {name: others for name, others in with_it.items() if others}


def follow(graph: Graph, empty: set[str]) -> Remains:
    """Return what is left of the graph where the values `empty`, of labelled channels, have none left."""
    states: dict[str, State] = dict.fromkeys(empty, Gone.EMPTY)
    anchors: dict[str, frozenset[str]] = {}
    reason = ""
    for node, reads in graph.readings:
        outputs = [str(value.name) for value in node.outputs if value.name]
        left = [name for name in outputs if name not in empty]
        if not left or (len(left) == len(outputs) and not any(name in states for name in reads)):
            continue
        state = _state(node, reads, states, graph, anchors) if len(left) == len(outputs) else Gone.LOST
        if state is not None:
            states |= dict.fromkeys(left, state)
        if state is Gone.LOST and not reason and not any(states.get(name) is Gone.LOST for name in reads):
            reason = f"{node.op_type} {left[0]} could not be computed without it"
    for output in graph.model.graph.outputs:
        if (state := states.get(str(output.name))) is not None:
            return Remains(states, anchors, reason or f"the output {output.name} would be constant")
    return Remains(states, anchors)


def emptied(channels: Channels, removed: np.ndarray) -> set[str]:
    """Return the names of the values all of whose channels are among the labels `removed`."""
    return {name for name, labels in channels.values.items() if len(labels.ids) and np.isin(labels.ids, removed).all()}


def contracted(node: ir.Node) -> tuple[int, int] | None:
    """Return which input a node that mixes channels takes its data from, and the axis of the data that it mixes.

    None for another node, and where an operand that should be constant is computed.
    """
    if operator(node) not in {("", "Conv"), ("", "ConvTranspose"), ("", "Gemm"), ("", "MatMul")}:
        return None
    fixed = [value is None or constant_array(value) is not None for value in node.inputs]
    if node.op_type == "MatMul":
        if fixed == [False, True]:
            return 0, -1
        return (1, -2) if fixed == [True, False] else None
    if fixed[0] or not all(fixed[1:]) or node.attributes.get_int("transA", 0) != 0:
        return None
    return 0, 1


def _sites(group: ChannelGroup) -> tuple[Site, ...]:
    return (*group.producers, *group.followers, *group.consumers)


def _serving(graph: Graph, states: Mapping[str, State]) -> set[str]:
    """Return the nodes, by identity, that an output of the graph still hangs on."""
    needed, serving = {str(value.name) for value in graph.model.graph.outputs}, set()
    for node, reads in reversed(graph.readings):
        if not needed.isdisjoint(str(value.name) for value in node.outputs):
            serving.add(identity(node))
            needed.update(name for name in reads if name not in states)
    return serving


def _made_of(channels: Channels) -> dict[str, frozenset[str]]:
    """Return the groups of which a value is made, of the values that are made of nothing else."""
    group_of = {label: group.name for group in channels.groups for label in group.channels}
    found = {}
    for name, labels in channels.values.items():
        groups = {group_of.get(label) for label in np.unique(labels.ids).tolist()}
        if groups and None not in groups:
            found[name] = frozenset(str(group) for group in groups)
    return found


def _unanchored(remains: Remains, others: Mapping[str, Mapping[str, State]]) -> str:
    """Return the first other group without which an elementwise node of this one has no operand of full shape left."""
    for out, needed in remains.anchors.items():
        rivals = {other: states for other, states in others.items() if not isinstance(states.get(out), Gone)}
        crowd = {name: next((o for o, states in rivals.items() if name in states), "") for name in needed}
        if all(crowd.values()):
            return min(crowd.values())
    return ""


def _state(
    node: ir.Node, reads: Sequence[str], states: Mapping[str, State], graph: Graph, anchors: dict[str, frozenset[str]]
) -> State | None:
    """Return what is left of the outputs of a node that reads what has changed; None where they stay."""
    known = [states.get(name) for name in reads]
    if Gone.LOST in known or subgraphs(node) or len([v for v in node.outputs if v.name]) != 1:
        return Gone.LOST
    shape = graph.shape(str(node.outputs[0].name))
    if operator(node) == ("", "Concat"):
        along = node.attributes["axis"].as_int() % len(shape)
        labels = [graph.channels.values[name] for name in reads if states.get(name) is Gone.EMPTY]
        stays = all(each is None or each is Gone.EMPTY for each in known)
        return None if stays and all(each.axis == along for each in labels) else Gone.LOST
    if (mixed := contracted(node)) is not None:
        return _mixed(node, mixed, states, graph, shape)
    if Gone.EMPTY in known or operator(node) not in _ELEMENTWISE | {("", "BatchNormalization")}:
        return Gone.LOST
    if node.attributes.get_int("broadcast", 0) or node.attributes.get_int("training_mode", 0):
        return Gone.LOST
    if None not in known:
        return _broadcast(node, states)
    full = frozenset(n for n in reads if n not in states and n in graph.data and graph.shape(n) == shape)
    if not full or node.op_type in {"PRelu", "BatchNormalization"}:  # what their parameters may be, others decide
        return Gone.LOST
    anchors[str(node.outputs[0].name)] = full
    return None


def _mixed(node: ir.Node, mixed: tuple[int, int], states: Mapping[str, State], graph: Graph, shape: Shape) -> State:
    """Return what is left of the output of a Conv, Gemm … of an empty or a constant value."""
    index, axis = mixed
    data = node.inputs[index]
    assert data is not None
    state, rank = states[str(data.name)], len(shape)
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if node.op_type == "Gemm" and bias is not None and bias.size not in (1, shape[1]):
        return Gone.LOST  # it differs from row to row
    if not isinstance(state, Gone):
        traced = graph.shape(str(data.name))
        if len(state) != len(traced) or state[axis] != traced[axis] or not _pointlike(node):
            return Gone.LOST
    if node.op_type == "MatMul":
        weight = constant_array(node.inputs[1 - index])
        if weight is None or weight.ndim != 2:
            return Gone.LOST
        place = rank + axis
        return tuple(size if i == place else 1 for i, size in enumerate(shape))
    return tuple(size if i == 1 else 1 for i, size in enumerate(shape))


def _pointlike(node: ir.Node) -> bool:
    """Whether a node makes of a value that is the same at all places one that is so, too: no size, no padding."""
    if not node.op_type.startswith("Conv"):
        return True
    weight = constant_array(node.inputs[1])
    assert weight is not None
    moves = (*node.attributes.get_ints("pads", ()), *node.attributes.get_ints("output_padding", ()))
    plain = node.op_type == "Conv" and node.attributes.get_string("auto_pad", "NOTSET") in {"NOTSET", "VALID"}
    return plain and set(weight.shape[2:]) <= {1} and not any(moves)


def _broadcast(node: ir.Node, states: Mapping[str, State]) -> State:
    shapes = []
    for value in node.inputs if node.op_type != "BatchNormalization" else node.inputs[:1]:
        if value is None:
            continue
        array = constant_array(value)
        state = states[str(value.name)] if array is None else array.shape
        assert not isinstance(state, Gone)
        shapes.append(state)
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        return Gone.LOST
