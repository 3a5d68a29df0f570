"""A folder of pictures as a source: read when asked for, classes from sub-folders or from a csv file."""

import csv
import os
from pathlib import Path

import numpy as np

from calibrate.errors import DataError
from calibrate.images import batches, fit_image, image_input, open_image
from calibrate.source import Request, Source, only_input, opens

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})


@opens("folder", lambda spec: isinstance(spec, Path) and os.path.isdir(spec))
def open_folder(request: Request) -> Source:
    """Open a folder of pictures, sub-folders included.

    With fewer samples than pictures a random subset is taken, the same for the same seed, in the order of the
    names. Labels come from the csv file, else from two or more sub-folders with every picture in one of them
    (class = place of the sub-folder's name in sorted order). Raises DataError for an empty folder, and
    for a picture that is unreadable, or of another size than the first where no size is fixed.
    """
    root = Path(str(request.spec))
    target = image_input(only_input(request.inputs, f"a folder of pictures ({root})"), request.preprocess)
    names = _names(root)
    if not names:
        raise DataError(f"{root}: no pictures ({', '.join(sorted(SUFFIXES))}) in this folder or below")
    labels = _labels_of_folders(names) if request.labels_file is None else _labels_of_file(request.labels_file, names)
    chosen = _choose(len(names), request.samples, request.seed)
    paths = [root / names[index] for index in chosen]
    _check_headers(paths, free=target.height is None or target.width is None)

    def draw(index: int) -> np.ndarray:
        path = paths[index]
        with open_image(os.fspath(path), str(path)) as image:
            return fit_image(image, target, request.preprocess, str(path))

    read, notes = batches(len(paths), draw, target, request.preprocess)
    part = "" if len(paths) == len(names) else f" of {len(names)}"
    return Source(
        len(paths),
        lambda indices: {target.name: read(indices)},
        f"{len(paths)}{part} images of {root}",
        None if labels is None else labels[chosen],
        notes=notes,
        read_altered=lambda indices, alter: {target.name: read(indices, alter)},
    )


def _names(root: Path) -> list[Path]:
    """Return the pictures below `root`, relative and sorted, through links, each folder once."""
    found, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=_refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        at = Path(folder).relative_to(root)
        found += [at / f for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error


def _choose(count: int, samples: int | None, seed: int) -> np.ndarray:
    if samples is None or samples >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, count]).choice(count, samples, replace=False))


def _check_headers(paths: list[Path], free: bool) -> None:
    """Fail before the work starts, not in the middle of it: every header readable, and one size where none is fixed."""
    first = None
    for path in paths:
        with open_image(os.fspath(path), str(path)) as image:
            first = first or image.size
            if free and image.size != first:
                sizes = " and ".join(f"{high}×{wide}" for wide, high in (first, image.size))
                raise DataError(f"{path}: sizes differ ({sizes}) and the model fixes none: give --resize HEIGHTxWIDTH")


def _labels_of_folders(names: list[Path]) -> np.ndarray | None:
    classes = sorted({name.parts[0] for name in names})
    if len(classes) < 2 or any(len(name.parts) == 1 for name in names):
        return None
    index = {name: place for place, name in enumerate(classes)}
    return np.array([index[name.parts[0]] for name in names], np.int64)


def _labels_of_file(file: Path, names: list[Path]) -> np.ndarray:
    """Read a csv file of `name,class` rows, more columns ignored: a name below the folder, or a bare file name."""
    rows = _rows(file)
    labels, missing = [], []
    for name in names:
        label = rows.get(name.as_posix(), rows.get(name.name))
        labels.append(label)
        if label is None:
            missing.append(name)
    if missing:
        raise DataError(f"{file}: no label for {len(missing)} of {len(names)} pictures, the first is {missing[0]}")
    return np.array(labels, np.int64)


def _rows(file: Path) -> dict[str, int]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: the labels cannot be read ({error})") from error
    labels: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        try:
            labels[row[0].strip().removeprefix("./")] = int(row[1])
        except (IndexError, ValueError):
            if number == 1:  # a header
                continue
            raise DataError(f"{file}: row {number} is {','.join(row)!r}: give file name, comma, class index") from None
    return labels
