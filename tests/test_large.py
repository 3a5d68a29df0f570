"""Models with external data, and beyond the two gigabytes that one protobuf message may have."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_graphs import random_plan

from graph.analysis import analyse
from graph.inputs import example_inputs
from graph.law import check_law
from graph.model import INLINE_BYTES, load, save, weight_bytes
from graph.runtime import run, session
from graph.shrink import shrink

FLOATS = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 10), "w4": (256, 10)}


def write(folder: Path, words: int, files: int) -> Path:
    """Write a network that looks up one of `words` rows of a table; its weights lie in `files` files of a subfolder."""
    rng = np.random.default_rng(0)
    (folder / "parts").mkdir(parents=True)
    tensors = []
    for number, (name, shape) in enumerate({**FLOATS, "table": (words, 256)}.items()):
        path = folder / "parts" / f"{number % files}.bin"
        with path.open("ab") as file:
            file.write(bytes(-file.tell() % 64))
            start = file.tell()
            rows = rng.standard_normal((min(shape[0], 4096), *shape[1:])).astype(np.float32) / 8
            for first in range(0, shape[0], 4096):
                file.write(rows[: shape[0] - first].tobytes())
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": f"parts/{path.name}", "offset": start, "length": file.tell() - start}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
    graph = onnx.parser.parse_graph("""g (float[N,3,8,8] x, int64[N] word) => (float[N,10] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w2)
        s = Relu(c)
        p = GlobalAveragePool(s)
        f = Flatten(p)
        g = MatMul(f, w3)
        row = Gather(table, word)
        h = MatMul(row, w4)
        y = Add(g, h)
    }""")
    graph.initializer.extend(tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return folder / "m.onnx"


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(model), feeds)[0]


def go_through(path: Path) -> ir.Model:
    """Load, analyse, prune by a random plan with the law checked, write, read again and compare."""
    model = load(path)
    analysis = analyse(model)
    assert {len(group.channels) for group in analysis.channels.groups} >= {16, 32}
    convolutions = [group.name for group in analysis.channels.groups if len(group.channels) in {16, 32}]
    plan = random_plan(analysis.channels, np.random.default_rng(0))
    plan = type(plan)({name: plan.keep[name] for name in convolutions})
    feeds = example_inputs(model, batch=2)
    check_law(analysis.model, analysis.channels, plan, feeds)
    small = shrink(analysis.model, analysis.channels, plan)
    target = path.with_name("small.onnx")
    save(small, target)
    back = load(target)
    np.testing.assert_array_equal(outputs(back, feeds), outputs(small, feeds))
    return back


@pytest.mark.parametrize("files", [1, 3])
def test_external_data_in_a_subfolder(files: int, tmp_path: Path) -> None:
    path = write(tmp_path, 300, files)
    go_through(path)
    names = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert names == {"m.onnx", "small.onnx", *(f"parts/{number}.bin" for number in range(files))}


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    path = write(tmp_path, 2**21 + 2**15, 1)
    back = go_through(path)
    assert weight_bytes(back) > INLINE_BYTES
    assert {each.name for each in tmp_path.iterdir()} == {"m.onnx", "parts", "small.onnx", "small.onnx.data"}
