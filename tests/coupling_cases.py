"""Small graphs with the groups that a reader expects of them: name, ONNX text, groups, operators that decline."""

import pytest

# a group reads `name width: producers | followers | consumers`, each as weight.axis
CASES = [
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,3,3] w1, float[8] b1, float[4,8,3,3] w2> {
        h = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(h)
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }""",
        ["h 8: w1.0 | b1.0 | w2.1"],
        [],
        id="plain",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[10,6,1,1] w2, float[6,10,1,1] w3, float[4,6,1,1] w4> {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Conv(b, w3)
        s = Add(a, c)
        y = Conv(s, w4)
    }""",
        ["a 6: w1.0 w3.0 |  | w2.1 w4.1", "b 10: w2.0 |  | w3.1"],
        [],
        id="residual",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6] gamma, float[6] beta, float[6] mean, float[6] var, float[6,1,1] slope,
         float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = BatchNormalization(a, gamma, beta, mean, var)
        c = PRelu(b, slope)
        y = Conv(c, w2)
    }""",
        ["a 6: w1.0 | gamma.0 beta.0 mean.0 var.0 slope.0 | w2.1"],
        [],
        id="batchnorm",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[3,3,1,1] w1, float[4,3,1,1] w2> {
        a = Conv(x, w1)
        b = Add(a, x)
        y = Conv(b, w2)
    }""",
        [],
        ["Add"],
        id="residual with the input",
    ),
    pytest.param(
        """(float[N,1,8,8] x) => (float[N,4,8,8] y) <float[3,1,1,1] w1, float[4,3,1,1] w2> {
        a = Conv(x, w1)
        b = Add(a, x)
        y = Conv(b, w2)
    }""",
        ["a 3: w1.0 |  | w2.1"],
        [],
        id="residual with an input of one channel",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,8,8,8] y) <float[8,3,1,1] w1, float[8,8,1,1] w2> {
        a = Conv(x, w1)
        t = Transpose<perm=[0,2,1,3]>(a)
        b = Add(a, t)
        y = Conv(b, w2)
    }""",
        [],
        ["Add"],
        id="two axes of one value",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] w1, float[6,3,1,1] w2, float[4,11,1,1] w3> {
        a = Conv(x, w1)
        b = Conv(x, w2)
        c = Concat<axis=1>(a, b)
        y = Conv(c, w3)
    }""",
        ["a 5: w1.0 |  | w3.1", "b 6: w2.0 |  | w3.1"],
        [],
        id="concat",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[5,3,1,1] w1, float[4,8,1,1] w2> {
        a = Conv(x, w1)
        c = Concat<axis=1>(x, a)
        y = Conv(c, w2)
    }""",
        ["a 5: w1.0 |  | w2.1"],
        [],
        id="concat with the input",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6,1,3,3] d, float[6] db, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = Conv<group=6, pads=[1,1,1,1]>(a, d, db)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 | d.0 db.0 | w2.1"],
        [],
        id="depthwise",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[12,1,3,3] d, float[4,12,1,1] w2> {
        a = Conv(x, w1)
        b = Conv<group=6, pads=[1,1,1,1]>(a, d)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 | d.0 | w2.1"],
        [],
        id="depthwise with multiplier",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[16,3,1,1] w1, float[16,2,1,1] g, float[4,16,1,1] w2> {
        a = Conv(x, w1)
        b = Conv<group=8>(a, g)
        y = Conv(b, w2)
    }""",
        ["a 8: w1.0 | g.0 | w2.1"],
        [],
        id="grouped, whole groups",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[12,3,1,1] w1, float[10,6,1,1] g, float[10] gb, float[4,10,1,1] w2> {
        a = Conv(x, w1)
        b = Conv<group=2>(a, g, gb)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 |  | g.1", "b 5: g.0 | gb.0 | w2.1"],
        [],
        id="grouped, by position",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,6,8,8] y)
        <float[6,3,1,1] w1, float[1,6,1,1] w2, float[6,6,1,1] w3> {
        a = Conv(x, w1)
        m = Conv(a, w2)
        s = Sigmoid(m)
        g = Mul(a, s)
        y = Conv(g, w3)
    }""",
        ["a 6: w1.0 |  | w2.1 w3.1"],
        [],
        id="one output channel",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[3,6,1,1] down, float[6,3,1,1] up, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        p = GlobalAveragePool(a)
        d = Conv(p, down)
        r = Relu(d)
        u = Conv(r, up)
        s = HardSigmoid(u)
        m = Mul(a, s)
        y = Conv(m, w2)
    }""",
        ["a 6: w1.0 up.0 |  | down.1 w2.1", "d 3: down.0 |  | up.1"],
        [],
        id="squeeze and excite",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w1, int64[5] cut = {-1,2,4,8,8}, int64[4] join = {-1,8,8,8}, float[4,8,1,1] w2> {
        a = Conv(x, w1)
        b = Reshape(a, cut)
        c = Transpose<perm=[0,2,1,3,4]>(b)
        d = Reshape(c, join)
        y = Conv(d, w2)
    }""",
        ["a 4: w1.0 |  | w2.1"],
        [],
        id="channel shuffle",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5] y) <float[6,3,3,3] w1, float[5,24] w2, float[5] b2> {
        a = Conv(x, w1)
        f = Flatten(a)
        y = Gemm<transB=1>(f, w2, b2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="flatten",
    ),
    pytest.param(
        """(float[N,3] x) => (float[N,5] y)
        <float[6,3] w1, float[6] b1, float[6,7] w2, float[1,7] b2, float[7,5] w3> {
        a = Gemm<transB=1>(x, w1, b1)
        b = Gemm(a, w2, b2)
        y = MatMul(b, w3)
    }""",
        ["a 6: w1.0 | b1.0 | w2.0", "b 7: w2.1 | b2.1 | w3.0"],
        [],
        id="gemms",
    ),
    pytest.param(
        """(float[N,3,4] x) => (float[N,5,4] y) <float[6,3] w1, float[5,6] w2> {
        a = MatMul(w1, x)
        y = MatMul(w2, a)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="matmul from the left",
    ),
    pytest.param(
        """(float[N,9,3] x) => (float[N,9,5] y)
        <float[3,6] w1, float[6] b1, float[6,5] w2> {
        a = MatMul(x, w1)
        b = Add(a, b1)
        y = MatMul(b, w2)
    }""",
        ["a 6: w1.1 | b1.0 | w2.0"],
        [],
        id="tokens",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w1, float[4,5,1,1] w2, float[4,3,1,1] w3, int64[2] sizes = {5,3}> {
        a = Conv(x, w1)
        b, c = Split<axis=1>(a, sizes)
        d = Conv(b, w2)
        e = Conv(c, w3)
        y = Add(d, e)
    }""",
        ["a 5: w1.0 |  | w2.1", "a#2 3: w1.0 |  | w3.1"],
        [],
        id="split",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3> {
        a = Conv(x, w1)
        b, c = Split<axis=1>(a)
        d = Conv(b, w2)
        e = Conv(c, w3)
        y = Add(d, e)
    }""",
        ["a 4: w1.0 |  | w2.1", "a#2 4: w1.0 |  | w3.1"],
        [],
        id="equal split",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w1, float[4,5,1,1] w2, float[4,8,1,1] w3,
         int64[2] from = {1,2}, int64[2] to = {-2,100}, int64[2] axes = {1,3}, int64[8] pads = {0,0,0,2,0,0,0,0}> {
        a = Conv(x, w1)
        s = Slice(a, from, to, axes)
        p = Pad(s, pads)
        d = Conv(p, w2)
        e = Conv(a, w3)
        y = Add(d, e)
    }""",
        ["a 3: w1.0 |  | w3.1", "a#2 5: w1.0 |  | w2.1 w3.1"],
        [],
        id="slice",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, int64[6] order = {5,0,2,-2,1,0}, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = Gather<axis=1>(a, order)
        y = Conv(b, w2)
    }""",
        ["a 5: w1.0 |  | w2.1"],
        [],
        id="gather",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[4,3,1,1] w1, float[8,4,1,1] w2, int64[8] pads = {0,2,0,0,0,2,0,0}, float[4,8,1,1] w3> {
        a = Conv(x, w1)
        p = Pad(a, pads)
        b = Conv(a, w2)
        s = Add(p, b)
        y = Conv(s, w3)
    }""",
        ["a 4: w1.0 w2.0 |  | w2.1 w3.1", "b 4: w2.0 |  | w3.1"],
        [],
        id="channel pad",
    ),
    pytest.param(
        """(float[N,6,8,8] x) => (float[N,4,8,8] y)
        <float[6,6,1,1] w, float[4,6,1,1] w2> {
        a = Conv(x, w)
        b = Relu(a)
        c = Conv(b, w)
        y = Conv(c, w2)
    }""",
        [],
        [],
        id="shared weight",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[5,3,1,1] p, float[5,3,1,1] q, float[6,5,1,1] w, float[4,6,1,1] v> {
        a = Conv(x, p)
        b = Conv(x, q)
        c = Conv(a, w)
        d = Conv(b, w)
        e = Conv(c, v)
        f = Conv(d, v)
        y = Add(e, f)
    }""",
        ["a 5: p.0 q.0 |  | w.1 w.1", "c 6: w.0 w.0 |  | v.1 v.1"],
        [],
        id="shared head",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6] scale, float[6,5] m, float[4,5,1,1] w2> {
        a = Conv(x, w1)
        b = Transpose<perm=[0,2,3,1]>(a)
        c = Mul(b, scale)
        d = MatMul(c, m)
        e = Transpose<perm=[0,3,1,2]>(d)
        y = Conv(e, w2)
    }""",
        ["a 6: w1.0 | scale.0 | m.0", "d 5: m.1 |  | w2.1"],
        [],
        id="NHWC in between",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,2,8,8] y)
        <float[12,3,1,1] w1, float[2,3,1,1] w2> {
        a = Conv(x, w1)
        b = DepthToSpace<blocksize=2, mode="CRD">(a)
        y = Conv(b, w2)
    }""",
        ["a 3: w1.0 |  | w2.1"],
        [],
        id="pixel shuffle",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,2,2,2] y)
        <float[3,3,1,1] w1, float[2,12,1,1] w2> {
        a = Conv(x, w1)
        b = SpaceToDepth<blocksize=2>(a)
        y = Conv(b, w2)
    }""",
        ["a 3: w1.0 |  | w2.1"],
        [],
        id="space to depth",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,2,8,8] y)
        <float[3,6,2,2] w1, float[6] b1, float[6,1,3,3] d, float[6,2,1,1] w2> {
        a = ConvTranspose<strides=[2,2]>(x, w1, b1)
        b = ConvTranspose<group=6, pads=[1,1,1,1]>(a, d)
        y = ConvTranspose(b, w2)
    }""",
        ["a 6: w1.1 | b1.0 d.0 | w2.0"],
        [],
        id="transposed conv",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[8,3,1,1] w1, float[8,3,1,1] g, float[2,6,1,1] w2> {
        a = Conv(x, w1)
        b = ConvTranspose<group=2>(a, g)
        y = Conv(b, w2)
    }""",
        ["a 4: w1.0 |  | g.0", "b 3: g.1 |  | w2.1"],
        [],
        id="grouped transposed conv",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5] y)
        <float[6,3,1,1] w1, float[5,96] w2, int64 zero = {0}, int64[1] ax = {0}, int64[1] rest = {96}> {
        a = Conv(x, w1)
        shape = Shape(a)
        n = Gather(shape, zero)
        nn = Unsqueeze(n, ax)
        to = Concat<axis=0>(nn, rest)
        f = Reshape(a, to)
        y = Gemm<transB=1>(f, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="computed reshape",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5] y)
        <float[6,3,1,1] w1, float[5,6] w2, int64[1] minus = {-1}, int64 one = {1}, int64[1] ax = {0},
         int64[1] many = {16}> {
        a = Conv(x, w1)
        shape = Shape(a)
        c = Gather(shape, one)
        cc = Unsqueeze(c, ax)
        to = Concat<axis=0>(minus, cc, many)
        f = Reshape(a, to)
        m = ReduceMean<axes=[2], keepdims=0>(f)
        y = Gemm<transB=1>(m, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="reshape by computed width",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w1, float[5,6,1,1] w2, int64 one = {1}> {
        a = Conv(x, w1)
        shape = Shape(a)
        c = Gather(shape, one)
        f = Cast<to=1>(c)
        r = Sqrt(f)
        d = Div(a, r)
        y = Conv(d, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="width in arithmetic",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,8,8] y)
        <float[6,3,1,1] w1, float[5,6,1,1] w2, int64[4] twice = {1,1,2,2}> {
        a = Conv(x, w1)
        shape = Shape(a)
        sizes = Mul(shape, twice)
        u = Resize<mode="nearest">(a, , , sizes)
        y = Conv(u, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="resize to computed sizes",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,4,4] w1, float[5,6,1,1] w2, int64[4] to = {1,6,4,4}> {
        a = Conv(x, w1)
        e = Expand(a, to)
        y = Conv(e, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="expand to a constant",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        s = Softmax<axis=2>(a)
        y = Conv(s, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="softmax over space",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        s = Softmax<axis=1>(a)
        y = Conv(s, w2)
    }""",
        [],
        ["Softmax"],
        id="softmax over channels",
    ),
    pytest.param(
        """(float[N,4,6] x) => (float[N,4,5] y)
        <float[6,8] q, float[6,8] k, float[6,7] v, float[7,5] o> {
        qq = MatMul(x, q)
        kk = MatMul(x, k)
        vv = MatMul(x, v)
        kt = Transpose<perm=[0,2,1]>(kk)
        s = MatMul(qq, kt)
        p = Softmax<axis=-1>(s)
        z = MatMul(p, vv)
        y = MatMul(z, o)
    }""",
        ["vv 7: v.1 |  | o.0"],
        ["MatMul"],
        id="attention",
    ),
    pytest.param(
        """(float[1,4,3] x) => (float[1,5,5] y)
        <float[3,6] w1, float[1,1,6] token, float[5,6] place, float[6,5] w2> {
        a = MatMul(x, w1)
        c = Concat<axis=1>(token, a)
        d = Add(c, place)
        y = MatMul(d, w2)
    }""",
        ["a 6: w1.1 | token.2 place.1 | w2.0"],
        [],
        id="class token",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w1, float[6,3,1,1] w2, float[1,6,1,1] bound, float[5,6,1,1] w3> {
        a = Conv(x, w1)
        b = Conv(x, w2)
        c = Greater(a, bound)
        d = Where(c, a, b)
        e = Max(d, bound)
        y = Conv(e, w3)
    }""",
        ["a 6: w1.0 w2.0 | bound.1 bound.1 | w3.1"],
        [],
        id="where and max",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y)
        <float[6,3,1,1] w1, int64[4] twice = {1,2,1,1}, float[5,12,1,1] w2> {
        a = Conv(x, w1)
        b = Tile(a, twice)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="tile",
    ),
]
