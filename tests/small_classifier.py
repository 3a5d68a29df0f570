"""A network small enough to be pruned in a second: three layers, pictures of 8×8 pixels, four classes."""

NETWORK = """(float[N, 3, 8, 8] x) => (float[N, 4] y)
<float[8, 3, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2, float[4, 8] w3, float[4] b3>
{
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    c = Conv(r, w2, b2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w3, b3)
}"""
