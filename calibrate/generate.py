"""Pictures made from nothing whose second-order statistics are those of natural ones.

Dead leaves (Matheron 1968; Lee, Mumford and Huang, IJCV 2001): discs, bars and boxes of power-law sizes, each hiding
what lies behind it, which gives edges, flat parts and a power spectrum near 1/f². Every leaf has its own colour,
gradient and share of 1/f texture. Brightness, contrast, tint and sharpness vary from picture to picture, and a part
of the pictures is 1/f noise alone.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """The laws that pictures are drawn from; a pair is the range of a number drawn anew for each picture.

    Lengths are parts of the shorter side, pixel values lie in 0…1.
    """

    fractal_share: float = 0.1  # pictures without leaves
    coverage: float = 4.0  # area of all leaves together, relative to the picture's
    smallest: tuple[float, float] = (0.02, 0.2)  # radius of a leaf, and at least `finest` pixels
    finest: float = 1.2
    largest: float = 0.8
    size_exponent: float = 3.0  # p(r) ∝ r⁻³ is the same at every scale
    roughness: tuple[float, float] = (1.0, 1.8)  # texture has amplitude 1/f^roughness
    texture: tuple[float, float] = (0.0, 0.5)  # of a leaf, relative to the spread of the leaves' colours
    upright: float = 0.3  # share of leaves along the axes: walls, trees, horizons
    gradient: float = 0.4  # of a leaf, the same
    softness: tuple[float, float] = (0.7, 2.5)  # width of the edges in pixels
    brightness: tuple[float, float] = (0.2, 0.7)  # mean of a picture
    contrast: tuple[float, float] = (0.1, 0.32)  # standard deviation within a picture
    chroma: tuple[float, float] = (0.05, 0.45)  # spread of red − blue relative to that of the brightness
    tint: float = 0.04  # spread of the pictures' mean colours
    sky: float = 0.15  # light from above: the top is brighter than the bottom


NATURAL = Scene()
MOST_LEAVES = 1000  # bounds the time for a picture

# Natural colours vary along grey, then orange–blue, then green–purple (Ruderman, Cronin and Chiao, 1998).
OPPONENT = np.array([[1, 1, 1], [1.22, 0, -1.22], [-0.71, 1.41, -0.71]], np.float32)


def picture(height: int, width: int, channels: int, seed: int, index: int, scene: Scene = NATURAL) -> np.ndarray:
    """Draw picture number `index`: uint8 height × width × channels, the same for the same arguments."""
    rng = np.random.default_rng([seed, index])
    mix = _colours(channels, rng.uniform(*scene.chroma))
    if rng.random() < scene.fractal_share:
        values = fractal(rng, height, width, channels, rng.uniform(*scene.roughness)) @ mix
    else:
        values = _dead_leaves(rng, height, width, mix, scene)
    values += scene.sky * np.linspace(1, -1, height, dtype=np.float32)[:, None, None]
    values -= values.mean((0, 1), keepdims=True)
    values *= rng.uniform(*scene.contrast) / max(float(values.std()), 1e-6)
    tint = scene.tint * rng.standard_normal(channels).astype(np.float32) @ _colours(channels, 1.0)
    values += rng.uniform(*scene.brightness) + tint - tint.mean()
    pixels: np.ndarray = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return pixels


def fractal(rng: np.random.Generator, height: int, width: int, channels: int, exponent: float = 1.0) -> np.ndarray:
    """Return periodic noise of amplitude 1/f^exponent: float32 height × width × channels, mean 0, variance 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    f = np.hypot(fy, fx)
    f[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((channels, height, width), np.float32), axes=(1, 2))
    noise = np.fft.irfft2(white * f**-exponent, s=(height, width), axes=(1, 2))
    noise /= np.maximum(noise.std(axis=(1, 2), keepdims=True), 1e-9)
    return np.ascontiguousarray(noise.transpose(1, 2, 0), np.float32)


def _colours(channels: int, chroma: float) -> np.ndarray:
    """Return the matrix that turns independent numbers into a colour: the first into grey, the others by `chroma`."""
    if channels == 3:
        spread = np.array([[1], [chroma], [chroma / 2]], np.float32)
        return np.multiply(spread, OPPONENT)
    mix = np.eye(channels, dtype=np.float32) * np.float32(chroma)
    mix[0] = 1
    return mix


@dataclass(frozen=True)
class _Leaves:
    """The leaves of one picture, the hindmost first: one row per leaf, lengths in pixels."""

    disc: np.ndarray  # else a box
    centre: np.ndarray  # y, x
    axis: np.ndarray  # cosine and sine of the first half-axis
    half: np.ndarray  # the two half-axes
    soft: np.ndarray  # width of the edge
    colour: np.ndarray
    slope: np.ndarray  # of the brightness, along the two half-axes
    grain: np.ndarray  # amplitude of the texture
    shift: np.ndarray  # where in the texture the leaf was cut out


def _radii(rng: np.random.Generator, smallest: float, area: float, scene: Scene) -> np.ndarray:
    """Draw radii by p(r) ∝ r^−exponent between smallest and largest until their discs' areas add up to `area`."""
    power = 1 - scene.size_exponent
    low, high = smallest**power, scene.largest**power
    mean = np.pi * np.mean((low + (np.arange(64) + 0.5) / 64 * (high - low)) ** (2 / power))
    count = int(np.clip(area / mean, 4, MOST_LEAVES))
    radii: np.ndarray = (low + rng.random(count) * (high - low)) ** (1 / power)
    return radii


def _leaves(rng: np.random.Generator, height: int, width: int, mix: np.ndarray, scene: Scene) -> _Leaves:
    side = min(height, width)
    least, most = np.log(np.clip(scene.smallest, scene.finest / side, scene.largest / 2))
    radius = side * _radii(rng, np.exp(rng.uniform(least, most)), scene.coverage * max(height, width) / side, scene)
    count = len(radius)
    kind = rng.integers(3, size=count)  # disc, bar, box
    stretch = np.where(kind == 1, rng.uniform(3, 10, count), rng.uniform(1, 2, count)) ** 0.5
    turn = np.where(rng.random(count) < scene.upright, 0, rng.uniform(0, np.pi, count))
    return _Leaves(
        disc=kind == 0,
        centre=(rng.uniform(-0.1, 1.1, (count, 2)) * (height, width)).astype(np.float32),
        axis=np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32),
        half=np.stack([radius * stretch, radius / stretch], 1).astype(np.float32),
        soft=(rng.uniform(*scene.softness) * rng.uniform(0.7, 1.3, count)).astype(np.float32),
        colour=rng.standard_normal((count, len(mix)), np.float32) @ mix,
        slope=scene.gradient * rng.standard_normal((count, 2), np.float32),
        grain=(rng.uniform(*scene.texture) * rng.uniform(0, 2, count)).astype(np.float32),
        shift=rng.integers(0, (height, width), (count, 2)),
    )


def _dead_leaves(rng: np.random.Generator, height: int, width: int, mix: np.ndarray, scene: Scene) -> np.ndarray:
    leaves = _leaves(rng, height, width, mix, scene)
    texture = fractal(rng, height, width, len(mix), rng.uniform(*scene.roughness)) @ mix
    field = np.tile(texture, (2, 2, 1))  # it is periodic: so every cut lies inside
    canvas: np.ndarray = fractal(rng, height, width, len(mix), 2.0) @ mix
    for leaf in range(len(leaves.half)):
        _paint(canvas, field, leaves, leaf)
    return canvas


def _paint(canvas: np.ndarray, field: np.ndarray, leaves: _Leaves, leaf: int) -> None:
    """Paint one leaf onto the canvas, within the box that holds it."""
    (y, x), (cos, sin), (a, b) = leaves.centre[leaf], leaves.axis[leaf], leaves.half[leaf]
    reach = math.hypot(a, b) + leaves.soft[leaf]
    top, bottom = max(0, int(y - reach)), min(len(canvas), int(y + reach) + 2)
    left, right = max(0, int(x - reach)), min(canvas.shape[1], int(x + reach) + 2)
    if top >= bottom or left >= right:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - y
    dx = np.arange(left, right, dtype=np.float32) - x
    u, v = (cos * dx + sin * dy) / a, (cos * dy - sin * dx) / b
    if leaves.disc[leaf]:
        outside = (np.sqrt(u * u + v * v) - 1) * min(a, b)
    else:
        outside = np.maximum((np.abs(u) - 1) * a, (np.abs(v) - 1) * b)
    cover = np.clip(0.5 - outside / leaves.soft[leaf], 0, 1)[..., None]
    down, right_by = leaves.shift[leaf]
    own = field[down : down + bottom - top, right_by : right_by + right - left] * leaves.grain[leaf]
    own += (leaves.slope[leaf, 0] * u + leaves.slope[leaf, 1] * v)[..., None] + leaves.colour[leaf]
    place = canvas[top:bottom, left:right]
    place += cover * (own - place)
