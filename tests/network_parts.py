"""What the steps of a random network have in common: nodes in one of the ways in which exporters write them."""

from network_growth import Network, Value

# since which opset an activation exists, and its attributes
ACTIVATIONS = (
    ("Relu", 1, {}),
    ("Sigmoid", 1, {}),
    ("Tanh", 1, {}),
    ("LeakyRelu", 1, {"alpha": 0.2}),
    ("Elu", 1, {}),
    ("Selu", 1, {}),
    ("Softplus", 1, {}),
    ("Softsign", 1, {}),
    ("HardSigmoid", 1, {}),
    ("Abs", 1, {}),
    ("Neg", 1, {}),
    ("Erf", 9, {}),
    ("Identity", 1, {}),
    ("Celu", 12, {}),
    ("HardSwish", 14, {}),
    ("Mish", 18, {}),
    ("Gelu", 20, {}),
)
WRITTEN = {"copied": 0, "left": -1}  # how a Reshape leaves a size to its input, or to what remains


def convolution(net: Network, x: Value, group: int, width: int) -> Value:
    """Convolve with any kernel, strides, dilations and pads that fit."""
    space = x.rank - 2
    kernel, dilation = net.one(3, 1, 2), net.one(1, 2)
    pads = [net.some(0, dilation * (kernel - 1)) for _ in range(2 * space)]
    reach = dilation * (kernel - 1) + 1
    for axis, size in enumerate(x.shape[2:]):
        pads[axis] = max(pads[axis], reach - size)
    weight = net.weight(width, x.shape[1] // group, *[kernel] * space)
    bias = [net.vector(width)] if net.flip() else []
    same = dilation == 1 and net.one(False, False, True)
    stated = {"auto_pad": net.one("SAME_UPPER", "SAME_LOWER")} if same else {"pads": pads}
    strides, dilations = [net.one(1, 2)] * space, [dilation] * space
    return net.op("Conv", x, weight, *bias, group=group, strides=strides, dilations=dilations, **stated)


def mix(net: Network, x: Value, width: int, kernel: int = 1) -> Value:
    """Return a convolution that keeps the size of space."""
    space = x.rank - 2
    weight = net.weight(width, x.shape[1], *[kernel] * space)
    bias = [net.vector(width)] if net.flip() else []
    return net.op("Conv", x, weight, *bias, pads=[kernel // 2] * 2 * space)


def linear(net: Network, x: Value, width: int) -> Value:
    """Multiply the last axis by a weight, with or without a bias on either side of an Add."""
    made = net.op("MatMul", x, net.weight(x.shape[-1], width, fan_in=x.shape[-1]))
    if net.flip():
        return made
    bias = net.vector(width)
    return net.op("Add", bias, made) if net.flip() else net.op("Add", made, bias)


def activated(net: Network, x: Value) -> Value:
    name, _, attributes = net.one(*(entry for entry in ACTIVATIONS if entry[1] <= net.opset))
    return net.op(name, x, **attributes)


def divided(net: Network, x: Value, sizes: list[int], axis: int = 1) -> list[Value]:
    """Split into parts, stating their sizes or, where they are equal, their number."""
    if len(set(sizes)) == 1 and net.flip():
        number = {"num_outputs": len(sizes)} if net.opset >= 18 else {}
        return net.op("Split", x, made=len(sizes), axis=axis, **number)
    inputs, stated = net.sized("split", sizes, 13)
    return net.op("Split", x, *inputs, made=len(sizes), axis=axis, **stated)


def sliced(net: Network, x: Value, axis: int, start: int, end: int, step: int) -> Value:
    """Slice along one axis, counted from either end."""
    bounds = [net.ints(start), net.ints(end), net.ints(net.one(axis, axis - x.rank))]
    return net.op("Slice", x, *bounds, *([] if step == 1 else [net.ints(step)]))


def reduced(net: Network, operator: str, x: Value, axes: list[int], keepdims: bool) -> Value:
    inputs, stated = net.sized("axes", axes, 13 if operator == "ReduceSum" else 18)
    return net.op(operator, x, *inputs, keepdims=int(keepdims), **stated)


def reshaped(net: Network, x: Value, shape: tuple[int, ...]) -> Value:
    """Reshape with each size stated, copied by a 0, left to a -1 or computed from the input's shape."""
    entries: list[int | Value] = []
    whole = net.op("Shape", x) if net.flip() else None
    for axis, size in enumerate(shape):
        ways = [] if axis == 0 and net.batch is None else ["stated"]
        ways += ["copied"] if axis < x.rank and x.shape[axis] == size else []
        ways += ["left"] if -1 not in entries else []
        ways += ["computed"] if whole is not None else []
        way = net.one(*ways)
        entries.append(_from_shape(net, x, whole, axis, size) if way == "computed" else WRITTEN.get(way, size))
    if not any(isinstance(entry, Value) for entry in entries):
        return net.op("Reshape", x, net.ints(*entries), shape=shape)
    parts = [entry if isinstance(entry, Value) else net.ints(entry) for entry in entries]
    return net.op("Reshape", x, net.op("Concat", *parts, axis=0), shape=shape)


def _from_shape(net: Network, x: Value, whole: Value | None, axis: int, size: int) -> Value:
    """Return a size as a size of the input, or a multiple or fraction of one."""
    assert whole is not None
    sources = [0] if axis == 0 else [i for i, n in enumerate(x.shape) if i and (n % size == 0 or size % n == 0)]
    if not sources:
        return net.ints(size)
    source = net.one(*sources)
    picked = net.op("Gather", whole, net.ints(source), axis=0)
    found = x.shape[source]
    if found == size:
        return picked
    if size % found == 0:
        return net.op("Mul", picked, net.ints(size // found))
    return net.op("Div", picked, net.ints(found // size))
