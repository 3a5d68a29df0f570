"""The order of an epoch and the variants of its pictures: permutations, and draws that do not depend on who draws."""

import numpy as np
import pytest

from compress.errors import OptionError
from compress.training.batches import PRESETS, augmented, batches, order

INDICES = np.arange(100, 150)


def test_the_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    orders = [order(INDICES, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for each in orders:
        assert sorted(each) == INDICES.tolist()
    assert len({tuple(each) for each in orders}) == 6
    np.testing.assert_array_equal(order(INDICES, 1, 2), orders[-1])


@pytest.mark.parametrize(("size", "count"), [(8, 6), (10, 5), (50, 1), (64, 1), (49, 1)])
def test_batches_are_whole_and_each_sample_is_in_one_at_most(size: int, count: int) -> None:
    found = batches(INDICES, size, 3, 4)
    assert [len(each) for each in found] == [min(size, 50)] * count
    np.testing.assert_array_equal(np.concatenate(found), order(INDICES, 3, 4)[: count * min(size, 50)])


def pictures(count: int, *, layout: str = "NCHW", dtype: type = np.float32) -> np.ndarray:
    shape = (count, 3, 16, 24) if layout == "NCHW" else (count, 16, 24, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("presets", [("flip",), ("crop",), ("flip", "crop"), ("crop", "flip")])
def test_what_is_drawn_for_a_sample_does_not_depend_on_the_others(presets: tuple[str, ...]) -> None:
    """So processes that share a batch make of it what one would have made."""
    x = pictures(40)
    rows = np.random.default_rng(1).permutation(40)
    whole = augmented({"x": x[rows]}, presets, 5, 6, rows)["x"]
    for part in (slice(0, 7), slice(7, 40), slice(1, 40, 2)):
        found = augmented({"x": x[rows[part]]}, presets, 5, 6, rows[part])["x"]
        np.testing.assert_array_equal(found, whole[part])
    again = [augmented({"x": x[rows]}, presets, *drawn, rows)["x"] for drawn in ((5, 7), (6, 6))]
    assert all((each != whole).any() for each in again)
    np.testing.assert_array_equal(augmented({"x": x[rows]}, presets[::-1], 5, 6, rows)["x"], whole)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_each_picture_is_mirrored_and_moved_by_whole_pixels(layout: str, dtype: type) -> None:
    """Against np.pad and slices: every place within an eighth of the sides turns up, and nothing else does."""
    count = 120
    x = pictures(count, layout=layout, dtype=dtype)
    found = augmented({"x": x}, tuple(PRESETS), 0, 0, np.arange(count))["x"]
    assert found.dtype == dtype and found.shape == x.shape
    seen = []
    for before, after in zip(x, found, strict=True):
        images = [each.transpose(1, 2, 0) if layout == "NCHW" else each for each in (before, after)]
        places = [
            (turned, down, right)
            for turned in (False, True)
            for wide in [np.pad(images[0][:, :: -1 if turned else 1], ((2, 2), (3, 3), (0, 0)), "edge")]
            for down in range(5)
            for right in range(7)
            if (wide[down : down + 16, right : right + 24] == images[1]).all()
        ]
        assert len(places) == 1
        seen += places
    for drawn, least in zip(np.transpose(seen), (40, 12, 8), strict=True):  # of 60, 24, 17 that are to be expected
        assert np.unique(drawn, return_counts=True)[1].min() >= least
    assert {down for _, down, _ in seen} == set(range(5)) and {right for _, _, right in seen} == set(range(7))


def test_all_pictures_of_a_sample_move_alike_and_other_inputs_stay() -> None:
    x, flags = pictures(9), np.arange(9)
    found = augmented({"left": x, "right": x + 1, "flags": flags}, ("crop", "flip"), 0, 1, np.arange(9))
    np.testing.assert_array_equal(found["left"] + 1, found["right"])
    np.testing.assert_array_equal(found["flags"], flags)
    assert (found["left"] != x).any()


def test_nothing_is_varied_unless_it_is_asked_for() -> None:
    x = np.ones((2, 5), np.float32)
    assert augmented({"x": x}, (), 0, 0, np.arange(2))["x"] is x


@pytest.mark.parametrize(
    ("presets", "words"),
    [(("flip", "turn"), "'turn' is not known: .*flip, crop"), (("crop",), r"no input .*x \[2, 5\]")],
)
def test_what_cannot_be_varied_is_said(presets: tuple[str, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        augmented({"x": np.ones((2, 5), np.float32)}, presets, 0, 0, np.arange(2))
