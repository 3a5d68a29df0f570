"""Sources of calibration data: what they read, in which order, and what they refuse."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import SMALL, flat, samples, spec, values

import calibrate
from calibrate import PRESETS, DataError, Preprocess, open_source, split
from calibrate.source import KINDS

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real networks and images are not beside the checkout")
RAW, UNIT = PRESETS["raw"], PRESETS["unit"]


def fill(folder, names, size=(8, 6)):
    """Write one picture per name, its grey value the name's place."""
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        flat(value, *size).save(path)


# ---------------------------------------------------------------- folders


def test_folder_is_sorted_and_nested_and_ignores_the_rest(tmp_path):
    fill(tmp_path, ["a/2.png", "a/10.png", "b/deep/1.png", ".hidden/3.png", "a/.4.png"])
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    source = open_source(tmp_path, SMALL, RAW)
    assert values(source) == [1, 0, 2]  # a/10, a/2, b/deep/1
    assert source.labels.tolist() == [0, 0, 1] and not source.generated
    assert values(source, [2, 0, 2]) == [2, 1, 2]
    assert source.batch([0])["x"].shape == (1, 3, 8, 6) and source.batch([])["x"].shape == (0, 3, 8, 6)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["1.png", "2.png"], "no classes"),
        (["a/1.png", "a/2.png"], "one folder says nothing"),
        (["a/1.png", "2.png"], "mixed"),
    ],
)
def test_folder_without_classes_has_no_labels(tmp_path, names, reason):
    fill(tmp_path, names)
    assert open_source(tmp_path, SMALL, RAW).labels is None, reason


def test_folder_subset_is_seeded_and_in_order(tmp_path):
    fill(tmp_path, [f"{'ab'[i % 2]}/{i:02}.png" for i in range(20)])
    everything = open_source(tmp_path, SMALL, RAW)
    label_of = dict(zip(values(everything), everything.labels, strict=True))
    first, again, other = (open_source(tmp_path, SMALL, RAW, samples=8, seed=seed) for seed in (1, 1, 2))
    assert values(first) == values(again) != values(other)
    order = values(everything)
    assert values(first) == [value for value in order if value in set(values(first))]
    assert first.labels.tolist() == [label_of[value] for value in values(first)]
    assert "8 of 20 images" in first.description
    assert len(open_source(tmp_path, SMALL, RAW, samples=50)) == 20


def test_folder_follows_links_once(tmp_path):
    fill(tmp_path / "real", ["1.png"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    assert len(open_source(tmp_path / "data", SMALL, RAW)) == 1


@pytest.mark.parametrize("header", ["file,class_index,author\n", ""])
def test_labels_from_csv(tmp_path, header):
    fill(tmp_path / "images", ["one.png", "two.png", "three.png"])
    labels = tmp_path / "labels.csv"
    labels.write_text(header + 'two.png,7,"Somebody, else"\none.png,5,\nthree.png,6,\nelsewhere.png,9,\n')
    source = open_source(tmp_path / "images", SMALL, RAW, labels_file=labels)
    assert source.labels.tolist() == [5, 6, 7]  # one, three, two


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one.png,1\n", "no label for 1 of 2 pictures, the first is two.png"),
        ("one.png,1\ntwo.png,cat\n", "row 2 is 'two.png,cat'"),
        ("one.png,1\ntwo.png\n", "row 2"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    fill(tmp_path / "images", ["one.png", "two.png"])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "images", SMALL, RAW, labels_file=tmp_path / "labels.csv")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path / "images", SMALL, RAW, labels_file=tmp_path / "absent.csv")


def test_folder_errors_name_the_file(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no pictures \(\.bmp"):
        open_source(tmp_path / "empty", SMALL, RAW)
    fill(tmp_path / "bad", ["1.png"])
    (tmp_path / "bad" / "2.jpg").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"2\.jpg: no readable picture"):
        open_source(tmp_path / "bad", SMALL, RAW)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "bad" / "2.jpg")
    whole = (tmp_path / "bad" / "2.jpg").read_bytes()
    (tmp_path / "bad" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path / "bad", SMALL, RAW)  # the header is whole
    with pytest.raises(DataError, match=r"2\.jpg: no readable picture \(image file is truncated"):
        source.batch([1])


def test_folder_for_a_model_that_leaves_the_size_free(tmp_path):
    free = [spec(None, 3, None, None)]
    fill(tmp_path, ["1.png", "2.png"], size=(10, 12))
    assert open_source(tmp_path, free, RAW).batch([0, 1])["x"].shape == (2, 3, 10, 12)
    flat(0, 20, 30).save(tmp_path / "3.png")
    with pytest.raises(DataError, match=r"3\.png: sizes differ \(10×12 and 20×30\).*--resize"):
        open_source(tmp_path, free, RAW)
    sized = Preprocess(1.0, size=(16, 32))
    assert open_source(tmp_path, free, sized).batch([0, 1, 2])["x"].shape == (3, 3, 16, 32)


def test_pictures_need_a_model_with_one_input_that_takes_them(tmp_path):
    fill(tmp_path, ["1.png"])
    with pytest.raises(DataError, match=r"one input, the model has 2 \(x float32 N×3×8×6, y float32 N×4\)"):
        open_source(tmp_path, [*SMALL, spec(None, 4, name="y")], RAW)
    with pytest.raises(DataError, match="takes no pictures"):
        open_source(tmp_path, [spec(None, 4)], RAW)


# ---------------------------------------------------------------- generated


def test_generated_pictures_go_through_the_preprocessing():
    source = open_source(None, SMALL, UNIT, seed=3)
    assert len(source) == 384 and source.generated and source.labels is None
    batch = source.batch([0, 383, 0])["x"]
    assert batch.shape == (3, 3, 8, 6) and batch.dtype == np.float32 and batch.min() >= 0 and batch.max() <= 1
    np.testing.assert_array_equal(batch[0], batch[2])
    np.testing.assert_array_equal(batch[1], open_source(None, SMALL, UNIT, seed=3).batch([383])["x"][0])
    assert (batch[1] != open_source(None, SMALL, UNIT, seed=4).batch([383])["x"][0]).any()
    assert len(source.notes) == 1 and "real ones" in source.notes[0]


def test_without_preprocessing_pictures_are_standardised_and_it_is_said():
    source = open_source(None, SMALL, samples=64)
    batch = source.batch(np.arange(64))["x"]
    np.testing.assert_allclose(batch.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(batch.std((0, 2, 3)), 1, atol=1e-3)
    assert any("preprocessing of input x is not known" in note for note in source.notes)
    reversed_colours = open_source(None, SMALL, Preprocess(bgr=True), samples=64).batch(np.arange(64))["x"]
    np.testing.assert_allclose(reversed_colours, batch[:, ::-1], atol=1e-5)


def test_generated_layout_size_and_dtype_follow_the_model():
    assert open_source(None, [spec(1, 16, 12, 3, dtype=np.uint8)], samples=2).batch([1])["x"].shape == (1, 16, 12, 3)
    assert open_source(None, [spec(None, 1, None, 40)], UNIT, samples=1).batch([0])["x"].shape == (1, 1, 224, 40)
    settled = replace(spec(None, 3, None, None), sizes=(1, 3, 64, 96))
    assert open_source(None, [settled], UNIT, samples=1).batch([0])["x"].shape == (1, 3, 64, 96)
    features = open_source(None, [spec(None, 64, 7, 20)], samples=3).batch([0, 2])["x"]
    assert features.shape == (2, 64, 7, 20) and abs(features.mean()) < 0.1  # no pictures: noise
    ids = open_source(None, [spec(None, 7, dtype=np.int64, name="ids")], samples=2).batch([0, 1])["ids"]
    assert ids.shape == (2, 7) and not ids.any()
    assert open_source(None, [spec(None, 7, dtype=np.int64, name="attention_mask")]).batch([0])["attention_mask"].all()


# ---------------------------------------------------------------- the door, the parts


def test_what_is_no_source():
    with pytest.raises(DataError, match="no such file or folder: give"):
        open_source("absent/folder", SMALL)
    with pytest.raises(DataError, match="path is empty"):
        open_source("", SMALL)
    with pytest.raises(DataError, match="no such file"):
        open_source("a" * 5000, SMALL)
    with pytest.raises(DataError, match="0 samples were asked for"):
        open_source(None, SMALL, samples=0)
    with pytest.raises(DataError, match="no inputs"):
        open_source(None, [])
    with pytest.raises(IndexError, match="sample 384"):
        open_source(None, SMALL).batch([384])
    with pytest.raises(IndexError, match="sample -1"):
        open_source(None, SMALL).batch([-1])


def test_every_spec_has_one_kind_of_source(tmp_path):
    (tmp_path / "file").touch()
    for found in (tmp_path, tmp_path / "file", "module:function", samples(1), {"x": samples(1)}, None):
        assert sum(accepts(found) for accepts, _ in KINDS.values()) == 1, found


def test_memory_for_decoded_pictures_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("calibrate.images.CACHE_BYTES", 3 * 8 * 6 * 3)  # three pictures
    fill(tmp_path, [f"{i}.png" for i in range(6)])
    source = open_source(tmp_path, SMALL, RAW)
    assert values(source) == list(range(6))
    flat(99).save(tmp_path / "0.png")
    flat(99).save(tmp_path / "5.png")
    assert values(source, [5, 0]) == [5, 99]  # the last ones are kept, the first one is read again


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1000, [700, 200, 100]),
        (10, [7, 2, 1]),
        (3, [2, 1, 0]),
        (4, [2, 1, 1]),
        (2, [1, 1, 0]),
        (1, [1, 0, 0]),
        (0, [0, 0, 0]),
    ],
)
def test_split_deals_everything_out_once(count, sizes):
    parts = split(count, (0.7, 0.2, 0.1), seed=4)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts)) == list(range(count))
    for part, again in zip(parts, split(count, (0.7, 0.2, 0.1), seed=4), strict=True):
        np.testing.assert_array_equal(part, again)
        assert (np.diff(part) > 0).all()


def test_split_may_leave_samples_over_and_depends_on_the_seed():
    assert [len(part) for part in split(100, (0.5, 0.25))] == [50, 25]
    assert [len(part) for part in split(1, (0.4, 0.6))] == [1, 0]
    assert (split(100, (0.5,), seed=0)[0] != split(100, (0.5,), seed=1)[0]).any()
    with pytest.raises(ValueError, match="at most 1"):
        split(10, (0.9, 0.2))


# ---------------------------------------------------------------- real data


@needs_data
def test_real_cifar():
    inputs = [spec(None, 3, 32, 32, name="input")]
    source = open_source(DATA / "cifar10" / "calibration.npz", inputs, PRESETS["cifar10"], samples=1024)
    with np.load(DATA / "cifar10" / "calibration.npz") as stored:
        images, labels = stored["images"][:1024], stored["labels"][:1024]
    expected = ((images[-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    np.testing.assert_allclose(source.batch([1023])["input"][0], expected, atol=1e-5)
    np.testing.assert_array_equal(source.labels, labels)
    jpeg = open_source(DATA / "cifar10" / "test_jpeg.npz", inputs, PRESETS["cifar10"], samples=100)
    with np.load(DATA / "cifar10" / "test_jpeg.npz") as stored:
        start, end = stored["offsets"][7:9]
        decoded = np.asarray(Image.open(io.BytesIO(stored["jpeg"][start:end].tobytes())))
    expected = ((decoded / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    np.testing.assert_allclose(jpeg.batch([7])["input"][0], expected, atol=1e-5)
    assert any("hold 1 of 10 classes" in note for note in jpeg.notes)  # the file is sorted by class


@needs_data
def test_real_imagenet():
    inputs = [spec(None, 3, 224, 224, name="input")]
    folder, labels = DATA / "imagenet" / "test", DATA / "imagenet" / "test_labels.csv"
    source = open_source(folder, inputs, PRESETS["imagenet"], samples=5, labels_file=labels)
    assert source.batch([0, 4])["input"].shape == (2, 3, 224, 224) and source.labels.shape == (5,)
    assert source.labels.min() >= 0 and source.labels.max() < 1000


def test_importing_the_floor_does_not_import_torch():
    code = "import calibrate, sys; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(calibrate.__file__).parents[1], check=False).returncode
        == 0
    )
