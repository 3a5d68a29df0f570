"""Inputs and outputs stay what callers know, and the result is valid ONNX."""

from collections.abc import Callable

import onnx_ir as ir
import pytest
from small_graphs import build

from graph.errors import LawError
from graph.interface import check_interface
from graph.model import clone

TEXT = "(float[N,3,H,8] x) => (float[N,3,H,8] y, int64[4] s) <float[1] one = {1}> { y = Add(x, one) s = Shape(y) }"


def rename_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "z"


def fix_the_batch(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([1, 3, "H", 8])


def forget_a_shape(model: ir.Model) -> None:
    model.graph.outputs[0].shape = None


def change_a_type(model: ir.Model) -> None:
    model.graph.outputs[1].type = ir.TensorType(ir.DataType.INT32)


def swap_outputs(model: ir.Model) -> None:
    model.graph.outputs.reverse()


def break_a_node(model: ir.Model) -> None:
    model.graph.node(0).attributes["axis"] = ir.AttrInt64("axis", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_input, "the inputs changed: x .* became z"),
        (fix_the_batch, "the inputs changed"),
        (forget_a_shape, "the outputs changed"),
        (change_a_type, "the outputs changed"),
        (swap_outputs, "the outputs changed"),
        (break_a_node, "not valid ONNX"),
    ],
)
def test_what_callers_would_notice_is_an_error(change: Callable[[ir.Model], None], words: str) -> None:
    model = build(TEXT)
    small = clone(model)
    check_interface(model, small)
    change(small)
    with pytest.raises(LawError, match=words):
        check_interface(model, small)


def test_initializers_that_are_listed_as_inputs_are_none() -> None:
    model = build(TEXT)
    listed = clone(model)
    listed.graph.inputs.append(listed.graph.initializers["one"])
    check_interface(listed, model)
