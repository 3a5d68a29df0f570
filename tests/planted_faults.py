"""Wrong rules, each with a small model on which it matters, for tests that show that the law catches them."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

import graph.rules  # noqa: F401 - fills the table
from graph.channels import Labels
from graph.registry import RULES, Rule
from graph.walk import Role, Walk

RIGHT = dict(RULES)  # as they are before a test replaces one
Made = tuple[Labels, ...]


def right(node: ir.Node, walk: Walk) -> Made:
    return RIGHT[(node.domain, node.op_type)](node, walk)


def passed_on(node: ir.Node, walk: Walk) -> Made:
    """Give the outputs the labels of the first input, whatever the operator does to it, and label no constant."""
    labels = walk.labels(_data(node))
    return walk.outputs(node, labels.axis, labels.ids)


def joined_backwards(node: ir.Node, walk: Walk) -> Made:
    """Join the labels of a Concat's operands in the opposite order."""
    (out,), axis = node.outputs, node.attributes["axis"].as_int() % len(walk.shape(node.outputs[0]))
    operands = [walk.labels(value) for value in reversed(node.inputs) if value is not None]
    return (walk.made(out, axis, np.concatenate([walk.along(labels, axis) for labels in operands])),)


def cut_one_off(node: ir.Node, walk: Walk) -> Made:
    """Cut a Split's labels one channel beside where the tensor is cut."""
    made = right(node, walk)
    if any(labels.axis != made[0].axis or labels.axis is None for labels in made):
        return made
    joined = np.roll(np.concatenate([labels.ids for labels in made]), 1)
    bounds = np.cumsum([len(labels.ids) for labels in made])[:-1]
    return tuple(replace(labels, ids=ids) for labels, ids in zip(made, np.split(joined, bounds), strict=True))


def cut_from_the_start(node: ir.Node, walk: Walk) -> Made:
    """Take a Slice's labels from the first channel on."""
    (made,) = right(node, walk)
    labels = walk.labels(_data(node))
    return (replace(made, ids=labels.ids[: len(made.ids)]) if made.axis == labels.axis else made,)


def untied(node: ir.Node, walk: Walk) -> Made:
    """Forget which channels a rule has tied."""
    partition = walk.partition.copy()
    made = right(node, walk)
    walk.partition = partition
    return made


def on_another_axis(node: ir.Node, walk: Walk) -> Made:
    """Put the labels on another axis of the same size."""
    (made,) = right(node, walk)
    others = [i for i, size in enumerate(made.shape) if i != made.axis and size == len(made.ids)]
    return (replace(made, axis=others[0]) if others else made,)


def tiled(node: ir.Node, walk: Walk) -> Made:
    """Lay the labels out as if the channels changed fastest."""
    (made,) = right(node, walk)
    ids = walk.labels(_data(node)).ids
    return (replace(made, ids=np.tile(ids, len(made.ids) // max(len(ids), 1))) if made.axis == 1 else made,)


def depthwise_as_plain(node: ir.Node, walk: Walk) -> Made:
    """Take every convolution with groups for one that makes new channels."""
    if node.attributes.get_int("group", 1) == 1 or walk.constant(node.inputs[1]) is None:
        return right(node, walk)
    made = walk.fresh(walk.shape(node.outputs[0])[1])
    walk.label(node, 1, 0, made, Role.PRODUCER)
    if len(node.inputs) > 2:
        walk.label(node, 2, 0, made)
    return (walk.made(node.outputs[0], 1, made),)


def other_mode(node: ir.Node, walk: Walk) -> Made:
    """Read the channels of a DepthToSpace in the order of the other mode."""
    labels = walk.labels(_data(node))
    if labels.axis != 1:
        return right(node, walk)
    block = node.attributes["blocksize"].as_int() ** 2
    crd = node.attributes.get_string("mode", "DCR") == "CRD"
    table = labels.ids.reshape(block, -1) if crd else labels.ids.reshape(-1, block).T
    return walk.outputs(node, 1, walk.union(table, np.broadcast_to(table[:1], table.shape))[0])


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _between(nodes: str, made: int, read: int, constants: str = "") -> str:
    """Return a model whose first convolution makes `a` of `made` channels and whose last reads `b` of `read`."""
    return f"""(float[N,3,4,4] x) => (float[N,5,h,w] y)
        <float[{made},3,1,1] w1, float[5,{read},1,1] w2{", " if constants else ""}{constants}> {{
        a = Conv(x, w1)
        {nodes}
        y = Conv(b, w2)
    }}"""


SHUFFLE = _between(
    "r = Reshape(a, apart) t = Transpose<perm=[0,2,1,3,4]>(r) b = Reshape(t, whole)",
    9,
    9,
    "int64[5] apart = {0,3,3,4,4}, int64[4] whole = {0,9,4,4}",
)
SPLIT = _between(
    "c, d = Split<axis=1>(a, sizes) e = Conv(c, w3) f = Conv(d, w4) b = Add(e, f)",
    6,
    5,
    "float[5,2,1,1] w3, float[5,4,1,1] w4, int64[2] sizes = {2,4}",
)
SLICE = _between("b = Slice(a, from, to, axis)", 6, 3, "int64[1] from = {2}, int64[1] to = {5}, int64[1] axis = {1}")
GATHER = _between("b = Gather<axis=1>(a, i)", 6, 6, "int64[6] i = {5,4,3,2,1,0}")
DEPTHWISE = _between("d = Conv<group=6>(a, w3) b = Concat<axis=1>(a, d)", 6, 12, "float[6,1,1,1] w3")
GATE = _between("p = GlobalAveragePool(a) q = Conv(p, w3) g = Sigmoid(q) b = Mul(g, a)", 6, 6, "float[6,6,1,1] w3")
SHORTCUT = _between(
    "p = Pad(a, pads) c = Conv(a, w3) b = Add(p, c)",
    6,
    8,
    "float[8,6,1,1] w3, int64[8] pads = {0,1,0,0,0,1,0,0}",
)
SQUARE = """(float[N,3,4,4] x) => (float[N,16,5] y) <float[16,3,1,1] w1, float[16,5] w2, int64[3] s = {0,16,16}> {
    a = Conv(x, w1)
    r = Reshape(a, s)
    y = MatMul(r, w2)
}"""
FLATTEN = """(float[N,3,4,4] x) => (float[N,5] y) <float[6,3,1,1] w1, float[96,5] w2> {
    a = Conv(x, w1)
    f = Flatten(a)
    y = Gemm(f, w2)
}"""
PARAMETERS = ", ".join(f"float[6] {name}" for name in ("scale", "shift", "mean", "var"))

# operator, its wrong rule (None: its mend is left out), a model on which that matters
FAULTS: list[tuple[str, Rule | None, str]] = [
    ("Concat", joined_backwards, _between("c = Conv(x, w3) b = Concat<axis=1>(a, c)", 4, 10, "float[6,3,1,1] w3")),
    ("Add", passed_on, _between("c = Conv(x, w3) b = Add(a, c)", 6, 6, "float[6,3,1,1] w3")),
    ("Mul", passed_on, GATE),
    ("Transpose", passed_on, SHUFFLE),
    ("Reshape", untied, SHUFFLE),
    ("Reshape", on_another_axis, SQUARE),
    ("Flatten", tiled, FLATTEN),
    ("Conv", depthwise_as_plain, DEPTHWISE),
    ("Split", cut_one_off, SPLIT),
    ("Slice", cut_from_the_start, SLICE),
    ("Gather", passed_on, GATHER),
    ("DepthToSpace", other_mode, _between("b = DepthToSpace<blocksize=2>(a)", 12, 3)),
    ("BatchNormalization", passed_on, _between("b = BatchNormalization(a, scale, shift, mean, var)", 6, 6, PARAMETERS)),
    ("Softmax", passed_on, _between("b = Softmax<axis=1>(a)", 6, 6)),
    ("LRN", passed_on, _between("b = LRN<size=3, alpha=0.5>(a)", 6, 6)),
    ("Reshape", None, SHUFFLE),
    ("Split", None, SPLIT),
    ("Slice", None, SLICE),
    ("Gather", None, GATHER),
    ("Conv", None, DEPTHWISE),
    ("Pad", None, SHORTCUT),
    ("Expand", None, _between("p = GlobalAveragePool(a) b = Expand(p, s)", 6, 6, "int64[4] s = {1,6,4,4}")),
    ("Resize", None, _between("b = Resize(a, , , s)", 6, 6, "int64[4] s = {1,6,8,8}")),
]


def title(fault: tuple[str, Rule | None, str]) -> str:
    operator, wrong, _ = fault
    return f"{operator} {wrong.__name__.replace('_', ' ') if wrong else 'not mended'}"
