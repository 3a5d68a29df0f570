"""Checkpoints: what is written is read, the same bytes each time, and what is damaged or other is one sentence."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress.errors import OptionError
from compress.training.checkpoint import load, save

ARRAYS = {
    "weights/w": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "weights/ä b": np.array(0.5, np.float64),
    "momentum/w": np.zeros((3, 0, 2), np.float32),
    "keep/group": np.array([True, False, True]),
}
COURSE = {"epochs": [{"loss": 0.1, "widths": {"a": 3}}, {"loss": float("inf")}], "note": "ü", "none": None}


def written(path: Path) -> Path:
    save(path, ARRAYS, COURSE)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays, course = load(written(tmp_path / "run.safetensors"))
    assert course == COURSE and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_the_same_state_gives_the_same_bytes_and_replaces_the_file(tmp_path: Path) -> None:
    first, second = written(tmp_path / "one"), tmp_path / "two"
    save(second, {}, "another")
    save(second, dict(reversed(ARRAYS.items())), COURSE)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "run.safetensors")
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(content), 60).tolist(), len(content) - 1]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :])
        try:
            arrays, course = load(path)
        except OptionError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # a blank of the header, say
            assert course == COURSE and arrays.keys() == ARRAYS.keys()
            assert all((arrays[name] == ARRAYS[name]).all() for name in ARRAYS)
    for length in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(OptionError, match="is not a checkpoint of compress train, or is damaged"):
            load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OptionError, match="there is no checkpoint"):
        load(path)
    save_file({"weights/w": np.ones(3)}, path)
    with pytest.raises(OptionError, match="is not a checkpoint of compress train"):
        load(path)
    save_file({}, path, {"compress train": '{"version": 2, "crc32": 0, "course": null}'})
    with pytest.raises(OptionError, match="a checkpoint of version 2, this program reads 1"):
        load(path)
    with pytest.raises(OptionError, match="cannot be written"):
        save(tmp_path / "missing" / "file", ARRAYS, COURSE)
