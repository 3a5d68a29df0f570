"""Steps of a random network that move, pool or resize, and those that nothing follows."""

from itertools import pairwise, permutations
from math import prod

import numpy as np
from network_growth import LARGEST, Network, Unfit, Value
from network_parts import divided, mix, reduced, reshaped, sliced
from onnx import TensorProto, helper

ENDS = 2**63 - 1  # how exporters write "to the end"

# --- movement ------------------------------------------------------------------------------------------------------


def concat(net: Network) -> Value:
    """Two or three values, mostly along the channels."""
    x = net.pick(lambda value: value.rank >= 2 and value.size <= LARGEST // 4)
    axis = net.one(1, x.rank - 1)

    def beside(value: Value) -> bool:
        same = [a == b for a, b in zip(value.shape, x.shape, strict=False)]
        return value.rank == x.rank and value.size <= LARGEST // 4 and all(same[:axis]) and all(same[axis + 1 :])

    others = [net.pick(beside) for _ in range(net.some(1, 2))]
    operands = [*others, x] if net.flip() else [x, *others]
    return net.op("Concat", *operands, axis=net.one(axis, axis - x.rank))


def split(net: Network) -> list[Value]:
    """In parts of any sizes."""
    x = net.pick(lambda value: value.rank >= 2 and value.shape[1] > 1)
    cuts = sorted({net.some(1, x.shape[1] - 1) for _ in range(2)})
    return divided(net, x, [b - a for a, b in pairwise([0, *cuts, x.shape[1]])])


def slice_(net: Network) -> Value:
    """Along one axis, counted from either end, forwards or backwards, in steps."""
    x = net.pick(lambda value: value.rank >= 2)
    axis = net.some(1, x.rank - 1)
    size, step = x.shape[axis], net.one(1, 2, -1, 3, -2)
    start = net.some(0, size - 1)
    if step > 0:
        end = net.one(ENDS, net.some(start + 1, size))
        start, end = (start - size if net.flip() else start), (end - size if end < size else end)
    else:
        end = net.one(-ENDS, net.some(0, start - 1) if start else -ENDS)
    return sliced(net, x, axis, start, end, step)


def gather(net: Network) -> Value:
    """Pick channels by a constant row of indices: some, all in another order, or one twice."""
    x = net.pick(lambda value: value.rank >= 2)
    axis = net.some(1, x.rank - 1)
    size = x.shape[axis]
    picked = [net.some(-size, size - 1) for _ in range(net.some(1, min(2 * size, 8)))]
    return net.op("Gather", x, net.ints(*net.one(picked, range(size - 1, -1, -1))), axis=axis)


def gather_one(net: Network) -> Value:
    """Pick one channel, which takes its axis away."""
    x = net.pick(lambda value: value.rank >= 3)
    index = net.constant(np.array(net.some(0, x.shape[1] - 1)))
    return net.op("Gather", x, index, axis=1)


def scatter(net: Network) -> Value:
    """Overwrite some channels, which ScatterND needs on the first axis."""
    x = net.features(4)
    c = x.shape[1]
    chosen = sorted({net.some(0, c - 1) for _ in range(net.some(1, 3))})
    source = net.pick(lambda value: value.rank == 4 and value.shape[2:] == x.shape[2:])
    data, updates = (net.op("Transpose", y, perm=[1, 0, 2, 3]) for y in (x, mix(net, source, len(chosen))))
    indices = net.constant(np.array(chosen, np.int64)[:, None])
    return net.op("Transpose", net.op("ScatterND", data, indices, updates), perm=[1, 0, 2, 3])


def focus(net: Network) -> Value:
    """Slices of every second row and column, as channels."""
    x = net.pick(lambda value: value.rank == 4 and value.shape[2] % 2 == value.shape[3] % 2 == 0)
    rows = [sliced(net, x, 2, i, ENDS, 2) for i in (0, 1)]
    parts = [sliced(net, row, 3, j, ENDS, 2) for j in (0, 1) for row in rows]
    return net.op("Concat", *parts, axis=1)


def merge_axes(net: Network) -> Value:
    """Reshape two axes into one."""
    x = net.pick(lambda value: value.rank >= 3)
    axis = net.some(1, x.rank - 2)
    merged = x.shape[axis] * x.shape[axis + 1]
    return reshaped(net, x, (*x.shape[:axis], merged, *x.shape[axis + 2 :]))


def split_axis(net: Network) -> Value:
    """Reshape one axis into two."""
    x = net.pick(lambda value: 2 <= value.rank <= 4)
    axis = net.some(1, x.rank - 1)
    size = x.shape[axis]
    first = net.one(*(f for f in (2, 3, 1, 4, size) if size % f == 0))
    return reshaped(net, x, (*x.shape[:axis], first, size // first, *x.shape[axis + 1 :]))


def flatten(net: Network) -> Value:
    x = net.pick()
    return net.op("Flatten", x) if net.flip() else reshaped(net, x, (x.shape[0], x.size))


def transpose(net: Network) -> Value:
    x = net.pick(lambda value: value.rank >= 3)
    order = (1, *range(x.rank - 1, 1, -1)) if net.flip() else net.one(*permutations(range(1, x.rank)))
    return net.op("Transpose", x, perm=[0, *order])


def squeeze(net: Network) -> Value:
    x = net.pick(lambda value: 1 in value.shape[2:])
    axes, stated = net.sized("axes", [2 + x.shape[2:].index(1)], 13)
    return net.op("Squeeze", x, *axes, **stated)


def unsqueeze(net: Network) -> Value:
    x = net.pick(lambda value: value.rank <= 3)
    axes, stated = net.sized("axes", [net.some(1, x.rank)], 13)
    return net.op("Unsqueeze", x, *axes, **stated)


def expand(net: Network) -> Value:
    x = net.features()
    grown = [size * 2 if size == 1 else net.one(size, 1) for size in x.shape[1:]]
    return net.op("Expand", x, net.ints(1, *grown))


def tile(net: Network) -> Value:
    x = net.pick(lambda value: value.size <= LARGEST // 4)
    repeats = [1] * x.rank
    repeats[net.some(1, x.rank - 1)] = 2
    return net.op("Tile", x, net.ints(*repeats))


def pad(net: Network) -> Value:
    """In space, or zero channels for a shortcut between stages of different widths."""
    x = net.features()
    mode = net.one("constant", "reflect", "edge")
    pads = np.zeros((2, x.rank), np.int64)
    for axis in range(2, x.rank):
        pads[:, axis] = [net.some(0, min(2, x.shape[axis] - 1)) for _ in range(2)]
    if mode == "constant" and net.flip():
        pads[:, 1] = net.some(0, 2), net.some(0, 4)
    value = [net.number(net.one(0.0, 0.7))] if mode == "constant" and net.flip() else []
    return net.op("Pad", x, net.ints(*pads.ravel().tolist()), *value, mode=mode)


def depth_to_space(net: Network) -> Value:
    x = net.pick(lambda value: value.rank == 4 and value.shape[1] % 4 == 0)
    return net.op("DepthToSpace", x, blocksize=2, mode=net.one("DCR", "CRD"))


def space_to_depth(net: Network) -> Value:
    x = net.pick(lambda value: value.rank == 4 and value.shape[2] % 2 == value.shape[3] % 2 == 0)
    return net.op("SpaceToDepth", x, blocksize=2)


def shuffle(net: Network) -> Value:
    """Channel shuffle."""
    x = net.features(4)
    group = net.one(*(g for g in (2, 3, 4, 1) if x.shape[1] % g == 0))
    n, c, *space = x.shape
    apart = reshaped(net, x, (n, group, c // group, *space))
    return reshaped(net, net.op("Transpose", apart, perm=[0, 2, 1, 3, 4]), x.shape)


def pixel_shuffle(net: Network) -> Value:
    """As older exporters write it: Reshape, Transpose, Reshape."""
    x = net.pick(lambda value: value.rank == 4 and value.shape[1] % 4 == 0)
    n, c, h, w = x.shape
    apart = reshaped(net, x, (n, c // 4, 2, 2, h, w))
    return reshaped(net, net.op("Transpose", apart, perm=[0, 1, 4, 2, 5, 3]), (n, c // 4, 2 * h, 2 * w))


def resize(net: Network) -> Value:
    """By scales, to stated sizes, or to the sizes of space of another value, computed."""
    x = net.features(4)
    mode, way = net.one("nearest", "linear"), net.one("scales", "sizes", "computed")
    empty = None if net.opset >= 13 else net.constant(np.zeros(0, np.float32))
    if way == "scales":
        scales = net.constant(np.array([1, 1, 2, net.one(2, 1)], np.float32))
        return net.op("Resize", x, empty, scales, mode=mode)
    other = net.pick(lambda value: value.rank == 4)
    space = other.shape[2:] if x.shape[1] * prod(other.shape[2:]) <= LARGEST else x.shape[2:]
    if way == "sizes" and net.opset >= 18:
        return net.op("Resize", x, None, None, net.ints(*space), mode=mode, axes=[2, 3])
    if way == "sizes" and net.batch is not None:
        return net.op("Resize", x, empty, empty, net.ints(*x.shape[:2], *space), mode=mode)
    sizes = net.op("Concat", sliced(net, net.op("Shape", x), 0, 0, 2, 1), net.ints(*space), axis=0)
    return net.op("Resize", x, empty, empty, sizes, mode=mode, shape=(*x.shape[:2], *space))


def pool(net: Network) -> Value:
    x = net.features()
    space = x.rank - 2
    kernel = [min(net.one(2, 3), size) for size in x.shape[2:]]
    ceil = net.flip()  # ONNX and ONNX Runtime count a last window that starts in the pad differently
    pads = [0 if ceil else net.some(0, size - 1) for size in kernel] * 2
    return net.op(
        net.one("MaxPool", "AveragePool"),
        x,
        kernel_shape=kernel,
        pads=pads,
        strides=[net.one(2, 1)] * space,
        ceil_mode=int(ceil),
    )


def global_pool(net: Network) -> Value:
    return net.op(net.one("GlobalAveragePool", "GlobalMaxPool"), net.features())


def reduce(net: Network) -> Value:
    """Mostly over space, sometimes over the channels."""
    x = net.pick(lambda value: value.rank >= 3)
    operator = net.one("ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum")
    axes = net.one(list(range(2, x.rank)), [1], [-1], [2])
    return reduced(net, operator, x, axes, net.flip() or len(axes) > x.rank - 2)


# --- what is not followed ------------------------------------------------------------------------------------------


def branch(net: Network) -> Value:
    """An If whose branches capture a value, and one a weight."""
    x = net.features()
    weight = net.weight(x.shape[1], x.shape[1], *[1] * (x.rank - 2))
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [None] * x.rank)
    conv_node = helper.make_node("Conv", [x.name, weight.name], ["made"])
    relu_node = helper.make_node("Relu", [x.name], ["made"])
    first, second = (helper.make_graph([node], node.op_type, [], [made]) for node in (conv_node, relu_node))
    condition = net.constant(np.array(net.flip()))
    return net.op("If", condition, then_branch=first, else_branch=second, shape=x.shape)


def recurrent(net: Network) -> Value:
    """An LSTM over the last axis as time."""
    x = net.features(3)
    n, c, t = x.shape
    data, width = net.op("Transpose", x, perm=[2, 0, 1]), net.one(2, 4)
    weights = net.weight(1, 4 * width, c, fan_in=c), net.weight(1, 4 * width, width, fan_in=width)
    made = net.op("LSTM", data, *weights, hidden_size=width, shape=(t, 1, n, width))
    return reshaped(net, net.op("Transpose", made, perm=[2, 0, 1, 3]), (n, t, width))


def running_sum(net: Network) -> Value:
    x = net.pick()
    return net.op("CumSum", x, net.constant(np.array(net.some(1, x.rank - 1))))


def einsum(net: Network) -> Value:
    """An operator without a rule."""
    x = net.features(4)
    if net.opset < 12:
        raise Unfit
    return net.op("Einsum", x, equation="nchw->nhcw")
