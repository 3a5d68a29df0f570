"""Random networks, as a hypothesis strategy: each grows by steps drawn from a table, and ends in heads."""

from collections.abc import Callable

import network_moves as moves
import network_steps as steps
from hypothesis import strategies as st
from network_growth import Network, Unfit, Value
from network_parts import linear, mix

# sizes per sample: images, signals, volumes, vectors, tokens
SHAPES = ((3, 8, 8), (2, 6, 4), (3, 8), (2, 4, 4, 4), (6,), (6, 4))

Step = Callable[[Network], Value | list[Value]]
# what most networks are made of
COMMON: tuple[Step, ...] = (
    steps.conv,
    steps.pointwise_conv,
    steps.grouped_conv,
    steps.depthwise_conv,
    steps.residual,
    steps.cross_stage,
    steps.batch_norm,
    steps.activation,
    steps.meet,
    moves.concat,
    moves.split,
)
TAME: tuple[Step, ...] = (
    *COMMON * 3,
    steps.conv_transpose,
    steps.siamese,
    steps.fused_conv,
    steps.squeeze_excite,
    moves.shuffle,
    steps.instance_norm,
    steps.group_norm,
    steps.layer_norm,
    steps.prelu,
    steps.swish,
    steps.meet_constant,
    moves.slice_,
    moves.gather,
    moves.focus,
    moves.merge_axes,
    moves.split_axis,
    moves.flatten,
    moves.squeeze,
    moves.unsqueeze,
    moves.expand,
    moves.tile,
    moves.pad,
    moves.depth_to_space,
    moves.space_to_depth,
    moves.pixel_shuffle,
    moves.resize,
    moves.pool,
    moves.global_pool,
    moves.reduce,
    steps.gemm,
    steps.matmul,
    steps.tokens,
    steps.perceptron,
    steps.attention,
    steps.joint_attention,
    steps.affinity,
)
# these mostly fix the channels that they touch, which soon leaves nothing to prune
WILD: tuple[Step, ...] = (
    moves.gather_one,
    moves.scatter,
    moves.branch,
    moves.recurrent,
    moves.running_sum,
    moves.einsum,
    steps.response_norm,
    steps.softmax,
    moves.transpose,
)


@st.composite
def networks(draw: st.DrawFn, most: int = 12) -> Network:
    """Draw a network of at most that many steps; one that starts with an image is the likeliest.

    What nothing reads goes through a head, since the channels of an output cannot go; sometimes it is an output itself,
    or a value in the middle is one as well.
    """
    net = Network(draw)
    for _ in range(net.one(1, 1, 1, 2)):
        value = net.input(*net.one(*SHAPES[:1] * 4, *SHAPES))
        stem = _head(net, value, net.one(4, 8, 6))
        net.values += net.one([stem], [stem], [value, stem], [stem, value])
    table = net.one(TAME, TAME + WILD)
    for step in draw(st.lists(st.sampled_from(table), min_size=3, max_size=most)):
        try:
            made = step(net)
        except Unfit:
            continue
        net.values += made if isinstance(made, list) else [made]
    bare, middle = net.one(False, False, True), net.one(False, False, False, True)
    for value in net.unread():
        is_output = bare and value not in net.inputs and net.flip()
        net.outputs.append(value if is_output else _head(net, value, 3))
    if middle:
        net.outputs += [value for value in [net.pick()] if value not in (*net.inputs, *net.outputs)]
    return net


def _head(net: Network, value: Value, width: int) -> Value:
    """Mix the channels, which lie on axis 1 or, of tokens, on the last."""
    on_last = value.rank == 2 or (value.rank == 3 and net.flip())
    return linear(net, value, width) if on_last else mix(net, value, width)
