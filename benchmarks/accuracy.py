"""Accuracy at a budget on the real networks: this tool's default beside other criteria, searches and repairs.

    python benchmarks/accuracy.py ../shared/data resnet56_cifar10_folded --targets 0.5 0.6
    python benchmarks/accuracy.py ../shared/data resnet50_imagenet_pq_bn --targets 0.7 --samples 256

Every variant is a process of its own, which calibrates once for all targets: seconds are those of the calibration and
of one target, and the peak of memory is that of all targets so far. The images that the result is reported on take no
part in the pruning: CIFAR-10 top-1 on the lossless test images, agreement with the original and KL divergence on JPEG
test images; ImageNet top-1 and agreement on the test photos.
"""

import argparse
import itertools
import json
import lzma
import multiprocessing
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

USUAL = {
    "mobilenetv1_0.75_224_imagenet_bn": "tf",
    "mobilenetv2_1.0_224_imagenet_folded": "tf",
    "squeezenet1.1_224_imagenet": "caffe",
    "resnet8_cifar10_mlperf": "raw",
}
REFINE_STEPS = 800
ROUNDING = 1e-9  # a ridge that only keeps the factorisation from failing
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "generated": {"generated": True},
    "uniform": {"search": "uniform"},
    "uniform-plain": {"search": "uniform", "compensation": "none"},
    "magnitude-plain": {"criterion": "magnitude-l2", "search": "uniform", "compensation": "none"},
    "cap-forward": {"criterion": "cap-forward"},
    "magnitude-l1": {"criterion": "magnitude-l1"},
    "magnitude-l2": {"criterion": "magnitude-l2"},
    "relevance": {"criterion": "relevance"},
    "random": {"criterion": "random"},
    "evolve": {"search": "evolve"},
    "bisect": {"search": "bisect"},
    "cap-paper": {"criterion": "cap-forward", "search": "bisect", "compensation": "symmetric", "no_ridge": True},
    "refine": {},
}


def network(data: Path, name: str, folder: Path) -> Path:
    """Return the path of a network, decompressed where it is packed."""
    plain = data / "networks" / f"{name}.onnx"
    if plain.exists():
        return plain
    target = folder / plain.name
    if not target.exists():
        with lzma.open(plain.with_suffix(".onnx.xz")) as packed:
            target.write_bytes(packed.read())
    return target


def preprocess(name: str) -> Any:
    """Return the preprocessing of a network."""
    from calibrate.preprocess import PRESETS

    return PRESETS[USUAL.get(name, "cifar10" if "cifar10" in name else "imagenet")]


def job(
    data: Path, name: str, targets: Sequence[float], variant: str, samples: int, seed: int, folder: Path, steps: int
) -> list[dict[str, Any]]:
    """Calibrate once and prune to each target, in this process; return what it took, and write the models."""
    from compress import sensitivity
    from compress.cut import cut
    from compress.prepare import examine, prepare
    from compress.progress import Timed, silent
    from compress.settings import Options
    from compress.targets import Target
    from graph.model import save

    settings = dict(VARIANTS[variant])
    generated = settings.pop("generated", False)
    if settings.pop("no_ridge", False):
        sensitivity.RIDGE = ROUNDING
    if variant == "refine":
        settings["refine"] = steps
    cifar = "cifar10" in name
    source = data / "cifar10" / "calibration.npz" if cifar else data / "imagenet" / "calibration"
    options = Options(preprocess=preprocess(name), samples=None if generated else samples, seed=seed, **settings)
    timed = Timed(silent)
    examined = examine(network(data, name, folder), None if generated else source, options, timed)
    prepared = prepare(examined, timed)
    rows = []
    for target in targets:
        own = Timed(silent)
        pruned = cut(prepared, examined.limits([Target("macs", target, True)]), own)
        save(pruned.model, folder / f"{target}.onnx", overwrite=True)
        stages = {stage: round(value, 1) for stage, value in (timed.seconds | own.seconds).items()}
        rows.append(
            {
                "macs": pruned.count.macs / pruned.analysis.original.macs,
                "params": pruned.count.params / pruned.analysis.original.params,
                "seconds": round(sum(stages.values()), 1),
                "stages": stages,
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "widths": {group: list(pair) for group, pair in pruned.widths.items()},
                "kept_slices": sum(1 for r in pruned.repairs if r.note),
            }
        )
    return rows


def evaluate(data: Path, name: str, output: Path, jpeg: int) -> dict[str, float | None]:
    """Return top-1 before and after, agreement and KL divergence, on images that took no part."""
    from calibrate.sources import open_source
    from compress.measure import compare
    from graph.inputs import input_specs
    from graph.model import load

    original, pruned = load(network(data, name, output.parent)), load(output)
    specs = input_specs(original)
    if "cifar10" in name:
        test = open_source(data / "cifar10" / "test.npz", specs, preprocess(name))
        fine = open_source(data / "cifar10" / "test_jpeg.npz", specs, preprocess(name))
        chosen = np.sort(np.random.default_rng(0).permutation(len(fine))[:jpeg])  # the file is sorted by class
        labelled, unlabelled = compare(original, pruned, test), compare(original, pruned, fine, chosen)
    else:
        labels = data / "imagenet" / "test_labels.csv"
        test = open_source(data / "imagenet" / "test", specs, preprocess(name), labels_file=labels)
        labelled = unlabelled = compare(original, pruned, test)
    return {
        "top1_before": labelled.top1_original,
        "top1": labelled.top1_other,
        "agreement": unlabelled.agreement,
        "kl": unlabelled.kl_divergence,
    }


def main() -> None:
    """Run the grid and print one line per run, then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--samples", type=int, nargs="+", default=[1024])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=REFINE_STEPS, help="of the variant `refine`")
    parser.add_argument("--jpeg", type=int, default=2000, help="how many JPEG test images to compare on")
    parser.add_argument("--json", type=Path, help="append one JSON line per run")
    arguments = parser.parse_args()
    rows = []
    grid = itertools.product(arguments.networks, arguments.variants, arguments.samples, arguments.seeds)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name, variant, samples, seed in grid:
            with context.Pool(1) as pool:
                given = (arguments.data, name, arguments.targets, variant, samples, seed, Path(folder), arguments.steps)
                found = pool.apply(job, given)
            for target, done in zip(arguments.targets, found, strict=True):
                row = {"network": name, "target": target, "variant": variant, "samples": samples, "seed": seed, **done}
                row |= evaluate(arguments.data, name, Path(folder) / f"{target}.onnx", arguments.jpeg)
                rows.append(row)
                print(json.dumps({k: v for k, v in row.items() if k not in ("widths", "stages")}), flush=True)
                if arguments.json:
                    with arguments.json.open("a") as lines:
                        lines.write(json.dumps(row) + "\n")
    print("\n| network | variant | images | MACs | params | top-1 before | top-1 | agreement | KL | seconds | GiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['network']} | {r['variant']} | {r['samples']} | {r['macs']:.3f} | {r['params']:.3f} "
            f"| {100 * r['top1_before']:.2f} | {100 * r['top1']:.2f} | {r['agreement']:.4f} | {r['kl']:.4f} "
            f"| {r['seconds']} | {r['peak_gib']} |"
        )


if __name__ == "__main__":
    main()
