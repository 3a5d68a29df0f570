"""Preprocessing: the numbers by name, what the user types, and the way of a picture into an input."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_data import spec

from calibrate.errors import DataError
from calibrate.images import fit_image, image_input, normalise
from calibrate.preprocess import PRESETS, Preprocess, preprocess_from_options


def ready(pictures, preprocess, wanted):
    return normalise(pictures, image_input(wanted, preprocess), preprocess)


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [  # the value of a black and of a white pixel, channel by channel, worked out by hand
        ("imagenet", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.6400)),
        ("cifar10", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.6400)),
        ("tf", (-1, -1, -1), (1, 1, 1)),
        ("unit", (0, 0, 0), (1, 1, 1)),
        ("raw", (0, 0, 0), (255, 255, 255)),
        ("caffe", (-104, -117, -123), (151, 138, 132)),
    ],
)
def test_presets(name, black, white):
    pictures = np.zeros((2, 6, 5, 3), np.uint8)
    pictures[1] = 255
    values = ready(pictures, PRESETS[name], spec(None, 3, 6, 5))
    np.testing.assert_allclose(values[0, :, 2, 3], black, atol=1e-4)
    np.testing.assert_allclose(values[1, :, 2, 3], white, atol=1e-4)


def test_layouts_hold_the_same_values():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)
    first = ready(pictures, PRESETS["imagenet"], spec(None, 3, 6, 5))
    last = ready(pictures, PRESETS["imagenet"], spec(None, 6, 5, 3))
    assert first.shape == (3, 3, 6, 5) and last.shape == (3, 6, 5, 3)
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))


def test_bgr_reverses_the_colours_before_the_mean():
    pictures = np.broadcast_to(np.array([10, 20, 30], np.uint8), (1, 2, 2, 3))
    values = ready(pictures, Preprocess(1.0, (1.0, 2.0, 3.0), bgr=True), spec(None, 3, 2, 2))
    np.testing.assert_array_equal(values[0, :, 0, 0], [29, 18, 7])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8])
def test_dtype_is_the_models(dtype):
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = ready(pictures, PRESETS["raw"], spec(None, 1, 16, 16, dtype=dtype))
    assert values.dtype == dtype
    limit = 127 if dtype == np.int8 else 255
    np.testing.assert_array_equal(values.ravel(), np.minimum(np.arange(256), limit))


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "size"),
    [
        ((None, 3, 32, 48), "NCHW", 3, (32, 48)),
        ((1, 32, 48, 3), "NHWC", 3, (32, 48)),
        ((None, 1, 28, 28), "NCHW", 1, (28, 28)),
        ((None, 28, 28, 1), "NHWC", 1, (28, 28)),
        ((None, 3, None, None), "NCHW", 3, (None, None)),
        ((None, None, None, 3), "NHWC", 3, (None, None)),
        ((None, None, None, None), "NCHW", 3, (None, None)),
        ((None, 3, 224, 3), "NCHW", 3, (224, 3)),
        ((None, 64, 7, 7), "NCHW", 64, (7, 7)),
    ],
)
def test_layout_is_inferred(shape, layout, channels, size):
    target = image_input(spec(*shape), Preprocess())
    assert (target.layout, target.channels, (target.height, target.width)) == (layout, channels, size)


def test_a_layout_that_is_given_wins():
    assert image_input(spec(None, 3, 224, 3), Preprocess(layout="NHWC")).width == 224


def picture(height, width, mode="RGB"):
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).convert(mode)


def test_a_picture_of_the_right_size_is_left_alone():
    image = picture(32, 32)
    for fit in ("crop", "stretch"):
        preprocess = replace(PRESETS["imagenet"], fit=fit)
        fitted = fit_image(image, image_input(spec(None, 3, 32, 32), preprocess), preprocess, "here")
        np.testing.assert_array_equal(fitted, np.asarray(image))


def test_stretch_shows_the_whole_ramp_and_crop_its_middle():
    image = picture(256, 512)
    target = image_input(spec(None, 3, 224, 224), Preprocess())
    whole = fit_image(image, target, Preprocess(fit="stretch"), "here")[100, :, 0]
    middle = fit_image(image, target, Preprocess(fit="crop"), "here")[100, :, 0]
    assert whole[0] < 3 and whole[-1] > 252
    # 256 × 512 already has a shorter side of 256, so the crop is columns 144…367 of it, untouched
    np.testing.assert_array_equal(middle, np.asarray(image)[100, 144:368, 0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_converted(mode, channels):
    target = image_input(spec(None, channels, 8, 8), Preprocess())
    assert fit_image(picture(8, 8, mode), target, Preprocess(), "here").shape == (8, 8, channels)


def test_sixteen_bits_are_declined():
    deep = Image.fromarray(np.full((8, 8), 40000, np.uint16))
    with pytest.raises(DataError, match=r"deep\.png: pixels of more than 8 bits"):
        fit_image(deep, image_input(spec(None, 1, 8, 8), Preprocess()), Preprocess(), "deep.png")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"preset": "tf"}, PRESETS["tf"]),
        ({"preset": "unit", "mean": "0.5", "std": "0.25,0.5,1"}, Preprocess(1 / 255, (0.5,), (0.25, 0.5, 1.0))),
        ({"scale": "1/255"}, PRESETS["unit"]),
        ({"preset": "imagenet", "resize": "320"}, replace(PRESETS["imagenet"], size=(320, 320))),
        ({"preset": "raw", "resize": "480x640", "layout": "nhwc"}, Preprocess(1.0, size=(480, 640), layout="NHWC")),
        ({"preset": "raw", "bgr": True}, Preprocess(1.0, bgr=True)),
        ({"preset": "caffe"}, PRESETS["caffe"]),  # stays BGR without the flag
        ({"resize": "64"}, Preprocess(size=(64, 64))),  # the range stays unknown
    ],
)
def test_options(options, expected):
    assert preprocess_from_options(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "imgnet"}, "'imgnet' is not known: give one of imagenet, cifar10"),
        ({"mean": "0.5"}, "--mean and --std need the range"),
        ({"preset": "unit", "mean": "a,b"}, "--mean 'a,b'"),
        ({"preset": "unit", "mean": ""}, "--mean ''"),
        ({"preset": "unit", "std": "0"}, "above 0"),
        ({"preset": "unit", "std": "nan"}, "finite"),
        ({"scale": "1/0"}, "--scale '1/0'"),
        ({"scale": "1,2"}, "give one number"),
        ({"scale": "0"}, "scale 0"),
        ({"resize": "0"}, "0×0"),
        ({"resize": "big"}, "--resize 'big'"),
        ({"layout": "CHW"}, "--layout 'CHW'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        preprocess_from_options(**options)


@pytest.mark.parametrize(
    ("shape", "preprocess", "message"),
    [
        ((None, 10), Preprocess(), r"input x N×10 takes no pictures"),
        ((None, 1, 28, 28), PRESETS["imagenet"], r"3 numbers for mean, but input x N×1×28×28 has 1 channel"),
        ((None, 3, 32, 32), Preprocess(size=(64, 32)), "64 pixels high were asked for, but input x wants 32"),
    ],
)
def test_inputs_that_do_not_fit(shape, preprocess, message):
    with pytest.raises(DataError, match=message):
        image_input(spec(*shape), preprocess)
