"""Whether `compress bench` finds equal files equally fast: a file beside its copy, many times over.

    python benchmarks/equal.py model.onnx tiny.onnx --times 20 --threads 1

For each file: the least and the largest ratio of the copy, how many lie within 1 ± 0.01, how many intervals hold the 1
(about 95 % should), and the mean width of the intervals. The load of the machine before and after is printed with it,
for that is what makes it hard. The duration is that of the command line.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from compress.bench import bench
from compress.commands.bench import DURATION_S, PATIENCE
from compress.statistics import Ratio

ALLOWED = 0.01


def main() -> None:
    """Print a line per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=DURATION_S)
    arguments = parser.parse_args()
    for file in arguments.files:
        load = os.getloadavg()[0]
        start = time.perf_counter()
        ratios = [ratio(file, arguments.threads, arguments.duration) for _ in range(arguments.times)]
        seconds = (time.perf_counter() - start) / len(ratios)
        print(f"{file.name}: {summary(ratios)}; {seconds:.1f} s each; load {load:.1f} … {os.getloadavg()[0]:.1f}")


def ratio(file: Path, threads: int, duration_s: float) -> Ratio:
    """Return the ratio of the time of a copy of the file to that of the file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(file, folder))
        _, second = bench([file, copy], threads=threads, duration_s=duration_s, longest_s=PATIENCE * duration_s)
    print(f"    {second.ratio.value:.4f} ({second.ratio.low:.4f} … {second.ratio.high:.4f})", flush=True)
    return second.ratio


def summary(ratios: list[Ratio]) -> str:
    """Say how the ratios lie."""
    values = [each.value for each in ratios]
    near = sum(abs(value - 1) <= ALLOWED for value in values)
    covering = sum(each.low <= 1 <= each.high for each in ratios)
    width = sum(each.high - each.low for each in ratios) / len(ratios)
    count = len(ratios)
    return (
        f"ratios {min(values):.4f} … {max(values):.4f}, {near} of {count} within 1 ± {ALLOWED},"
        f" {covering} of {count} intervals hold 1, {width:.4f} wide"
    )


if __name__ == "__main__":
    main()
