"""How a picture of 0…255 becomes what the model was trained on: a few numbers, with the usual ones by name.

value = (pixel · scale − mean) / std          per channel, in the channel order that the model sees
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from calibrate.errors import DataError

Layout = Literal["NCHW", "NHWC"]
Fit = Literal["stretch", "crop"]

CROP_MARGIN = 256 / 224  # ImageNet's evaluation: shorter side to 256, centre 224 × 224


@dataclass(frozen=True)
class Preprocess:
    """What is done to 8-bit pictures before the model sees them.

    `mean` and `std` have one entry, or one per channel. `scale` None says that the values the model was
    trained on are not known: the pictures are then standardised to zero mean and unit variance per channel
    over the data set (an integer input takes 0…255 as it is), and the source says so in its notes.

    `size` is (height, width) for a model that leaves them free; else the model's own is used. A picture of
    another size is brought to it by `fit`: "stretch" resizes both sides (bilinear), "crop" resizes the
    picture to cover 256/224 of the size and cuts out the centre. A picture of the right size stays as it is.
    `layout` None is inferred from the shape of the model's input. `bgr` reverses the colours, before mean
    and std apply.
    """

    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    fit: Fit = "stretch"
    layout: Layout | None = None
    bgr: bool = False

    def __post_init__(self) -> None:
        """Check what no picture could pass through."""
        numbers = (*self.mean, *self.std, *(() if self.scale is None else (self.scale,)))
        if not self.mean or not self.std or not all(map(math.isfinite, numbers)):
            raise DataError(
                f"preprocessing needs finite numbers, found mean {self.mean}, std {self.std}, {self.scale=}"
            )
        if min(self.std) <= 0 or self.scale == 0:
            raise DataError(f"preprocessing divides by std: it must be above 0, found {self.std} (scale {self.scale})")
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"pictures cannot be resized to {self.size[0]}×{self.size[1]}: give HEIGHTxWIDTH above 0")


_IMAGENET = Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# `cifar10` is what the best-known CIFAR ResNets for torch use (akamaster/pytorch_resnet_cifar10, chenyaofo's use
# their own): ImageNet's numbers without its crop. Networks trained with CIFAR's own statistics say
# --preprocess unit --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616 (often seen: --std 0.2023,0.1994,0.2010).
PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "imagenet": replace(_IMAGENET, fit="crop"),
        "cifar10": _IMAGENET,
        "tf": Preprocess(1 / 127.5, (1.0,)),
        "unit": Preprocess(1 / 255),
        "raw": Preprocess(1.0),
        "caffe": Preprocess(1.0, (104.0, 117.0, 123.0), bgr=True),
        "standardise": Preprocess(),
    }
)
"""Preprocessing by name: `imagenet` (RGB/255, ImageNet's mean and std, resize and centre crop), `cifar10` (the same
numbers, no crop), `tf` (x/127.5 − 1), `unit` (x/255), `raw` (0…255), `caffe` (BGR minus 104, 117, 123),
`standardise` (zero mean and unit variance over the data: for when the right one is not known)."""


def preprocess_from_options(
    preset: str | None = None,
    *,
    mean: str | None = None,
    std: str | None = None,
    scale: str | None = None,
    resize: str | None = None,
    layout: str | None = None,
    bgr: bool = False,
) -> Preprocess | None:
    """Build the preprocessing from what the user typed; None where nothing was.

    `mean` and `std` are numbers with commas between, `scale` a number or a fraction ("1/255"), `resize` a side
    ("320") or HEIGHTxWIDTH. Raises DataError for an unknown preset, a number that is none, and for a mean or
    std without the range that it belongs to.
    """
    if preset is None and mean is std is scale is resize is layout is None and not bgr:
        return None
    base = _preset(preset or "standardise")
    if scale is not None:
        base = replace(base, scale=_numbers("--scale", scale, 1)[0])
    if base.scale is None and (mean is not None or std is not None):
        raise DataError("--mean and --std need the range they belong to: add --preprocess unit (0…1) or raw (0…255)")
    if mean is not None:
        base = replace(base, mean=_numbers("--mean", mean))
    if std is not None:
        base = replace(base, std=_numbers("--std", std))
    if resize is not None:
        base = replace(base, size=_size(resize))
    if layout is not None:
        base = replace(base, layout=_layout(layout))
    return replace(base, bgr=base.bgr or bgr)


def _preset(name: str) -> Preprocess:
    if name not in PRESETS:
        raise DataError(f"--preprocess {name!r} is not known: give one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _numbers(option: str, text: str, count: int | None = None) -> tuple[float, ...]:
    try:
        numbers = tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if not numbers or (count is not None and len(numbers) != count):
        raise DataError(f"{option} {text!r}: give {'one number' if count == 1 else 'numbers with commas between'}")
    return numbers


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip())
    if match is None:
        raise DataError(f"--resize {text!r}: give one side (320) or HEIGHTxWIDTH (480x640)")
    return int(match[1]), int(match[2] or match[1])


def _layout(text: str) -> Layout:
    for layout in get_args(Layout):
        if text.upper() == layout:
            return layout  # type: ignore[no-any-return]  # get_args is typed as a tuple of Any
    raise DataError(f"--layout {text!r}: give NCHW or NHWC")
