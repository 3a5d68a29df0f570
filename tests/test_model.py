"""Files in and out: nothing of the user's is lost, nothing is half-written, bad files are one clear line."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import build

import graph.model
from graph.errors import ModelError, WriteError
from graph.inputs import example_inputs
from graph.model import clone, load, save
from graph.runtime import run, session

TEXT = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w> { y = Conv(x, w) }"""


@pytest.fixture
def model() -> ir.Model:
    """A model with something of everything that must survive."""
    made = build(TEXT)
    made.metadata_props["author"] = "somebody"
    made.doc_string, made.graph.doc_string, made.graph[0].doc_string = "model", "graph", "node"
    made.graph[0].name, made.producer_name, made.model_version = "the conv", "us", 7
    return made


def test_everything_survives_a_round_trip(model: ir.Model, tmp_path: Path) -> None:
    save(model, tmp_path / "m.onnx")
    back = load(tmp_path / "m.onnx")
    assert ir.to_proto(back).SerializeToString(deterministic=True) == ir.to_proto(model).SerializeToString(
        deterministic=True
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_functions_survive(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
    agraph (float[N] x) => (float[N] y) { y = mine.twice(x) }
    <domain: "mine", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    save(load(tmp_path / "m.onnx"), tmp_path / "n.onnx")
    assert [function.name for function in onnx.load(tmp_path / "n.onnx").functions] == ["twice"]


def test_a_clone_shares_nothing_that_is_edited(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    copy = clone(model)
    copy.graph[0].attributes["group"] = ir.AttrInt64("group", 3)
    copy.metadata_props["author"] = "else"
    copy.graph.initializers["w"].const_value = ir.tensor(np.zeros(3, np.float32))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is no protobuf at all, surely", "is not an ONNX file, or is truncated or damaged"),
        (None, "does not exist"),
        ("folder", "is a directory"),
        ("truncated", "truncated or damaged|not a valid ONNX model"),
        ("invalid", r"is not a valid ONNX model: .*Conv"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no ONNX graph"),
    ],
)
def test_bad_files(content: bytes | str | None, message: str, model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content == "folder":
        path.mkdir()
    elif content == "truncated":
        save(model, path)
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "invalid":
        model.graph[0].attributes["surprise"] = ir.AttrInt64("surprise", 1)
        save(model, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_truncation_and_many_flips_are_errors_or_models(model: ir.Model, tmp_path: Path) -> None:
    """No traceback of another kind, whatever the damage."""
    save(model, tmp_path / "m.onnx")
    whole, rng = (tmp_path / "m.onnx").read_bytes(), np.random.default_rng(0)
    damaged = [whole[:end] for end in range(1, len(whole), 7)]
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        (tmp_path / "d.onnx").write_bytes(content)
        try:
            load(tmp_path / "d.onnx")
        except ModelError as error:
            assert "\n" not in str(error)


def test_external_data_is_read_and_becomes_our_own(model: ir.Model, tmp_path: Path) -> None:
    ir.save(model, tmp_path / "m.onnx", external_data="theirs.bin", size_threshold_bytes=0)
    back = load(tmp_path / "m.onnx")
    (tmp_path / "theirs.bin").unlink()
    save(back, tmp_path / "n.onnx")
    feeds = example_inputs(model)
    np.testing.assert_array_equal(run(session(tmp_path / "n.onnx"), feeds), run(session(model), feeds))


def test_external_data_outside_the_folder_is_refused(model: ir.Model, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    ir.save(model, inner / "m.onnx", external_data="w.bin", size_threshold_bytes=0)
    proto = onnx.load(inner / "m.onnx", load_external_data=False)
    (inner / "w.bin").rename(tmp_path / "w.bin")
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../w.bin"
    (inner / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read"):
        load(inner / "m.onnx")


def test_large_models_get_one_sibling_file(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph.model, "INLINE_BYTES", 10)
    model.graph.initializers["w"].const_value = ir.tensor(np.ones((4, 300, 1, 1), np.float32))
    save(model, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0]), np.ones((4, 300, 1, 1))
    )


def test_an_existing_sibling_file_is_not_overwritten(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph.model, "INLINE_BYTES", 10)
    (tmp_path / "m.onnx.data").write_bytes(b"precious")
    with pytest.raises(WriteError, match=r"m.onnx.data exists already"):
        save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").read_bytes() == b"precious"


def test_existing_files_are_not_overwritten_unless_told(model: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"precious")
    with pytest.raises(WriteError, match="exists already"):
        save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"precious"
    save(model, tmp_path / "m.onnx", overwrite=True)
    load(tmp_path / "m.onnx")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, MemoryError])
def test_nothing_is_left_behind_when_writing_fails(
    failure: type[BaseException], model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: ir.Model, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(ir, "save", fail)
    with pytest.raises((failure, WriteError)):
        save(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        save(model, tmp_path / "nowhere" / "m.onnx")
