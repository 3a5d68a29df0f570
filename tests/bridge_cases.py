"""One case per operator and option for the torch bridge, and the small models they make."""

import re
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

Feeds = Mapping[str, np.ndarray]


def model_of(text: str, opset: int = 17, domains: str = "") -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n{text}'))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_weights(model: ir.Model, weights: Feeds) -> ir.Model:
    """Make values that nodes read but nothing makes initializers of the model."""
    values = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in weights.items():
        values[name].const_value = ir.tensor(array, name=name)
        model.graph.initializers[name] = values[name]
    return model


def case_model(nodes: str, shape: tuple[int, ...], opset: int) -> ir.Model:
    """A model of the nodes; `RandomW<2,3>()` stands for an initializer with random values of that shape."""
    weights = {}
    while found := re.search(r"(\w+) = RandomW<([\d,]+)>\(\)", nodes):
        weights[found[1]] = noise(*map(int, found[2].split(",")), seed=len(weights))
        nodes = nodes.replace(found[0], "", 1)
    dims = ",".join(["N", *map(str, shape[1:])])
    return with_weights(model_of(f"case (float[{dims}] x) => (y) {{ {nodes} }}", opset), weights)


# name, text of the nodes, input shape, opset: one input x, one output y; all must run in torch
CASES = [
    ("conv 1d", "w = RandomW<3,2,3>() y = Conv <dilations=[2], pads=[2,1]> (x, w)", (2, 2, 12), 17),
    ("conv 3d", "w = RandomW<3,2,3,2,1>() y = Conv <strides=[1,2,1]> (x, w)", (2, 2, 5, 6, 4), 17),
    (
        "conv same upper",
        'w = RandomW<3,2,3,4>() y = Conv <auto_pad="SAME_UPPER", strides=[2,3]> (x, w)',
        (2, 2, 8, 9),
        22,
    ),
    ("conv same lower", 'w = RandomW<3,2,4,4>() y = Conv <auto_pad="SAME_LOWER"> (x, w)', (2, 2, 8, 9), 11),
    ("conv groups", "w = RandomW<6,1,3,3>() y = Conv <group=3, pads=[0,1,2,1]> (x, w)", (2, 3, 8, 9), 17),
    ("transposed", "w = RandomW<2,3,3,3>() y = ConvTranspose <strides=[2,2], pads=[1,0,0,1]> (x, w)", (2, 2, 5, 6), 17),
    (
        "transposed with output padding",
        "w = RandomW<4,3,3>() b = RandomW<6>() "
        "y = ConvTranspose <strides=[3], group=2, pads=[1,1], output_padding=[2]> (x, w, b)",
        (2, 4, 5),
        22,
    ),
    (
        "transposed to a shape",
        "w = RandomW<2,3,3,3>() y = ConvTranspose <strides=[3,2], output_shape=[10,8]> (x, w)",
        (2, 2, 3, 3),
        17,
    ),
    (
        "transposed same",
        'w = RandomW<2,3,4,4>() y = ConvTranspose <strides=[2,2], auto_pad="SAME_UPPER"> (x, w)',
        (2, 2, 4, 5),
        11,
    ),
    (
        "gemm",
        "w = RandomW<5,4>() b = RandomW<3,1>() y = Gemm <alpha=0.5, beta=2.0, transA=1, transB=1> (x, w, b)",
        (4, 3),
        13,
    ),
    ("matmul", "w = RandomW<4,5>() y = MatMul (x, w)", (2, 3, 4), 13),
    ("instance norm", "s = RandomW<3>() b = RandomW<3>() y = InstanceNormalization (x, s, b)", (2, 3, 4, 5), 22),
    ("group norm", "s = RandomW<4>() b = RandomW<4>() y = GroupNormalization <num_groups=2> (x, s, b)", (2, 4, 5), 21),
    ("layer norm", "s = RandomW<4,5>() y = LayerNormalization <axis=-2> (x, s)", (2, 3, 4, 5), 17),
    ("prelu", "s = RandomW<3,1,1>() y = PRelu (x, s)", (2, 3, 4, 5), 16),
    ("max pool", "y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[0,1,1,1], ceil_mode=1> (x)", (2, 3, 8, 9), 22),
    (
        "max pool, last window in the pads",
        "y = MaxPool <kernel_shape=[2,2], strides=[2,2], pads=[0,0,1,1], ceil_mode=1> (x)",
        (2, 3, 8, 9),
        22,
    ),
    (
        "average, last window in the pads",
        "y = AveragePool <kernel_shape=[2,2], strides=[2,2], pads=[1,0,0,1], ceil_mode=1> (x)",
        (2, 3, 8, 9),
        22,
    ),
    ("max pool same", 'y = MaxPool <kernel_shape=[2], auto_pad="SAME_LOWER"> (x)', (2, 3, 8), 12),
    ("average, uneven pads", "y = AveragePool <kernel_shape=[3,3], pads=[0,1,2,1]> (x)", (2, 3, 8, 9), 22),
    (
        "average with pads",
        "y = AveragePool <kernel_shape=[3,3], pads=[0,1,2,1], count_include_pad=1> (x)",
        (2, 3, 8, 9),
        19,
    ),
    ("global max", "y = GlobalMaxPool (x)", (2, 3, 8, 9), 22),
    (
        "reduce, axes an input",
        "a = Constant <value_ints=[2,3]> () y = ReduceMean <keepdims=0> (x, a)",
        (2, 3, 4, 5),
        18,
    ),
    ("reduce, axes an attribute", "y = ReduceL2 <axes=[1]> (x)", (2, 3, 4, 5), 13),
    ("reduce all", "y = ReduceLogSumExp (x)", (2, 3, 4), 18),
    ("reduce nothing", "y = ReduceSum <noop_with_empty_axes=1> (x)", (2, 3, 4), 13),
    (
        "slice back",
        "s = Constant <value_ints=[-1]> () e = Constant <value_ints=[-9]> () y = Slice (x, s, e, s, s)",
        (2, 3, 6),
        13,
    ),
    ("slice by attributes", "y = Slice <starts=[1], ends=[9], axes=[2]> (x)", (2, 3, 6), 9),
    ("uneven split", "p, q = Split <num_outputs=2, axis=2> (x) y = Concat <axis=1> (q, q)", (2, 3, 7), 18),
    ("reflect", 'p = Constant <value_ints=[0,0,2,1,0,0,1,3]> () y = Pad <mode="reflect"> (x, p)', (2, 3, 6, 5), 19),
    ("edge", 'y = Pad <mode="edge", pads=[0,1,2,1,0,1,1,3]> (x)', (2, 3, 6, 5), 9),
    ("wrap", 'p = Constant <value_ints=[0,0,2,3]> () y = Pad <mode="wrap"> (x, p)', (4, 5), 19),
    ("crop", "p = Constant <value_ints=[0,-1,2,0]> () v = Constant <value_float=2.0> () y = Pad (x, p, v)", (4, 5), 21),
    ("shape", "s = Shape <start=1> (x) z = Size (x) t = Expand (z, s) y = Cast <to=1> (t)", (2, 3, 4), 21),
    (
        "reshape by computed shape",
        "s = Shape (x) r = Reshape (x, s) m = Constant <value_ints=[0,-1]> () y = Reshape (r, m)",
        (2, 3, 4),
        21,
    ),
    ("clip", "l = Constant <value_float=-0.5> () y = Clip (x, l)", (2, 3), 13),
    ("clip by attributes", "y = Clip <min=-0.5, max=0.25> (x)", (2, 3), 6),
    ("gelu", 'y = Gelu <approximate="tanh"> (x)', (2, 3), 20),
    (
        "hard swish",
        "a = HardSwish (x) b = HardSigmoid (a) c = Mish (b) d = Elu (c) e = Selu (d) y = ThresholdedRelu (e)",
        (2, 3),
        22,
    ),
    ("dropout", "y, m = Dropout (x)", (2, 3), 22),
    ("depth to space", "y = DepthToSpace <blocksize=2> (x)", (2, 12, 4, 3), 13),
    ("depth to space, columns first", 'y = DepthToSpace <blocksize=2, mode="CRD"> (x)', (2, 12, 4, 3), 11),
    ("top values", "k = Constant <value_ints=[3]> () y, i = TopK <axis=1> (x, k)", (2, 5, 4), 11),
    ("top places", "k = Constant <value_ints=[3]> () v, y = TopK <largest=0> (x, k)", (2, 5, 4), 17),
    ("space to depth", "y = SpaceToDepth <blocksize=2> (x)", (2, 3, 4, 6), 13),
    ("upsample 9", "s = Constant <value = float[4] {1,1,2,2}> () y = Upsample (x, s)", (2, 3, 4, 5), 9),
    ("upsample 7", 'y = Upsample <mode="linear", scales=[1.0,1.0,2.0,2.0]> (x)', (2, 3, 4, 5), 7),
]
CASES += [
    (
        f"resize {mode} {coordinate} {nearest}",
        f's = Constant <value = float[4] {{1,1,{scale}}}> () y = Resize <mode="{mode}", nearest_mode="{nearest}", '
        f'coordinate_transformation_mode="{coordinate}"> (x, , s)',
        (2, 3, 5, 6),
        19,
    )
    for mode, nearest in (
        ("nearest", "floor"),
        ("nearest", "ceil"),
        ("nearest", "round_prefer_floor"),
        ("nearest", "round_prefer_ceil"),
        ("linear", "floor"),
        ("cubic", "floor"),
    )
    for coordinate in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
    # 0.6 puts half_pixel_symmetric on whole positions but for rounding, where floor may go either way
    for scale in ("2,1.7", "0.7,3" if coordinate == "half_pixel_symmetric" else "0.6,3")
]
