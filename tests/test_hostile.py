"""Files from strangers: whatever is in them, they are read, or refused in one sentence within time and memory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import helper
from small_graphs import build

import compress.api  # noqa: F401 - what is held is measured: torch must be there before
from compress.cli import main
from graph import guard
from graph.errors import ModelError
from graph.model import load

HEADER = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> agraph'


def refused(path: Path, capfd: pytest.CaptureFixture[str], command: str = "inspect") -> str:
    """Return the one line that the command line says about a file that it must refuse."""
    options = {"compare": [str(path), "--samples", "2"], "prune": ["--target-flops", "0.5", "--samples", "8"]}
    assert main([command, str(path), *options.get(command, [])]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("compress: ") and err.endswith("\n") and err.count("\n") == 1
    assert err[:-1].isprintable() and len(err) < 2000
    return err


def written(text: str, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEADER} {text}"), path)
    return path


def doubled(times: int, first: str, last: str) -> str:
    """Return nodes that join a value with itself, again and again."""
    middle = [f"t{i} = Concat<axis=0>(t{i - 1}, t{i - 1})" for i in range(1, times + 1)]
    return "\n".join((first, *middle, last.format(f"t{times}")))


# --- a small file that asks for a lot -----------------------------------------------------------------------------

GREEDY = {
    "ConstantOfShape": """(float[1] x) => (float[N,M] y) <int64[2] s = {1000000,1000000}> {
        b = ConstantOfShape(s) y = Add(b, x) }""",
    "Expand": "(float[1] x) => (float[N] y) <int64[1] s = {1000000000000}> { b = Expand(x, s) y = Relu(b) }",
    "Expand by a computed size": """(float[1] x, int64[1] n) => (float[N] y) <int64[1] k = {1000000000000}> {
        s = Add(n, k) b = Expand(x, s) y = Relu(b) }""",
    "Tile": "(float[1,3] x) => (float[A,B] y) <int64[2] s = {1000000,1000000}> { y = Tile(x, s) }",
    "Range": """(float[1] x) => (int64[N] y) <int64 a = {0}, int64 b = {1000000000000}, int64 c = {1}> {
        y = Range(a, b, c) }""",
    "Resize": "(float[1,3,8,8] x) => (float[A,B,C,D] y) <float[4] s = {1,1,100000,100000}> { y = Resize(x, , s) }",
    "Pad": "(float[1,1,8,8] x) => (float[A,B,C,D] y) <int64[8] s = {0,0,1000000,1000000,0,0,9,9}> { y = Pad(x, s) }",
    "strides of ConvTranspose": """(float[1,1,8,8] x) => (float[A,B,C,D] y) <float[1,1,1,1] w = {1}> {
        y = ConvTranspose<strides=[100000,100000]>(x, w) }""",
    "pads of Conv": """(float[1,1,8,8] x) => (float[A,B,C,D] y) <float[1,1,1,1] w = {1}> {
        y = Conv<pads=[100000,100000,100000,100000]>(x, w) }""",
    "an outer product": """(float[1] x) => (float[N,M] y) <int64[2] s = {200000,1}, int64[2] r = {1,200000}> {
        e = Expand(x, s) f = Expand(x, r) y = Add(e, f) }""",
    "many moderate values": f"""(float[1] x) => (float[N,M] y) <int64[2] s = {{6000,6000}}> {{
        {" ".join(f"b{i} = ConstantOfShape(s)" for i in range(200))} y = Add(b0, b1) }}""",
    "a constant that doubles": f"""(float[1] x) => (float[N] y) <float[1] t0 = {{1}}> {{
        {doubled(40, "", "r = ReduceSum({}) y = Add(x, r)")} }}""",
    "an input": "(float[1000000,1000000] x) => (float[N,M] y) { y = Relu(x) }",
    "a loop that grows": """(float[1] x) => (float[N] y) <int64 n = {100}, bool c = {1}> {
        y = Loop(n, c, x) <body = b (int64 i, bool d, float[M] v) => (bool e, float[K] w) {
            e = Identity(d) w = Concat<axis=0>(v, v) }> }""",
}


@pytest.mark.parametrize("command", ["inspect", "bench", "compare", "prune"])
@pytest.mark.parametrize("text", GREEDY.values(), ids=GREEDY)
def test_a_small_file_that_asks_for_a_lot_is_refused(
    text: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 2**28)
    monkeypatch.setattr(guard, "_INTERVAL_S", 60.0)  # the last resort ends the process, which here is the tests'
    before = guard.resident_bytes()
    assert "m.onnx" in (said := refused(written(text, tmp_path), capfd, command)) or "bytes" in said
    assert guard.resident_bytes() < before + 2**29


def test_a_loop_without_end_is_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LONGEST_RUN_S", 0.3)
    path = written(
        """(float[1] x) => (float[1] y) <int64 n = {4611686018427387904}, bool c = {1}> {
        y = Loop(n, c, x) <body = b (int64 i, bool d, float[1] v) => (bool e, float[1] w) {
            e = Identity(d) w = Add(v, v) }> }""",
        tmp_path,
    )
    assert "it was stopped after 0 s at Loop" in refused(path, capfd)


# what keeps ONNX Runtime busy before it runs anything: it works out the numbers in shapes, and these double
BUSY = f"""(float[1] x) => (float[N] y) <int64[1] t0 = {{1}}> {{ {doubled(30, "", "y = Expand(x, {})")} }}"""


def outside(path: Path, limits: str = "") -> str:
    """Return what a process of its own says about a file that it must refuse."""
    program = f"import sys\nfrom compress.cli import main\nfrom graph import guard\n{limits}\nsys.exit(main())"
    command = [sys.executable, "-c", program, "inspect", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("compress: ") and ended.stderr.count("\n") == 1
    return ended.stderr


@pytest.mark.parametrize(("limit", "value"), [("LONGEST_ANALYSIS_S", 0.5), ("MOST_BYTES", 2**27)])
def test_the_guard_ends_the_process_where_nothing_else_can(limit: str, value: float, tmp_path: Path) -> None:
    assert "to analyse; it may be damaged" in outside(written(BUSY, tmp_path), f"guard.{limit} = {value}")


@pytest.mark.parametrize(
    "node",
    [
        "AveragePool<kernel_shape=[2147483647,2147483647],pads=[2147483646,2147483646,2147483646,2147483646]>",
        'MaxPool<kernel_shape=[1,1],auto_pad="MARK">',
    ],
)
def test_no_library_adds_a_line(node: str, tmp_path: Path) -> None:
    """ONNX Runtime's logger of last resort writes to stderr, and so does onnx-ir's about a text that is none."""
    path = written(f"(float[1,1,8,8] x) => (float[A,B,C,D] y) {{ y = {node}(x) }}", tmp_path)
    path.write_bytes(path.read_bytes().replace(b"MARK", b"\xff\xfe\xfd\xfc"))
    outside(path)


# --- depth --------------------------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that has a length."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def nested(depth: int) -> bytes:
    """Return a model of If in If in If …, written by hand: protobuf itself writes only a hundred levels."""
    condition = helper.make_tensor_value_info("c", 9, [])
    leaf = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["y"])], "g", [], [helper.make_tensor_value_info("y", 9, [])]
    )
    other = field(5, field(1, b"else_branch") + field(6, leaf.SerializeToString()) + b"\xa0\x01\x05")
    content = leaf.SerializeToString()
    output = field(12, helper.make_tensor_value_info("y", 9, []).SerializeToString())
    for level in range(depth):
        branch = field(5, field(1, b"then_branch") + field(6, content) + b"\xa0\x01\x05")
        content = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + branch + other) + field(2, b"g") + output
        if level == depth - 1:
            content += field(11, condition.SerializeToString())
    return b"\x08\x08" + field(7, content) + field(8, b"\x10\x11")


@pytest.mark.parametrize("depth", [100, 2000])
def test_deep_nesting_is_refused(depth: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(nested(depth))
    assert "is not an ONNX file, or is truncated or damaged" in refused(tmp_path / "m.onnx", capfd)


def test_some_nesting_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(nested(5))
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0


def test_functions_that_unfold_without_end_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls = "".join(
        f'<domain: "mine", opset_import: ["" : 17, "mine" : 1]> f{i} (a) => (b) '
        f"{{ t = mine.f{i + 1}(a) b = mine.f{i + 1}(t) }}"
        for i in range(40)
    )
    last = '<domain: "mine", opset_import: ["" : 17]> f40 (a) => (b) { b = Relu(a) }'
    path = written(f"(float[1] x) => (float[1] y) {{ y = mine.f0(x) }} {calls} {last}", tmp_path)
    assert "its functions unfold into 1,099,511,627,776 nodes" in refused(path, capfd)


# --- structure ----------------------------------------------------------------------------------------------------


def _dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _set(path: str, value: object) -> Callable[[onnx.ModelProto], None]:
    *owners, name = path.split(".")

    def change(model: onnx.ModelProto) -> None:
        owner = model
        for each in owners:
            owner = owner[int(each)] if each.isdecimal() else getattr(owner, each)
        setattr(owner, name, value)

    return change


def _twice(path: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        values = getattr(model.graph, path)
        values.add().CopyFrom(values[0])

    return change


def _attribute(**value: object) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.node[0].attribute.add(**value) and None


def _sparse_weight(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[10**12])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([5]), "i"))
    model.graph.node[0].input[1] = "s"


def _numbers(count: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].ClearField("raw_data")
        model.graph.initializer[0].float_data.extend([1.0] * count)

    return change


def _constant(kind: ir.DataType, content: bytes) -> onnx.ModelProto:
    tensor = onnx.TensorProto(data_type=kind, raw_data=content)
    proto: onnx.ModelProto = ir.to_proto(build("(float[1,3] x) => (float[1,3] y) { c = Identity(x) y = Add(x, c) }"))
    proto.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["c"], value=tensor))
    return proto


def _bfloat16(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = onnx.TensorProto.BFLOAT16


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Add", ["x", "b"], ["a"]))
    model.graph.node.insert(1, helper.make_node("Relu", ["a"], ["b"]))


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


BROKEN: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a weight of 40 PB": _dims(10**6, 10**6, 100, 100),
    "sizes that overflow": _dims(2**62, 4, 1, 1),
    "sizes that overflow to zero": _dims(2**32, 2**32, 1, 1),
    "negative sizes": _dims(-4, -3, 1, 1),
    "a kernel with one axis": _dims(12),
    "100,000 axes": _dims(*[1] * 100_000),
    "too few bytes": _set("graph.initializer.0.raw_data", b"123"),
    "no bytes": _set("graph.initializer.0.raw_data", b""),
    "too many bytes": _set("graph.initializer.0.raw_data", bytes(1000)),
    "too few numbers": _numbers(11),
    "too many numbers": _numbers(13),
    "too many bytes, of a type that is widened": _bfloat16,
    "no such type": _set("graph.initializer.0.data_type", 99),
    "an undefined type": _set("graph.initializer.0.data_type", 0),
    "another type": _set("graph.initializer.0.data_type", 22),
    "a weight without a name": _set("graph.initializer.0.name", ""),
    "a weight given twice": _twice("initializer"),
    "a sparse weight": _sparse_weight,
    "an input given twice": _twice("input"),
    "a value made twice": _twice("node"),
    "a cycle": _cycle,
    "a reference to nothing": _dangling,
    "an input of huge size": _set("graph.input.0.type.tensor_type.shape.dim.2.dim_value", 2**62),
    "no IR version": _set("ir_version", 0),
    "an IR version of the future": _set("ir_version", 9999),
    "an opset of the future": _set("opset_import.0.version", 9999),
    "a negative opset": _set("opset_import.0.version", -5),
    "an unknown operator with control characters": _set("graph.node.0.op_type", "Conv\x1b[31m\nConv"),
    "a name of five million letters": _set("graph.node.0.op_type", "C" * 5_000_000),
    "a group of 0": _attribute(name="group", type=2, i=0),
    "a group of 2^62": _attribute(name="group", type=2, i=2**62),
    "a group that is a float": _attribute(name="group", type=1, f=2.0),
    "a group that refers to a parameter": _attribute(name="group", type=2, ref_attr_name="n"),
    "a stride of 0": _attribute(name="strides", type=7, ints=[0, 0]),
    "pads of 2^62": _attribute(name="pads", type=7, ints=[2**62] * 4),
    "a kernel of 2^62": _attribute(name="kernel_shape", type=7, ints=[2**62, 2**62]),
    "a text that is none": _attribute(name="auto_pad", type=3, s=b"\xff\xfe"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_structure_is_refused(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = ir.to_proto(build("(float[1,3,8,8] x) => (float[N,M,H,W] y) <float[4,3,1,1] w> { y = Conv(x, w) }"))
    change(proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    refused(tmp_path / "m.onnx", capfd)


@pytest.mark.parametrize("kind", [kind for kind in ir.DataType if kind.is_floating_point() or kind.is_integer()])
def test_a_constant_of_the_wrong_size_is_refused(kind: ir.DataType, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_constant(kind, bytes(17)).SerializeToString())
    with pytest.raises(ModelError, match=r"not a valid ONNX model: tensor .* holds 17 bytes and not"):
        load(tmp_path / "m.onnx")


def test_a_text_that_is_none_is_refused_wherever_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto = ir.to_proto(build("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }"))
    proto.graph.node[0].doc_string = "MARK"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc"))
    assert "a doc_string in NodeProto is no text in UTF-8" in refused(tmp_path / "m.onnx", capfd)


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    """ONNX Runtime asks for no order, and its own converter to half precision leaves none."""
    proto = onnx.parser.parse_model(f"{HEADER} (float[1,3] x) => (float[1,3] y) {{ y = Relu(a) a = Sigmoid(x) }}")
    onnx.save(proto, tmp_path / "m.onnx")
    assert [node.op_type for node in load(tmp_path / "m.onnx").graph] == ["Sigmoid", "Relu"]


@pytest.mark.parametrize("content", [b"", b"\0" * 9999, b"hello " * 99, os.urandom(9999), b"\x08" + b"\xff" * 40])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", capfd)
