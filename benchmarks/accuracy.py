"""Accuracy at a budget on the real networks: this tool's default beside uniform widths, with and without compensation.

    python benchmarks/accuracy.py ../shared/data resnet56_cifar10_folded --targets 0.5 0.6
    python benchmarks/accuracy.py ../shared/data resnet50_imagenet_pq_bn --targets 0.7 --samples 256

Every run is a process of its own, so that time and peak memory are those of the whole job. The images that the
result is reported on take no part in the pruning: CIFAR-10 top-1 on the lossless test images, agreement with the
original and KL divergence on JPEG test images; ImageNet top-1 and agreement on the test photos.
"""

import argparse
import json
import lzma
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

USUAL = {
    "mobilenetv1_0.75_224_imagenet_bn": "tf",
    "mobilenetv2_1.0_224_imagenet_folded": "tf",
    "squeezenet1.1_224_imagenet": "caffe",
    "resnet8_cifar10_mlperf": "raw",
}
VARIANTS = {
    "default": {},
    "generated": {"generated": True},
    "uniform": {"search": "uniform"},
    "uniform-plain": {"search": "uniform", "compensation": False},
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


def job(data: Path, name: str, target: float, variant: str, samples: int, seed: int, output: Path) -> dict[str, Any]:
    """Prune once, in this process; return what it took."""
    from compress.pipeline import Options, prune_model
    from graph.model import save

    settings = dict(VARIANTS[variant])
    generated = settings.pop("generated", False)
    cifar = "cifar10" in name
    source = data / "cifar10" / "calibration.npz" if cifar else data / "imagenet" / "calibration"
    options = Options(
        preprocess=preprocess(name),
        samples=None if generated else samples,
        seed=seed,
        **settings,  # type: ignore[arg-type]
    )
    start = time.perf_counter()
    pruned = prune_model(network(data, name, output.parent), target, None if generated else source, options)
    seconds = time.perf_counter() - start
    save(pruned.model, output, overwrite=True)
    return {
        "macs": pruned.count.macs / pruned.analysis.original.macs,
        "params": pruned.count.params / pruned.analysis.original.params,
        "seconds": round(seconds, 1),
        "stages": {stage: round(value, 1) for stage, value in pruned.seconds.items()},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "widths": {group: list(pair) for group, pair in pruned.widths.items()},
        "kept_slices": sum(1 for r in pruned.repairs if r.note),
    }


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
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jpeg", type=int, default=2000, help="how many JPEG test images to compare on")
    parser.add_argument("--json", type=Path, help="append one JSON line per run")
    arguments = parser.parse_args()
    rows = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pruned.onnx"
        for name in arguments.networks:
            for target in arguments.targets:
                for variant in arguments.variants:
                    for seed in arguments.seeds:
                        given = (arguments.data, name, target, variant, arguments.samples, seed, output)
                        with context.Pool(1) as pool:
                            done = pool.apply(job, given)
                        row = {"network": name, "target": target, "variant": variant, "seed": seed, **done}
                        row |= evaluate(arguments.data, name, output, arguments.jpeg)
                        rows.append(row)
                        print(json.dumps({k: v for k, v in row.items() if k not in ("widths", "stages")}), flush=True)
                        if arguments.json:
                            with arguments.json.open("a") as lines:
                                lines.write(json.dumps(row) + "\n")
    print("\n| network | variant | MACs | params | top-1 before | top-1 | agreement | KL | seconds | GiB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['network']} | {r['variant']} | {r['macs']:.3f} | {r['params']:.3f} | {100 * r['top1_before']:.2f} "
            f"| {100 * r['top1']:.2f} | {r['agreement']:.4f} | {r['kl']:.4f} | {r['seconds']} | {r['peak_gib']} |"
        )


if __name__ == "__main__":
    main()
