"""External data are read from plain files in the model's own folder, and from nowhere else."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_hostile import HEADER, refused

from graph.model import load

WEIGHTS = np.ones((4, 3, 1, 1), np.float32).tobytes()


def _symlink(outside: Path, inside: Path) -> None:
    (inside / "w.bin").symlink_to(outside / "w.bin")


def _hard_link(outside: Path, inside: Path) -> None:
    os.link(outside / "w.bin", inside / "w.bin")


def _linked_folder(outside: Path, inside: Path) -> None:
    (inside / "there").symlink_to(outside)


def _own_file(outside: Path, inside: Path) -> None:
    (inside / "w.bin").write_bytes(WEIGHTS)


def _sparse(outside: Path, inside: Path) -> None:
    with (inside / "w.bin").open("wb") as file:
        file.truncate(2**40)


def _pipe(outside: Path, inside: Path) -> None:
    os.mkfifo(inside / "w.bin")


Prepare = Callable[[Path, Path], None]
EXTERNAL: dict[str, tuple[dict[str, str], Prepare]] = {
    "a path out of the folder": ({"location": "../w.bin"}, _own_file),
    "the same, with backslashes": ({"location": "..\\w.bin"}, _own_file),
    "an absolute path": ({"location": "/etc/passwd"}, _own_file),
    "a device": ({"location": "/dev/zero"}, _own_file),
    "a symbolic link": ({"location": "w.bin"}, _symlink),
    "a hard link": ({"location": "w.bin"}, _hard_link),
    "a linked folder": ({"location": "there/w.bin"}, _linked_folder),
    "a named pipe, which never ends": ({"location": "w.bin"}, _pipe),
    "the folder itself": ({"location": "."}, _own_file),
    "no location": ({}, _own_file),
    "an empty location": ({"location": ""}, _own_file),
    "a location with a NUL": ({"location": "w.bin\0"}, _own_file),
    "no such file": ({"location": "none.bin"}, _own_file),
    "an offset behind the end": ({"location": "w.bin", "offset": str(2**62)}, _own_file),
    "an offset before the start": ({"location": "w.bin", "offset": "-4"}, _own_file),
    "an offset that is no number": ({"location": "w.bin", "offset": "four"}, _own_file),
    "a length that is no number": ({"location": "w.bin", "length": "four"}, _own_file),
    "more bytes than there are": ({"location": "w.bin", "length": str(2**50)}, _own_file),
    "fewer bytes than the shape needs": ({"location": "w.bin", "length": "3"}, _own_file),
    "a file of 1 TB that takes no room": ({"location": "w.bin"}, _sparse),
}


def external(entries: dict[str, str], path: Path, tensors: int = 1) -> None:
    nodes = " ".join(f"y{i} = Conv(x, w{i})" for i in range(tensors))
    proto = onnx.parser.parse_model(f"{HEADER} (float[1,3,8,8] x) => (float[1,4,8,8] y0) {{ {nodes} }}")
    for number in range(tensors):
        tensor = proto.graph.initializer.add(name=f"w{number}", data_type=1, dims=[4, 3, 1, 1], data_location=1)
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize(("entries", "prepare"), EXTERNAL.values(), ids=EXTERNAL)
def test_external_data_that_are_not_plain_files_in_the_folder_are_refused(
    entries: dict[str, str], prepare: Prepare, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
    (outside / "w.bin").write_bytes(WEIGHTS)
    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    prepare(outside, inside)
    external(entries, inside / "m.onnx")
    assert "m.onnx" in refused(inside / "m.onnx", capfd)


def test_plain_external_data_are_read(tmp_path: Path) -> None:
    """The counterpart: what is refused above is not refused for another reason."""
    _own_file(tmp_path, tmp_path)
    external({"location": "w.bin"}, tmp_path / "m.onnx", tensors=3)
    assert len(load(tmp_path / "m.onnx").graph.initializers) == 3


def test_tensors_that_read_one_large_file_again_and_again_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(2**22))
    external({"location": "w.bin"}, tmp_path / "m.onnx", tensors=10)
    assert "ask for 41,943,040 bytes" in refused(tmp_path / "m.onnx", capfd)
