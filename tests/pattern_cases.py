"""Patterns of real architectures, small, with the groups that a reader expects of them (see `coupling_cases`)."""

import pytest

PATTERNS = [
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4] y)
        <float[6,3,1,1] w0, float[6] g1, float[6] b1, float[6] m1, float[6] var1, float[5,6,1,1] w1, float[6,5,1,1] w2,
         float[6] g2, float[6] b2, float[6] m2, float[6] var2, float[4,6] w3> {
        s = Conv(x, w0)
        n = BatchNormalization(s, g1, b1, m1, var1)
        r = Relu(n)
        a = Conv(r, w1)
        b = Conv(a, w2)
        t = Add(s, b)
        o = BatchNormalization(t, g2, b2, m2, var2)
        p = GlobalAveragePool(o)
        f = Flatten(p)
        y = Gemm<transB=1>(f, w3)
    }""",
        [
            "s 6: w0.0 w2.0 | g1.0 b1.0 m1.0 var1.0 g2.0 b2.0 m2.0 var2.0 | w1.1 w3.1",
            "a 5: w1.0 |  | w2.1",
        ],
        [],
        id="pre-activation",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w0, float[2,6,1,1] w1, float[8] g, float[8] b, float[8] m, float[8] var, float[3,8,1,1] w2,
         float[4,11,1,1] w3> {
        s = Conv(x, w0)
        a = Conv(s, w1)
        c = Concat<axis=1>(s, a)
        n = BatchNormalization(c, g, b, m, var)
        d = Conv(n, w2)
        e = Concat<axis=1>(c, d)
        y = Conv(e, w3)
    }""",
        [
            "s 6: w0.0 | g.0 b.0 m.0 var.0 | w1.1 w2.1 w3.1",
            "a 2: w1.0 | g.0 b.0 m.0 var.0 | w2.1 w3.1",
            "d 3: w2.0 |  | w3.1",
        ],
        [],
        id="DenseNet",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w0, float[3,6,1,1] w1, float[2,6,1,1] w2, float[5,2,3,3] w3, float[2,6,1,1] w4,
         float[4,10,1,1] w5> {
        s = Conv(x, w0)
        a = Conv(s, w1)
        b = Conv(s, w2)
        c = Conv<pads=[1,1,1,1]>(b, w3)
        p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(s)
        d = Conv(p, w4)
        e = Concat<axis=1>(a, c, d)
        y = Conv(e, w5)
    }""",
        [
            "s 6: w0.0 |  | w1.1 w2.1 w4.1",
            "a 3: w1.0 |  | w5.1",
            "b 2: w2.0 |  | w3.1",
            "c 5: w3.0 |  | w5.1",
            "d 2: w4.0 |  | w5.1",
        ],
        [],
        id="Inception",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[12,3,1,1] w1, float[16,3,3,3] g, float[4,16,1,1] w2> {
        a = Conv(x, w1)
        b = Conv<group=4, pads=[1,1,1,1]>(a, g)
        y = Conv(b, w2)
    }""",
        ["a 3: w1.0 |  | g.1", "b 4: g.0 |  | w2.1"],
        [],
        id="four groups",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,64,4,4] y)
        <float[64,3,1,1] w0, float[64,64,1,1] w1, float[64,2,3,3] g, float[64,64,1,1] w2, float[64,64,1,1] w3> {
        s = Conv(x, w0)
        a = Conv(s, w1)
        b = Conv<group=32, pads=[1,1,1,1]>(a, g)
        c = Conv(b, w2)
        t = Add(s, c)
        y = Conv(t, w3)
    }""",
        ["s 64: w0.0 w2.0 |  | w1.1 w3.1", "a 32: w1.0 | g.0 | w2.1"],
        [],
        id="ResNeXt with 32 groups",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6,3] down, float[3] db, float[3,6] up, float[6] ub, int64[4] to = {-1,6,1,1},
         float[4,6,1,1] w2> {
        a = Conv(x, w1)
        p = ReduceMean<axes=[2,3], keepdims=0>(a)
        d = Gemm(p, down, db)
        r = Relu(d)
        u = Gemm(r, up, ub)
        s = Sigmoid(u)
        t = Reshape(s, to)
        m = Mul(t, a)
        y = Conv(m, w2)
    }""",
        ["a 6: w1.0 up.1 | ub.0 | down.0 w2.1", "d 3: down.1 | db.0 | up.0"],
        [],
        id="squeeze and excite, gate first",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w0, float[4,4,1,1] w1, float[4,1,3,3] d, float[4,4,1,1] w2, float[4,8,1,1] w3,
         int64[5] cut = {0,2,-1,8,8}, int64[4] join = {0,-1,8,8}> {
        s = Conv(x, w0)
        l, r = Split<axis=1>(s)
        a = Conv(r, w1)
        b = Conv<group=4, pads=[1,1,1,1]>(a, d)
        c = Conv(b, w2)
        e = Concat<axis=1>(l, c)
        f = Reshape(e, cut)
        g = Transpose<perm=[0,2,1,3,4]>(f)
        h = Reshape(g, join)
        y = Conv(h, w3)
    }""",
        ["s 4: w0.0 w2.0 |  | w3.1", "s#2 4: w0.0 |  | w1.1", "a 4: w1.0 | d.0 | w2.1"],
        [],
        id="ShuffleNet unit",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w0, float[3,4,3,3] w1, float[4,3,3,3] w2, float[4,12,1,1] w3> {
        s = Conv(x, w0)
        u = Sigmoid(s)
        v = Mul(s, u)
        l, r = Split<axis=1>(v)
        a = Conv<pads=[1,1,1,1]>(r, w1)
        b = Conv<pads=[1,1,1,1]>(a, w2)
        t = Add(r, b)
        e = Concat<axis=1>(l, r, t)
        y = Conv(e, w3)
    }""",
        ["s 4: w0.0 |  | w3.1", "s#2 4: w0.0 w2.0 |  | w1.1 w3.1", "a 3: w1.0 |  | w2.1"],
        [],
        id="C2f",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w0, float[4,6,1,1] w1, float[5,6,1,1] w2, float[4,4,3,3] w3, float[4,9,1,1] w4> {
        s = Conv(x, w0)
        a = Conv(s, w1)
        b = Conv(s, w2)
        c = Conv<pads=[1,1,1,1]>(a, w3)
        d = Add(a, c)
        e = Concat<axis=1>(d, b)
        y = Conv(e, w4)
    }""",
        ["s 6: w0.0 |  | w1.1 w2.1", "a 4: w1.0 w3.0 |  | w3.1 w4.1", "b 5: w2.0 |  | w4.1"],
        [],
        id="CSP",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,5,4,4] y)
        <float[4,3,1,1] w0, float[5,16,3,3] w1, int64[1] zero = {0}, int64[1] one = {1},
         int64[1] end = {9223372036854775807},
         int64[1] h = {2}, int64[1] w = {3}, int64[1] two = {2}> {
        s = Conv(x, w0)
        top = Slice(s, zero, end, h, two)
        low = Slice(s, one, end, h, two)
        a = Slice(top, zero, end, w, two)
        b = Slice(low, zero, end, w, two)
        c = Slice(top, one, end, w, two)
        d = Slice(low, one, end, w, two)
        e = Concat<axis=1>(a, b, c, d)
        y = Conv<pads=[1,1,1,1]>(e, w1)
    }""",
        ["s 4: w0.0 |  | w1.1"],
        [],
        id="Focus",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,2,8,8] y)
        <float[12,3,1,1] w1, float[2,3,1,1] w2, int64[6] cut = {-1,3,2,2,4,4}, int64[4] join = {-1,3,8,8}> {
        a = Conv(x, w1)
        b = Reshape(a, cut)
        c = Transpose<perm=[0,1,4,2,5,3]>(b)
        d = Reshape(c, join)
        y = Conv(d, w2)
    }""",
        ["a 3: w1.0 |  | w2.1"],
        [],
        id="pixel shuffle spelled out",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,2,8,8] y)
        <float[4,3,1,1] w0, float[6,4,3,3] w1, float[6,5,2,2] up, float[5] ub, float[2,9,1,1] w2> {
        a = Conv(x, w0)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        b = Conv<pads=[1,1,1,1]>(p, w1)
        u = ConvTranspose<strides=[2,2]>(b, up, ub)
        c = Concat<axis=1>(u, a)
        y = Conv(c, w2)
    }""",
        ["a 4: w0.0 |  | w1.1 w2.1", "b 6: w1.0 |  | up.0", "u 5: up.1 | ub.0 | w2.1"],
        [],
        id="U-Net",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,4,4] y, float[N,4,8,8] z)
        <float[5,3,1,1] w0, float[6,5,3,3] w1, float[3,6,1,1] lat1, float[3,5,1,1] lat0, float[4,3,3,3] w2,
         float[4,3,3,3] w3,
         int64[1] from = {2}, int64[1] to = {4}, int64[1] zero = {0}> {
        a = Conv(x, w0)
        b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, w1)
        c = Conv(b, lat1)
        d = Conv(a, lat0)
        sa = Shape(a)
        space = Slice(sa, from, to, zero)
        sc = Shape(c)
        rest = Slice(sc, zero, from, zero)
        sizes = Concat<axis=0>(rest, space)
        u = Resize<mode="nearest">(c, , , sizes)
        s = Add(d, u)
        y = Conv<pads=[1,1,1,1]>(c, w2)
        z = Conv<pads=[1,1,1,1]>(s, w3)
    }""",
        ["a 5: w0.0 |  | w1.1 lat0.1", "b 6: w1.0 |  | lat1.1", "c 3: lat1.0 lat0.0 |  | w2.1 w3.1"],
        [],
        id="FPN",
    ),
    pytest.param(
        """(float[N,3,16] x) => (float[N,4,8] y) <float[6,3,3] w1, float[6,1,3] d, float[4,6,1] w2> {
        a = Conv<strides=[2], pads=[1,1]>(x, w1)
        b = Conv<group=6, pads=[1,1]>(a, d)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 | d.0 | w2.1"],
        [],
        id="Conv1d",
    ),
    pytest.param(
        """(float[N,3,4,4,4] x) => (float[N,4,4,4,4] y)
        <float[6,3,1,1,1] w1, float[6] g, float[6] b, float[6] m, float[6] var, float[4,6,3,3,3] w2> {
        a = Conv(x, w1)
        n = BatchNormalization(a, g, b, m, var)
        y = Conv<pads=[1,1,1,1,1,1]>(n, w2)
    }""",
        ["a 6: w1.0 | g.0 b.0 m.0 var.0 | w2.1"],
        [],
        id="Conv3d",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[4,6,1,1] w2> {
        w1 = Constant<value = float[6,3,1,1] {1,2,-3,4,5,-6,7,8,-9,1,-2,3,4,-5,6,7,-8,9}>()
        b1 = Constant<value = float[6] {1,-2,3,-4,5,-6}>()
        a = Conv(x, w1, b1)
        r = Relu(a)
        y = Conv(r, w2)
    }""",
        ["a 6: w1.0 | b1.0 | w2.1"],
        [],
        id="weights from Constant nodes",
    ),
    pytest.param(
        """(float[N,3,4,4] x, float[N,2,4,4] z) => (float[N,4,4,4] y, float[N,5] u)
        <float[6,3,1,1] w1, float[6,2,1,1] w2, float[4,6,1,1] w3, float[7,2,1,1] w4, float[5,7] w5> {
        a = Conv(x, w1)
        b = Conv(z, w2)
        s = Sub(a, b)
        y = Conv(s, w3)
        c = Conv(z, w4)
        p = GlobalMaxPool(c)
        f = Flatten(p)
        u = Gemm<transB=1>(f, w5)
    }""",
        ["a 6: w1.0 w2.0 |  | w3.1", "c 7: w4.0 |  | w5.1"],
        [],
        id="two inputs and two outputs",
    ),
]

ATTENTION = """
        q = MatMul(n, wq)
        qb = Add(q, bq)
        qr = Reshape(qb, heads)
        qt = Transpose<perm=[0,2,1,3]>(qr)
        k = MatMul(n, wk)
        kb = Add(k, bk)
        kr = Reshape(kb, heads)
        kt = Transpose<perm=[0,2,3,1]>(kr)
        v = MatMul(n, wv)
        vb = Add(v, bv)
        vr = Reshape(vb, heads)
        vt = Transpose<perm=[0,2,1,3]>(vr)
        s = MatMul(qt, kt)
        scaled = Div(s, root)
        p = Softmax<axis=-1>(scaled)
        z = MatMul(p, vt)
        zt = Transpose<perm=[0,2,1,3]>(z)
        zr = Reshape(zt, joined)
        o = MatMul(zr, wo)"""

TRANSFORMERS = [
    pytest.param(
        f"""(float[N,5,6] x) => (float[N,5,6] y)
        <float[6] g1, float[6] b1, float[6,12] wq, float[12] bq, float[6,12] wk, float[12] bk, float[6,12] wv,
         float[12] bv,
         int64[4] heads = {{0,5,3,4}}, int64[3] joined = {{0,0,-1}}, float root = {{2}}, float[12,6] wo, float[6] bo,
         float[6] g2, float[6] b2, float[6,9] wa, float[9] ba, float[9,6] wb, float[6] bb> {{
        n = LayerNormalization<axis=-1>(x, g1, b1)
        {ATTENTION}
        ob = Add(o, bo)
        r = Add(x, ob)
        m = LayerNormalization<axis=-1>(r, g2, b2)
        a = MatMul(m, wa)
        ab = Add(a, ba)
        g = com.microsoft.Gelu(ab)
        b = MatMul(g, wb)
        c = Add(b, bb)
        y = Add(r, c)
    }}""",
        [
            "q 3: wq.1 wk.1 wv.1 | bq.0 bk.0 bv.0 | wo.0",
            "a 9: wa.1 | ba.0 | wb.0",
        ],
        ["Add", "Add"],
        id="transformer block: whole heads",
    ),
    pytest.param(
        f"""(float[N,3,4,4] x) => (float[N,16,6] y)
        <float[8,3,1,1] w1, int64[5] cut = {{0,2,4,4,4}}, int64[4] join = {{0,8,4,4}}, float[6,8,1,1] w2,
         int64[3] flat = {{0,6,16}}, float[6,12] wq, float[12] bq, float[6,12] wk, float[12] bk, float[6,12] wv,
         float[12] bv, int64[4] heads = {{0,16,3,4}}, int64[3] joined = {{0,0,-1}}, float root = {{2}},
         float[12,6] wo> {{
        a = Conv(x, w1)
        b = Reshape(a, cut)
        c = Transpose<perm=[0,2,1,3,4]>(b)
        d = Reshape(c, join)
        e = Conv(d, w2)
        f = Reshape(e, flat)
        n = Transpose<perm=[0,2,1]>(f)
        {ATTENTION}
        y = Identity(o)
    }}""",
        ["a 4: w1.0 |  | w2.1", "e 6: w2.0 |  | wq.0 wk.0 wv.0", "q 3: wq.1 wk.1 wv.1 | bq.0 bk.0 bv.0 | wo.0"],
        [],
        id="a channel shuffle before attention",
    ),
    pytest.param(
        """(float[N,5,6] x) => (float[N,5,7] y)
        <float[6,24] w, float[24] b, int64[5] cut = {0,0,3,2,4}, int64 zero = {0}, int64 one = {1}, int64 two = {2},
         int64[3] joined = {0,0,-1}, float[8,7] wo> {
        h = MatMul(x, w)
        hb = Add(h, b)
        r = Reshape(hb, cut)
        t = Transpose<perm=[2,0,3,1,4]>(r)
        q = Gather<axis=0>(t, zero)
        k = Gather<axis=0>(t, one)
        v = Gather<axis=0>(t, two)
        kt = Transpose<perm=[0,1,3,2]>(k)
        s = MatMul(q, kt)
        p = Softmax<axis=-1>(s)
        z = MatMul(p, v)
        zt = Transpose<perm=[0,2,1,3]>(z)
        zr = Reshape(zt, joined)
        y = MatMul(zr, wo)
    }""",
        ["h 2: w.1 | b.0 | wo.0"],
        [],
        id="query, key and value in one weight",
    ),
    pytest.param(
        """(float[5,N,6] x) => (float[5,N,7] y)
        <float[6,36] w, float[36] b, float[12,7] wo, int64 one = {1}, int64 many = {3}, int64[1] zero = {0},
         int64[1] depth = {4},
         int64[1] tokens = {5}, int64[1] all = {12}, int64[3] parts = {12,12,12}> {
        h = MatMul(x, w)
        hb = Add(h, b)
        q, k, v = Split<axis=2>(hb, parts)
        shape = Shape(x)
        n = Gather(shape, one)
        nh = Mul(n, many)
        nh1 = Unsqueeze(nh, zero)
        n1 = Unsqueeze(n, zero)
        to = Concat<axis=0>(tokens, nh1, depth)
        back = Concat<axis=0>(tokens, n1, all)
        qr = Reshape(q, to)
        qt = Transpose<perm=[1,0,2]>(qr)
        kr = Reshape(k, to)
        kt = Transpose<perm=[1,2,0]>(kr)
        vr = Reshape(v, to)
        vt = Transpose<perm=[1,0,2]>(vr)
        s = MatMul(qt, kt)
        p = Softmax<axis=-1>(s)
        z = MatMul(p, vt)
        zt = Transpose<perm=[1,0,2]>(z)
        zr = Reshape(zt, back)
        y = MatMul(zr, wo)
    }""",
        ["h 3: w.1 | b.0 | wo.0"],
        [],
        id="heads beside the samples on one axis",
    ),
    pytest.param(
        """(float[N,5,6] x) => (float[N,5,7] y)
        <float[6,8] wq, float[6,8] wk, float[6,8] wv, int64[4] heads = {0,5,4,2}, int64[3] joined = {0,0,-1},
         float[8,7] wo> {
        q = MatMul(x, wq)
        qr = Reshape(q, heads)
        k = MatMul(x, wk)
        kr = Reshape(k, heads)
        v = MatMul(x, wv)
        vr = Reshape(v, heads)
        s = Einsum<equation="bihd, bjhd -> bhij">(qr, kr)
        p = Softmax<axis=-1>(s)
        z = Einsum<equation="bhij,bjhd->bihd">(p, vr)
        zr = Reshape(z, joined)
        y = MatMul(zr, wo)
    }""",
        ["q 4: wq.1 wk.1 wv.1 |  | wo.0"],
        [],
        id="attention by Einsum",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4] y)
        <float[6,3,4,4] w0, float[1,1,6] token, float[1,5,6] place, int64[3] flat = {0,6,-1}, int64[1] zero = {0},
         int64[1] one = {1}, int64[1] six = {6}, float[6,7] w1, float[7,6] w2, float[6,4] w3> {
        e = Conv<strides=[4,4]>(x, w0)
        r = Reshape(e, flat)
        t = Transpose<perm=[0,2,1]>(r)
        shape = Shape<start=0, end=1>(x)
        to = Concat<axis=0>(shape, one, six)
        c = Expand(token, to)
        s = Concat<axis=1>(c, t)
        u = Add(s, place)
        a = MatMul(u, w1)
        b = Relu(a)
        d = MatMul(b, w2)
        v = Add(u, d)
        m = ReduceMean<axes=[1], keepdims=0>(v)
        y = MatMul(m, w3)
    }""",
        ["e 6: w0.0 w2.1 | token.2 place.2 | w1.0 w3.0", "a 7: w1.1 |  | w2.0"],
        [],
        id="class token spread over the samples",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,5,4] y)
        <float[6,3,4,4] w0, float[6] token, int64[3] flat = {0,6,-1}, int64[1] one = {1}, int64[1] six = {6},
         float[6,4] w3> {
        e = Conv<strides=[4,4]>(x, w0)
        r = Reshape(e, flat)
        t = Transpose<perm=[0,2,1]>(r)
        shape = Shape<start=0, end=1>(x)
        to = Concat<axis=0>(shape, one, six)
        z = ConstantOfShape(to)
        c = Add(z, token)
        s = Concat<axis=1>(c, t)
        y = MatMul(s, w3)
    }""",
        ["e 6: w0.0 | token.0 | w3.0"],
        [],
        id="class token added to zeros",
    ),
    pytest.param(
        """(float[N,3,4] x) => (float[N,1,2] y)
        <float[8,3] w1, int64[3] cut = {0,2,4}, int64[3] join = {0,-1,8}, float[8,2] w2> {
        a = MatMul(w1, x)
        i = ArgMax<axis=2, keepdims=0>(a)
        r = Reshape(i, cut)
        f = Cast<to=1>(r)
        s = Softmax<axis=2>(f)
        j = Reshape(s, join)
        y = MatMul(j, w2)
    }""",
        ["a 2: w1.0 |  | w2.0"],
        [],
        id="a choice of axes on whole numbers",
    ),
    pytest.param(
        """(float[N,4,6] x) => (float[N,4,5] y)
        <float[6,8] wa, float[8] ba, float[8] g, float[8] b, float[8,5] wb> {
        a = MatMul(x, wa)
        c = Add(a, ba)
        d = LayerNormalization<axis=-1>(c, g, b)
        y = MatMul(d, wb)
    }""",
        [],
        ["LayerNormalization"],
        id="LayerNormalization along the channels",
    ),
]

NORMALISATIONS = [
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6] s, float[6] b, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        n = InstanceNormalization(a, s, b)
        y = Conv(n, w2)
    }""",
        ["a 6: w1.0 | s.0 b.0 | w2.1"],
        [],
        id="InstanceNormalization",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float[6] s, float[1,6,1] b, float[1] ones = {1}, float[1] zeros = {0},
         int64[3] flat = {1,-1,64},
         int64[1] first = {1}, int64[1] six = {6}, int64[1] side = {8}, int64[1] zero = {0}, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        r = Reshape(a, flat)
        m = ReduceMean<axes=[2]>(r)
        c = Sub(r, m)
        v = ReduceL2<axes=[2]>(c)
        n = Div(c, v)
        shape = Shape<start=0, end=1>(x)
        back = Concat<axis=0>(shape, six, side, side)
        q = Reshape(n, back)
        y = Conv(q, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="InstanceNormalization spelled out, samples and channels on one axis",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[12,3,1,1] w1, int64[3] cut = {0,3,-1}, float[3] ones = {1,1,1}, float[3] zeros = {0,0,0},
         float[12,1,1] s,
         float[12,1,1] b, float[4,12,1,1] w2> {
        a = Conv(x, w1)
        shape = Shape(a)
        r = Reshape(a, cut)
        n = InstanceNormalization(r, ones, zeros)
        q = Reshape(n, shape)
        m = Mul(q, s)
        c = Add(m, b)
        y = Conv(c, w2)
    }""",
        ["a 3: w1.0 | ones.0 zeros.0 s.0 b.0 | w2.1"],
        [],
        id="GroupNormalization spelled out: whole groups",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[12,3,1,1] w1, int64[3] cut = {0,2,-1}, float[2] ones = {1,1}, float[2] zeros = {0,0},
         int64[4] back = {0,-1,8,8},
         float[12,1,1] s, float[4,12,1,1] w2> {
        a = Conv(x, w1)
        r = Reshape(a, cut)
        n = InstanceNormalization(r, ones, zeros)
        q = Reshape(n, back)
        m = Mul(q, s)
        y = Conv(m, w2)
    }""",
        ["a 2: w1.0 | ones.0 zeros.0 s.0 | w2.1"],
        [],
        id="GroupNormalization spelled out: fewer groups than channels in each",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[6,3,1,1] w1, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = Transpose<perm=[0,2,3,1]>(a)
        c = LRN<size=3>(b)
        d = Transpose<perm=[0,3,1,2]>(c)
        y = Conv(d, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="LRN along another axis",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, float step = {0.1}, int8 z = {3}, float[6] steps = {0.1,0.2,0.1,0.1,0.3,0.1},
         int8[6] zs = {0,0,1,2,0,1}, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = QuantizeLinear(a, step, z)
        c = DequantizeLinear(b, step, z)
        d = QuantizeLinear(c, steps, zs)
        e = DequantizeLinear(d, steps, zs)
        y = Conv(e, w2)
    }""",
        ["a 6: w1.0 | steps.0 zs.0 steps.0 zs.0 | w2.1"],
        [],
        id="rounded activations",
    ),
]

SELECTIONS = [
    pytest.param(
        """(float[N,4,4,3] x) => (float[N,6,6,2] y) <float[3,6] w1, int64[8] pads = {0,1,1,0,0,1,1,0}, float[6,2] w2> {
        p = Pad(x, pads)
        a = MatMul(p, w1)
        r = Relu(a)
        y = MatMul(r, w2)
    }""",
        ["a 6: w1.1 |  | w2.0"],
        [],
        id="space padded beside the channels",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,7,8] y)
        <float[8,3,1,1] w1, int64[2] even = {0,0}, int64[2] odd = {1,0}, int64[2] end = {100,7}, int64[2] axes = {1,2},
         int64[2] steps = {2,1}, float[4,4,1,1] w2, float[4,4,1,1] w3> {
        a = Conv(x, w1)
        b = Slice(a, even, end, axes, steps)
        c = Slice(a, odd, end, axes, steps)
        d = Conv(b, w2)
        e = Conv(c, w3)
        y = Add(d, e)
    }""",
        ["a 4: w1.0 |  | w2.1", "a#2 4: w1.0 |  | w3.1"],
        [],
        id="every other channel",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[6,3,1,1] w1, int64[1] last = {-1}, int64[1] first = {-100}, int64[1] axis = {1}, int64[1] back = {-1},
         float[4,6,1,1] w2, float[4,6,1,1] w3> {
        a = Conv(x, w1)
        b = Slice(a, last, first, axis, back)
        c = Concat<axis=1>(a, b)
        d, e = Split<axis=1>(c)
        f = Conv(d, w2)
        g = Conv(e, w3)
        y = Add(f, g)
    }""",
        ["a 6: w1.0 |  | w2.1 w3.1"],
        [],
        id="channels in reverse",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[N,2,5] y)
        <float[6,3,8,8] w1, int64[2,3] table = {0,2,4,1,3,-1}, float[3,5] w2> {
        a = Conv(x, w1)
        b = Gather<axis=1>(a, table)
        c = ReduceMean<axes=[3,4], keepdims=0>(b)
        y = MatMul(c, w2)
    }""",
        ["a 3: w1.0 |  | w2.0"],
        [],
        id="gather by a table",
    ),
    pytest.param(
        """(float[1,3,4,4] x) => (float[1,5,4,4] y)
        <float[6,3,1,1] w1, float[6,3,1,1] w2, int64[1,6,1,4] j = {0,1,2,3,3,2,1,0,0,0,0,0,1,1,1,1,2,2,2,2,3,3,3,3},
         int64[4] to = {1,1,4,1}, float[5,6,1,1] w3> {
        a = Conv(x, w1)
        t = Tile(j, to)
        b = GatherElements<axis=3>(a, t)
        c = Conv(x, w2)
        d = ScatterElements<axis=2>(b, t, c)
        y = Conv(d, w3)
    }""",
        [],
        ["GatherElements", "ScatterElements"],
        id="elements by indices that are computed",
    ),
    pytest.param(
        """(float[1,3,1,4] x) => (float[1,5,1,4] y)
        <float[6,3,1,1] w1, float[6,3,1,1] w2, int64[1,6,1,4] j = {0,1,2,3,3,2,1,0,0,0,0,0,1,1,1,1,2,2,2,2,3,3,3,3},
         float[5,6,1,1] w3> {
        a = Conv(x, w1)
        b = GatherElements<axis=3>(a, j)
        c = Conv(x, w2)
        d = ScatterElements<axis=3, reduction="add">(b, j, c)
        y = Conv(d, w3)
    }""",
        ["a 6: w1.0 w2.0 | j.1 j.1 | w3.1"],
        [],
        id="elements across the channels",
    ),
    pytest.param(
        """(float[1,3,4,4] x) => (float[1,5,1,4] y)
        <float[6,3,1,1] w1, int64[1,2,1,4] j = {0,1,2,3,5,4,3,1}, float[5,2,1,1] w3> {
        a = Conv(x, w1)
        b = GatherElements<axis=1>(a, j)
        y = Conv(b, w3)
    }""",
        [],
        ["GatherElements"],
        id="elements along the channels",
    ),
    pytest.param(
        """(float[2,4,3] x) => (float[2,4,5] y)
        <float[3,6] w1, float[3,6] w2, int64[2,2] places = {0,1,1,3}, float[6,5] w3> {
        a = MatMul(x, w1)
        c = MatMul(x, w2)
        u = GatherND(c, places)
        b = ScatterND(a, places, u)
        y = MatMul(b, w3)
    }""",
        ["a 6: w1.1 w2.1 |  | w3.0"],
        [],
        id="tokens written over others",
    ),
    pytest.param(
        """(float[1,3,4,4] x) => (float[1,5,4,4] y)
        <float[6,3,1,1] w1, float[2,3,1,1] w2, int64[1,2,2] places = {0,1,0,4}, float[5,6,1,1] w3> {
        a = Conv(x, w1)
        u = Conv(x, w2)
        b = ScatterND(a, places, u)
        y = Conv(b, w3)
    }""",
        [],
        ["ScatterND"],
        id="channels written over others",
    ),
    pytest.param(
        """(float[N,3,8,8] x) => (float[2,5,2,2] y)
        <float[6,3,1,1] w1, float[2,4] boxes = {0,0,4,4,2,2,7,7}, int64[2] of = {0,0}, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        b = RoiAlign<output_height=2, output_width=2>(a, boxes, of)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="regions of interest",
    ),
    pytest.param(
        """(float[N,3,4,4] x) => (float[N,5,4,4] y) <float[6,3,1,1] w1, float[5,6,1,1] w2> {
        a = Conv(x, w1)
        b = Trilu(a)
        y = Conv(b, w2)
    }""",
        ["a 6: w1.0 |  | w2.1"],
        [],
        id="a triangle of space",
    ),
]

# opset, text, groups, reasons of what is frozen
BY_OPSET = [
    pytest.param(
        21,
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[12,3,1,1] w1, float[12] s, float[12] b, float[4,12,1,1] w2> {
        a = Conv(x, w1)
        n = GroupNormalization<num_groups=3>(a, s, b)
        y = Conv(n, w2)
    }""",
        ["a 3: w1.0 | s.0 b.0 | w2.1"],
        [],
        id="GroupNormalization",
    ),
    pytest.param(
        11,
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,1,1] w1, float[4,8,1,1] w2, float[4,4,1,1] w3> {
        a = Conv(x, w1)
        shape = Shape(a)
        one = Constant<value = int64 {1}>()
        two = Constant<value = int64 {2}>()
        zero = Constant<value = int64[1] {0}>()
        c = Gather(shape, one)
        half = Div(c, two)
        end = Unsqueeze<axes=[0]>(half)
        axis = Constant<value = int64[1] {1}>()
        b = Slice(a, zero, end, axis)
        d = Conv(b, w3)
        e = Conv(a, w2)
        y = Add(d, e)
    }""",
        ["a 4: w1.0 |  | w3.1 w2.1", "a#2 4: w1.0 |  | w2.1"],
        [],
        id="half of the channels, counted at run time",
    ),
    pytest.param(
        14,
        """(float[7,N,3] x) => (float[7,N,4] y)
        <float[3,6] w1, float[1,20,6] w, float[1,20,5] r, int64[3] to = {7,-1,5}, float[5,4] w2> {
        a = MatMul(x, w1)
        h = LSTM<hidden_size=5>(a, w, r)
        s = Reshape(h, to)
        y = MatMul(s, w2)
    }""",
        [],
        ["LSTM: a recurrent layer keeps its inputs and its 5 states: its weights are not followed"],
        id="LSTM",
    ),
    pytest.param(
        14,
        """(float[7,N,3] x) => (float[7,N,4] y)
        <float[3,6] w1, float[1,15,6] w, float[1,15,5] r, int64[1] axis = {1}, float[5,4] w2> {
        a = MatMul(x, w1)
        h = GRU<hidden_size=5>(a, w, r)
        s = Squeeze(h, axis)
        y = MatMul(s, w2)
    }""",
        [],
        ["GRU: a recurrent layer keeps its inputs and its 5 states: its weights are not followed"],
        id="GRU",
    ),
    pytest.param(
        17,
        """(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[6,3,1,1] w1, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = LRN<size=3>(a)
        y = Conv(b, w2)
    }""",
        [],
        ["LRN: it normalises each channel by the 3 channels around it"],
        id="LRN",
    ),
    pytest.param(
        17,
        """(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[6,3,1,1] w1, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        b = com.microsoft.Inverse(a)
        y = Conv(b, w2)
    }""",
        [],
        ["Inverse: there is no rule for the operator Inverse (domain: com.microsoft)"],
        id="an operator of another domain",
    ),
    pytest.param(
        17,
        """(float[N,3,4,4] x) => (float[N,4,4,4] y)
        <float[6,3,1,1] w1, float[4,6,1,1] w2, int64 three = {3}, bool yes = {1}> {
        a = Conv(x, w1)
        b = Loop(three, yes, a) <
            body = one (int64 i, bool c, float[N,6,4,4] s) => (bool d, float[N,6,4,4] t) {
                d = Identity(c)
                t = Relu(s)
            }
        >
        y = Conv(b, w2)
    }""",
        [],
        ["Loop: what is computed in its body is not followed"],
        id="Loop",
    ),
    pytest.param(
        17,
        """(float[5,3,4] x) => (float[5,2,4] y)
        <float[6,3] w1, float[6,3] w2, float[2,6] w3> {
        a = MatMul(w1, x)
        m = MatMul(w2, x)
        k = ReduceMean<axes=[0], keepdims=0>(m)
        b = Scan(a) <
            num_scan_inputs = 1,
            body = one (float[6,4] s) => (float[6,4] t) { t = Add(s, k) }
        >
        y = MatMul(w3, b)
    }""",
        [],
        ["Scan: what is computed in its body is not followed"],
        id="Scan that captures a value",
    ),
    pytest.param(
        17,
        """(float[N,3,4,4] x) => (float[N,6,4,4] a, float[N,4,4,4] y) <float[6,3,1,1] w1, float[4,6,1,1] w2> {
        a = Conv(x, w1)
        y = Conv(a, w2)
    }""",
        [],
        ["Conv: a is an output of the model"],
        id="an output in the middle",
    ),
    pytest.param(
        17,
        """(float[N,3,4] x) => (float[N,4] y) <float[6,3] w1, float[6,4] w2> {
        a = MatMul(w1, x)
        y = Einsum<equation="ncd,ck->nk">(a, w2)
    }""",
        [],
        ["Einsum: its equation 'ncd,ck->nk' multiplies by the constant w2"],
        id="Einsum with a weight",
    ),
]
