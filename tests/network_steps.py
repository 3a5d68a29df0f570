"""Steps of a random network that compute: convolutions, normalisation, what is elementwise, matrices.

Each reads values that are there and returns what it makes.
"""

import numpy as np
from network_growth import Network, Unfit, Value
from network_parts import activated, convolution, divided, linear, mix, reduced, reshaped

WIDTHS = (4, 8, 6, 2, 12, 3, 1)

# --- convolutions --------------------------------------------------------------------------------------------------


def conv(net: Network) -> Value:
    """Of any rank, strided, dilated, with pads that differ from side to side."""
    return convolution(net, net.features(), 1, net.one(*WIDTHS))


def pointwise_conv(net: Network) -> Value:
    return mix(net, net.features(), net.one(*WIDTHS))


def grouped_conv(net: Network) -> Value:
    x = net.features()
    group = net.one(*(g for g in (2, 4, 3, 1, 6) if x.shape[1] % g == 0))
    return convolution(net, x, group, group * net.some(1, 3))


def depthwise_conv(net: Network) -> Value:
    x = net.features()
    return convolution(net, x, x.shape[1], x.shape[1] * net.one(1, 2))


def conv_transpose(net: Network) -> Value:
    x = net.features()
    group = net.one(1, *(g for g in (2, 3, 4, x.shape[1]) if x.shape[1] % g == 0))
    per_group, space = net.some(1, 4), x.rank - 2
    kernel, stride = net.one(2, 1, 3), net.one(2, 1)
    weight = net.weight(x.shape[1], per_group, *[kernel] * space, fan_in=x.shape[1] // group * kernel**space)
    bias = [net.vector(group * per_group)] if net.flip() else []
    pads = [net.some(0, (kernel - 1) // 2) for _ in range(2 * space)]
    extra = [net.some(0, stride - 1) for _ in range(space)]
    return net.op(
        "ConvTranspose", x, weight, *bias, group=group, strides=[stride] * space, pads=pads, output_padding=extra
    )


def siamese(net: Network) -> list[Value]:
    """Read two values with the same weight."""
    x = net.features()
    y = net.pick(lambda value: value.rank == x.rank and value.shape[1] == x.shape[1])
    weight = net.weight(net.one(*WIDTHS), x.shape[1], *[1] * (x.rank - 2))
    return [net.op("Conv", x, weight), net.op("Conv", y, weight)]


def fused_conv(net: Network) -> Value:
    """As ONNX Runtime's optimiser writes it."""
    x, width = net.features(4), net.one(*WIDTHS)
    weight = net.weight(width, x.shape[1], 1, 1)
    shape = (x.shape[0], width, *x.shape[2:])
    return net.op("FusedConv", x, weight, domain="com.microsoft", activation="Relu", shape=shape)


def residual(net: Network) -> Value:
    """Add what two convolutions make of a value to the value."""
    x = net.features()
    inner = activated(net, mix(net, x, net.one(*WIDTHS), kernel=3))
    return net.op("Add", x, mix(net, inner, x.shape[1]))


def cross_stage(net: Network) -> Value:
    """Split, convolve one part, and concatenate all of them (C2f, CSP)."""
    x = net.features()
    if x.shape[1] % 2:
        raise Unfit
    left, right = divided(net, x, [x.shape[1] // 2] * 2)
    inner = mix(net, right, x.shape[1] // 2)
    if net.flip():
        inner = net.op("Add", right, inner)
    return mix(net, net.op("Concat", left, right, inner, axis=1), net.one(*WIDTHS))


def squeeze_excite(net: Network) -> Value:
    x = net.features(4)
    pooled = net.op("GlobalAveragePool", x) if net.flip() else reduced(net, "ReduceMean", x, [2, 3], 1)
    gate = net.op("Sigmoid", mix(net, net.op("Relu", mix(net, pooled, net.one(2, 4))), x.shape[1]))
    return net.op("Mul", x, gate) if net.flip() else net.op("Mul", gate, x)


# --- normalisation and elementwise ---------------------------------------------------------------------------------


def batch_norm(net: Network) -> Value:
    x = net.pick(lambda value: value.rank >= 2)
    return net.op("BatchNormalization", x, *(net.vector(x.shape[1]) for _ in range(4)), epsilon=0.1)


def instance_norm(net: Network) -> Value:
    x = net.features()
    return net.op("InstanceNormalization", x, net.vector(x.shape[1]), net.vector(x.shape[1]), epsilon=0.1)


def group_norm(net: Network) -> Value:
    """As an operator, or as exporters write it: InstanceNormalization between two Reshapes, scale and shift after."""
    x = net.features()
    c = x.shape[1]
    group = net.one(*(g for g in (2, 1, 3, 4, c) if c % g == 0))
    if net.opset >= 21 and net.flip():
        return net.op(
            "GroupNormalization", x, net.vector(c), net.vector(c), num_groups=group, epsilon=0.1, shape=x.shape
        )
    apart = reshaped(net, x, (x.shape[0], group, x.size // group))
    one, zero = net.constant(np.ones(group, np.float32)), net.constant(np.zeros(group, np.float32))
    normal = reshaped(net, net.op("InstanceNormalization", apart, one, zero, epsilon=0.1), x.shape)
    thin = (c, *[1] * (x.rank - 2))
    return net.op("Add", net.op("Mul", normal, net.vector(*thin)), net.vector(*thin))


def layer_norm(net: Network) -> Value:
    """Over the last axis, or over the channels between two Transposes; as an operator or in its parts."""
    x = net.pick(lambda value: value.rank >= 2)
    last = [0, *range(2, x.rank), 1]
    swap = x.rank > 2 and net.flip()
    data = net.op("Transpose", x, perm=last) if swap else x
    scale, shift = net.vector(data.shape[-1]), net.vector(data.shape[-1])
    if net.opset >= 17 and net.flip():
        normal = net.op("LayerNormalization", data, scale, shift, axis=-1, epsilon=0.1)
    else:
        centred = net.op("Sub", data, reduced(net, "ReduceMean", data, [-1], 1))
        spread = reduced(net, "ReduceMean", net.op("Mul", centred, centred), [-1], 1)
        root = net.op("Sqrt", net.op("Add", spread, net.number(0.1)))
        normal = net.op("Add", net.op("Mul", net.op("Div", centred, root), scale), shift)
    return net.op("Transpose", normal, perm=[0, x.rank - 1, *range(1, x.rank - 1)]) if swap else normal


def response_norm(net: Network) -> Value:
    return net.op("LRN", net.features(4), size=net.one(3, 1, 5), alpha=0.5)


def prelu(net: Network) -> Value:
    x = net.pick(lambda value: value.rank >= 2)
    thin = [1] * (x.rank - 2)
    return net.op("PRelu", x, net.vector(*net.one((x.shape[1], *thin), (1,), (1, *thin))))


def activation(net: Network) -> Value:
    return activated(net, net.pick())


def swish(net: Network) -> Value:
    x = net.pick()
    gate = net.op("Sigmoid", x)
    return net.op("Mul", x, gate) if net.flip() else net.op("Mul", gate, x)


def meet(net: Network) -> Value:
    """Two values of the same shape, or one spread over the other."""
    x = net.pick()
    y = net.pick(lambda value: value is not x and _spreads(value.shape, x.shape))
    operator = net.one("Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean")
    if operator == "Mul":  # products of products would overflow
        y = net.op("Tanh", y)
    pair = (x, y) if net.flip() else (y, x)
    return net.op(operator, *pair)


def meet_constant(net: Network) -> Value:
    """Scale, shift or bound by a constant of one of the shapes that broadcast."""
    x = net.pick()
    shape = [size if net.flip() else 1 for size in x.shape[1:]]
    shape = net.one(tuple(shape), (1, *shape), ())
    operator = net.one("Mul", "Add", "Sub", "Div", "Max")
    other = net.vector(*shape)
    return net.op(operator, x, other) if operator == "Div" or net.flip() else net.op(operator, other, x)


def softmax(net: Network) -> Value:
    x = net.pick()
    return net.op(net.one("Softmax", "LogSoftmax"), x, axis=net.some(1, x.rank - 1))


# --- matrices ------------------------------------------------------------------------------------------------------


def gemm(net: Network) -> Value:
    x, width = net.pick(lambda value: value.rank == 2), net.one(*WIDTHS)
    transposed = net.flip()
    shape = (width, x.shape[1]) if transposed else (x.shape[1], width)
    bias = net.one((), ((width,),), ((1, width),), ((1,),))
    inputs = [net.weight(*shape, fan_in=x.shape[1]), *(net.vector(*each) for each in bias)]
    return net.op("Gemm", x, *inputs, transB=int(transposed), alpha=net.one(1.0, 0.5))


def matmul(net: Network) -> Value:
    """With the weight on the right, or on the left as some exporters write a pointwise convolution."""
    x, width = net.pick(lambda value: value.rank >= 2), net.one(*WIDTHS)
    if x.rank == 3 and net.flip():
        return net.op("MatMul", net.weight(width, x.shape[1]), x)
    return linear(net, x, width)


def tokens(net: Network) -> Value:
    """Places as tokens: (N, C, …) becomes (N, places, C)."""
    x = net.features()
    return net.op("Transpose", reshaped(net, x, (*x.shape[:2], x.size // x.shape[1])), perm=[0, 2, 1])


def perceptron(net: Network) -> Value:
    """The MLP of a transformer."""
    x = net.pick(lambda value: value.rank == 3)
    return net.op("Add", x, linear(net, activated(net, linear(net, x, net.one(*WIDTHS))), x.shape[2]))


def attention(net: Network) -> Value:
    """Self-attention of several heads over tokens (N, T, C), with three weights or one that is split."""
    x = net.pick(lambda value: value.rank == 3 and value.shape[1] <= 40)
    (n, t, c), heads, each = x.shape, net.one(2, 1, 3), net.one(2, 4)
    if net.flip():
        parts = [linear(net, x, heads * each) for _ in range(3)]
    else:
        parts = divided(net, linear(net, x, 3 * heads * each), [heads * each] * 3, axis=2)
    query, key, value = (reshaped(net, part, (n, t, heads, each)) for part in parts)
    query, value = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 3, 1]))
    weights = net.op("Softmax", net.op("Mul", scores, net.number(each**-0.5)), axis=3)
    mixed = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return net.op("Add", x, linear(net, reshaped(net, mixed, (n, t, heads * each)), c))


def joint_attention(net: Network) -> Value:
    """Self-attention whose query, key and value are one tensor (3, N, heads, T, C), as vision transformers export."""
    x = net.pick(lambda value: value.rank == 3 and value.shape[1] <= 40)
    (n, t, c), heads, each = x.shape, net.one(2, 1, 3), net.one(2, 4)
    joint = reshaped(net, linear(net, x, 3 * heads * each), (n, t, 3, heads, each))
    joint = net.op("Transpose", joint, perm=[2, 0, 3, 1, 4])
    query, key, value = (net.op("Gather", joint, net.constant(np.array(i)), axis=0) for i in range(3))
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    weights = net.op("Softmax", net.op("Mul", scores, net.number(each**-0.5)), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return linear(net, reshaped(net, mixed, (n, t, heads * each)), c)


def affinity(net: Network) -> Value:
    """A product of two activations."""
    x = net.pick(lambda value: value.rank >= 3 and value.shape[-2] <= 40)
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    return net.op("Tanh", net.op("MatMul", x, net.op("Transpose", net.op("Tanh", x), perm=perm)))


def _spreads(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(a in (1, b) for a, b in zip(small[1:], large[1:], strict=True))
