"""Generated pictures: the same for the same seed, different otherwise, and natural in their second-order statistics."""

import itertools

import numpy as np
import pytest

from calibrate.generate import fractal, picture


def pictures(count, size=32, channels=3, seed=0):
    return np.stack([picture(size, size, channels, seed, index) for index in range(count)])


def power_slope(images):
    """Return the slope of log power over log frequency of N×H×W images, from all frequencies below Nyquist."""
    size = images.shape[1]
    values = images - images.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(values)) ** 2).mean(0)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    edges = np.geomspace(1.5 / size, 0.45, 8)
    rings = [(f >= low) & (f < high) for low, high in itertools.pairwise(edges)]
    centres = np.sqrt(edges[1:] * edges[:-1])
    return np.polyfit(np.log(centres), np.log([power[ring].mean() for ring in rings]), 1)[0]


def test_a_picture_depends_on_seed_and_index_alone():
    first = picture(24, 40, 3, 7, 5)
    pictures(3)  # whatever was drawn in between
    np.testing.assert_array_equal(first, picture(24, 40, 3, 7, 5))
    assert (first != picture(24, 40, 3, 8, 5)).mean() > 0.5
    assert (first != picture(24, 40, 3, 7, 6)).mean() > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (32, 500)])
@pytest.mark.parametrize("channels", [1, 2, 3, 12])
def test_any_size_and_any_number_of_channels(shape, channels):
    image = picture(*shape, channels, 0, 0)
    assert image.shape == (*shape, channels) and image.dtype == np.uint8


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_fractal_noise_has_the_slope_it_was_asked_for(exponent):
    rng = np.random.default_rng(0)
    noise = np.stack([fractal(rng, 64, 64, 1, exponent)[..., 0] for _ in range(40)])
    assert power_slope(noise) == pytest.approx(-2 * exponent, abs=0.15)
    np.testing.assert_allclose(noise.std((1, 2)), 1, rtol=1e-4)


@pytest.mark.parametrize(("size", "count"), [(32, 200), (96, 60)])
def test_the_power_spectrum_falls_as_that_of_photographs(size, count):
    # Photographs have 1/f² to 1/f³ (cut out, the frame adds to it); white noise has 0.
    assert -3.1 < power_slope(pictures(count, size).mean(-1)) < -2.2


def test_colours_vary_mostly_along_grey():
    values = pictures(200).reshape(-1, 3).astype(float)
    variances, axes = np.linalg.eigh(np.cov(values.T))
    assert variances[-1] / variances.sum() == pytest.approx(0.91, abs=0.04)  # photographs: 0.90 to 0.91
    assert np.abs(axes[:, -1] @ np.ones(3)) / np.sqrt(3) > 0.99


def test_brightness_and_contrast_differ_from_picture_to_picture():
    grey = pictures(200).mean(-1) / 255
    assert np.ptp(np.quantile(grey.mean((1, 2)), [0.05, 0.95])) > 0.3
    low, high = np.quantile(grey.std((1, 2)), [0.05, 0.95])
    assert low < 0.13 and high > 0.24


def test_neighbours_differ_rarely_but_then_by_much():
    """Edges: the kurtosis of differences is that of photographs (about 10 at 32 × 32), not that of noise (3)."""
    steps = np.diff(pictures(200).mean(-1), axis=2)
    assert (steps**4).mean() / (steps**2).mean() ** 2 > 7
