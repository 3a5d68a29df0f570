"""Arrays and the user's own generators as calibration data: what is understood, and what is refused."""

import importlib
import io
import sys
import textwrap

import numpy as np
import pytest
from small_data import SMALL, flat, samples, spec, values

from calibrate import PRESETS, DataError, open_source

RAW, UNIT = PRESETS["raw"], PRESETS["unit"]


def store(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def test_arrays_by_input_name_are_taken_as_they_are(tmp_path):
    x, y = samples(5).astype(np.float64), np.arange(20).reshape(5, 4)
    inputs = [*SMALL, spec(None, 4, name="y", dtype=np.int32)]
    source = open_source(store(tmp_path, x=x, y=y, labels=np.arange(5)), inputs, RAW, samples=3)
    batch = source.batch([2, 0])
    np.testing.assert_array_equal(batch["x"], x[[2, 0]].astype(np.float32))
    np.testing.assert_array_equal(batch["y"], y[[2, 0]])
    assert batch["x"].dtype == np.float32 and batch["y"].dtype == np.int32
    assert len(source) == 3 and source.labels.tolist() == [0, 1, 2] and "the first 3 of 5" in source.description


def test_only_the_samples_that_are_used_are_checked():
    x = samples(4)
    x[3] = np.nan
    assert len(open_source(x, SMALL, samples=3)) == 3


def test_states_and_scalars_of_a_recurrent_model():
    inputs = [spec(None, None), spec(2, None, 4, name="h"), spec(name="sr", dtype=np.int64)]
    given = {"x": samples(3, shape=(16,)), "h": samples(2, shape=(3, 4)), "sr": np.array(16000)}
    batch = open_source(given, inputs).batch([2])
    np.testing.assert_array_equal(batch["h"], given["h"][:, 2:])
    assert batch["x"].shape == (1, 16) and batch["sr"] == 16000
    made = open_source(None, inputs, samples=4).batch([0, 3])
    assert made["x"].shape == (2, 512) and made["h"].shape == (2, 2, 4) and made["sr"] == 16000


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([2, 0, 1], np.uint8), [2, 0, 1]),
        (np.array([2.0, 0.5, 1.0]), None),
        (np.arange(12, dtype=np.int32).reshape(3, 4), None),
        (np.zeros((3, 8, 6), bool), None),
    ],
)
def test_labels_may_be_any_numbers_but_classes_are_one_integer_each(tmp_path, labels, classes):
    source = open_source(store(tmp_path, x=samples(3), labels=labels), SMALL, samples=2)
    np.testing.assert_array_equal(source.labels, labels[:2])
    assert source.labels.dtype == (np.int64 if classes else labels.dtype)
    assert (None if source.classes is None else source.classes.tolist()) == (classes and classes[:2])
    assert open_source({"x": samples(3)}, SMALL).classes is None


@pytest.mark.parametrize("name", ["images", "x"])
def test_pictures_in_8_bits_are_preprocessed(tmp_path, name):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), np.uint8)
    source = open_source(store(tmp_path, **{name: pictures}, labels=np.array([3, 1, 2, 0], np.uint8)), SMALL, UNIT)
    np.testing.assert_allclose(source.batch([1, 3])["x"], pictures[[1, 3]].transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert source.labels.tolist() == [3, 1, 2, 0] and source.labels.dtype == np.int64


def test_pictures_of_another_size_or_colour_are_fitted():
    grey = np.full((2, 16, 12), 7, np.uint8)
    np.testing.assert_array_equal(open_source(grey, SMALL, RAW).batch([1])["x"], np.full((1, 3, 8, 6), 7))
    colour = np.full((2, 16, 12, 3), 9, np.uint8)
    np.testing.assert_array_equal(
        open_source(colour, [spec(None, 1, 8, 6)], RAW).batch([0])["x"], np.full((1, 1, 8, 6), 9)
    )


def test_an_8_bit_model_takes_what_fits_as_it_is():
    ready = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6), np.uint8)
    bytes_model = [spec(None, 3, 8, 6, dtype=np.uint8)]
    np.testing.assert_array_equal(open_source(ready, bytes_model).batch([0, 1])["x"], ready)
    pictures = ready.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(open_source(pictures, bytes_model).batch([0, 1])["x"], ready)


def test_npy_file(tmp_path):
    x = samples(3)
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(open_source(tmp_path / "x.npy", SMALL).batch([0, 1, 2])["x"], x)


def jpegs(count):
    files = []
    for value in range(count):
        stream = io.BytesIO()
        flat(20 * value).save(stream, "JPEG", quality=95)
        files.append(stream.getvalue())
    ends = np.cumsum([0, *map(len, files)])
    return {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offsets": ends, "labels": np.arange(count)}


def test_jpeg_bytes_are_decoded(tmp_path):
    source = open_source(store(tmp_path, **jpegs(5)), SMALL, RAW, samples=4)
    assert values(source, [3, 1]) == [60, 20] and source.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": samples(2, shape=(3, 9, 6))}, "found float32 2×3×9×6, input x float32 N×3×8×6 is wanted"),
        ({"x": samples(2).astype(np.int32)}, "found int32 2×3×8×6, input x float32"),
        ({"x": samples(2).astype(np.uint8)[:, :2]}, "found uint8 2×2×8×6, read as N×H×W×C"),
        ({"x": samples(2)[0]}, "found float32 3×8×6"),
        ({"x": samples(0)}, "no samples"),
        ({"y": samples(2)}, "found y float32 2×3×8×6; the model wants x float32 N×3×8×6"),
        ({"x": np.where(np.arange(3)[:, None, None, None] == 2, np.nan, samples(3))}, "sample 2 of x holds NaN"),
        ({"x": np.where(np.arange(3)[:, None, None, None] == 1, np.inf, samples(3))}, "sample 1 of x holds NaN or inf"),
        ({"x": samples(3), "labels": np.arange(2)}, "labels are int64 2: give 3 entries, one per sample"),
        ({"x": samples(3), "labels": np.ones((2, 3))}, "labels are float64 2×3: give 3 entries"),
        ({"x": samples(3), "labels": np.array(1)}, "labels are int64 scalar: give 3 entries"),
        ({"x": samples(3), "labels": np.array(["a", "b", "c"])}, "labels are <U1 3: give 3 entries"),
        ({"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0, 10])}, "offsets do not rise"),
        ({"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0, 6, 4, 9])}, "offsets do not rise"),
        ({"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0])}, "no samples"),
        ({"jpeg": np.zeros(9), "offsets": np.array([0, 9])}, "found jpeg float64 9"),
        ({"images": np.array([None, "x"], object)}, "no readable .npz"),
        ({}, "found nothing"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        open_source(store(tmp_path, **arrays), SMALL, RAW)


def test_a_broken_jpeg_is_named_when_it_is_read(tmp_path):
    arrays = jpegs(3)
    damaged = arrays["jpeg"].copy()
    damaged[arrays["offsets"][1] : arrays["offsets"][2]] = 0
    source = open_source(store(tmp_path, **{**arrays, "jpeg": damaged}), SMALL, RAW)
    assert values(source, [0, 2]) == [0, 40]
    with pytest.raises(DataError, match=r"data\.npz: sample 1: no readable picture"):
        source.batch([1])


def test_the_head_of_a_file_that_is_sorted_by_class_is_noted():
    arrays = {"x": samples(40), "labels": np.repeat(np.arange(4), 10)}
    (note,) = open_source(arrays, SMALL, samples=10).notes
    assert "the first 10 samples hold 1 of 4 classes" in note
    assert not open_source(arrays, SMALL).notes
    mixed = {**arrays, "labels": arrays["labels"].reshape(4, 10).T.ravel()}
    assert not open_source(mixed, SMALL, samples=10).notes


def test_values_that_an_integer_input_cannot_hold():
    with pytest.raises(DataError, match=r"values 0…300 do not fit"):
        open_source({"ids": np.array([[0, 300]])}, [spec(None, 2, name="ids", dtype=np.uint8)])


def test_inputs_with_different_numbers_of_samples():
    with pytest.raises(DataError, match="different numbers of samples"):
        open_source({"x": samples(3), "y": samples(2, shape=(4,))}, [*SMALL, spec(None, 4, name="y")])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY broken", b"text"])
def test_files_that_are_no_arrays(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: no readable"):
        open_source(tmp_path / "data.npz", SMALL, RAW)


def test_labels_file_goes_with_folders_only(tmp_path):
    for data in (None, samples(2)):
        with pytest.raises(DataError, match="labels"):
            open_source(data, SMALL, RAW, labels_file=tmp_path / "labels.csv")


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(body):
        (tmp_path / "my_batches.py").write_text("import numpy as np\n" + textwrap.dedent(body))
        monkeypatch.delitem(sys.modules, "my_batches", raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        return "my_batches:make"

    yield write
    sys.modules.pop("my_batches", None)


def test_module_is_collected_up_to_samples(write_module):
    name = write_module(
        """
        asked = []
        def make():
            for i in range(100):
                asked.append(i)
                yield {"x": np.full((4, 3, 8, 6), i, np.float32), "labels": np.full(4, i)}
        """
    )
    before = list(sys.path)
    source = open_source(name, SMALL, samples=10)
    assert values(source) == [0] * 4 + [1] * 4 + [2] * 2 and source.labels.tolist() == values(source)
    assert sys.modules["my_batches"].asked == [0, 1, 2] and sys.path == before


def test_module_may_give_arrays_or_pictures(write_module):
    name = write_module(
        "def make():\n    return [np.full((2, 8, 6, 3), 5, np.uint8), np.full((1, 8, 6, 3), 6, np.uint8)]\n"
    )
    assert values(open_source(name, SMALL, RAW)) == [5, 5, 6]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def other(): pass", "AttributeError"),
        ("def make(): raise RuntimeError('no disk')", "my_batches:make: RuntimeError: no disk"),
        ("def make(): return 3", "returned int"),
        ("def make(): return []", "gave no batches"),
        ("def make(): return [np.zeros((1, 3, 8, 6)), {'y': 1}]", "batch 1 holds"),
        ("def make(): return [{'x': np.zeros((1, 3, 8, 6))}, {'x': np.zeros((1, 3, 9, 6))}]", "do not fit together"),
        ("def make(): return [np.full((1, 3, 8, 6), np.nan)]", "sample 0 of x holds NaN"),
        ("import nothing_like_this\ndef make(): pass", "ModuleNotFoundError"),
    ],
)
def test_bad_modules(write_module, body, message):
    with pytest.raises(DataError, match=message):
        open_source(write_module(body), SMALL)


def test_one_picture_is_not_taken_for_many_grey_ones():
    with pytest.raises(DataError, match="looks like one picture: give N×H×W×C"):
        open_source(np.zeros((8, 6, 3), np.uint8), SMALL, RAW)
