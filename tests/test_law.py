"""What the law lets pass, and what it does not: outputs of integers that were rounded from floats."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import build

from graph.couple import couple
from graph.errors import LawError
from graph.inputs import example_inputs
from graph.law import check_law
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

ROUNDED = {
    "QuantizeLinear": ("int8[N,4] y", "y = QuantizeLinear(f, scale, zero)"),
    "Cast": ("int32[N,4] y", "y = Cast<to=6>(f)"),
    "ArgMax": ("int64[N,1] y", "y = ArgMax<axis=1>(f)"),
}


def faulty(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    """Let surgery spoil the first number of a bias."""

    def spoilt(*parts: Any) -> ir.Model:
        small = shrink(*parts)
        bias = small.graph.initializers["b"]
        bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32([shift, 0, 0, 0]), name="b")
        return small

    monkeypatch.setattr("graph.law.shrink", spoilt)


@pytest.mark.parametrize(
    ("operator", "shift", "passes"),
    [
        ("QuantizeLinear", 0.0, True),
        ("QuantizeLinear", 0.6, True),
        ("QuantizeLinear", 3.0, False),
        ("Cast", 0.6, True),
        ("Cast", 3.0, False),
        ("ArgMax", 0.0, True),
        ("ArgMax", 100.0, False),
    ],
)
def test_integers(operator: str, shift: float, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    output, last = ROUNDED[operator]
    model = build(f"""(float[N,3] x) => ({output})
        <float[3,6] w, float[6,4] v, float[4] b, float scale = {{1}}, int8 zero = {{0}}> {{
        a = MatMul(x, w)
        g = MatMul(a, v)
        f = Add(g, b)
        {last}
    }}""")
    channels = couple(model, trace(model))
    plan, feeds = Plan({channels.groups[0].name: np.arange(6) < 4}), example_inputs(model, batch=64)
    faulty(monkeypatch, shift)
    if passes:
        check_law(model, channels, plan, feeds)
    else:
        with pytest.raises(LawError, match=r"output y differs in [1-9][0-9]* of"):
            check_law(model, channels, plan, feeds)
