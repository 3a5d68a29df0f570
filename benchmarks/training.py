"""What labelled data and gradient descent add: `compress train` beside `compress prune` on the CIFAR-10 networks.

    python benchmarks/training.py ../shared/data resnet20_cifar10_bn --targets 0.5 0.44 --epochs 10
    python benchmarks/training.py ../shared/data resnet20_cifar10_bn --lossy --variants train --epochs 3

Variants:

    prune      closed form, 1,024 unlabelled images
    refine     the same and 800 steps of feature matching
    train      labels, all calibration images (and with `--more` those of train_more.npz), compensation at each removal
    paper      the same without compensation, as FRS has it
    distil     `train` with half of the loss following the original network
    tuned      `prune`, then trained without a target, half of the loss following the original
    both       `refine`, then trained likewise

Top-1 is on the lossless test images, which take no part; agreement with the original is on JPEG test images. Seconds
are of an epoch, in the mean.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import REFINE_STEPS, evaluate, network, preprocess

RECIPES: dict[str, dict[str, Any]] = {"train": {}, "paper": {}, "distil": {"distil": 0.5}}
VARIANTS = ("prune", "refine", *RECIPES, "tuned", "both")


def pruned(path: Path, data: Path, target: float, variant: str, seed: int, output: Path) -> dict[str, Any]:
    """Prune without labels, and write the result."""
    from compress import Options, prune

    options = Options(
        preprocess=preprocess(path.stem),
        samples=1024,
        keep_batchnorm=True,
        refine=REFINE_STEPS if variant in ("refine", "both") else 0,
        seed=seed,
    )
    result = prune(path, target, data / "cifar10" / "calibration.npz", options, latency=False)
    result.save(output, overwrite=True)
    return {"macs": result.report.after.macs / result.report.before.macs}


def trained(
    path: Path,
    data: Path,
    target: float,
    output: Path,
    given: argparse.Namespace,
    samples: Path,
    plain: bool,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """Train, and write the result; `plain` leaves compensation out."""
    from compress import Options, Training, train

    options = Options(
        preprocess=preprocess("cifar10"),
        seed=given.seed,
        device=given.device,
        compensation="none" if plain else "asymmetric",
    )
    training = Training(epochs=given.epochs, rate=given.rate, augment=("flip", "crop"), batch=given.batch, **recipe)
    result = train(path, target, samples, data / "cifar10" / "test.npz", options, training, latency=False, notice=say)
    assert result is not None and result.course is not None
    result.save(output, overwrite=True)
    epochs = [epoch.seconds for epoch in result.course.epochs]
    return {
        "macs": result.report.after.macs / result.report.before.macs,
        "seconds": round(sum(epochs) / len(epochs), 1),
        "removals": [
            [removal.before, removal.macs, removal.held.top1, removal.seconds] for removal in result.course.removals
        ],
        "course": [epoch.held.top1 for epoch in result.course.epochs],
    }


def say(event: Any) -> None:
    """Show that something happens."""
    print(event if hasattr(event, "number") else f"removal before {event.before}: {event.held}", flush=True)


def images(data: Path, more: bool, lossy: bool, folder: Path) -> Path:
    """Return the file of training images."""
    if lossy:
        return data / "cifar10" / "train_jpeg.npz"
    first = data / "cifar10" / "calibration.npz"
    if not more:
        return first
    parts = [np.load(data / "cifar10" / name) for name in ("calibration.npz", "train_more.npz")]
    joined = folder / "lossless.npz"
    np.savez(joined, **{key: np.concatenate([part[key] for part in parts]) for key in ("images", "labels")})
    return joined


def main() -> None:
    """Run the grid and print a line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["prune", "train", "paper"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--lossy", action="store_true", help="train on the 50,000 JPEG images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jpeg", type=int, default=2000, help="how many JPEG test images to compare on")
    parser.add_argument("--json", type=Path, help="append one JSON line per run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output, samples = Path(folder) / "small.onnx", images(given.data, given.more, given.lossy, Path(folder))
        for name in given.networks:
            path = network(given.data, name, Path(folder))
            for target in given.targets:
                for variant in given.variants:
                    row = {
                        "network": name,
                        "target": target,
                        "variant": variant,
                        "epochs": given.epochs,
                        "on": samples.stem,
                    }
                    if variant in RECIPES:
                        row |= trained(
                            path, given.data, target, output, given, samples, variant == "paper", RECIPES[variant]
                        )
                    else:
                        row |= pruned(path, given.data, target, variant, given.seed, output)
                    if variant in ("tuned", "both"):
                        follow = {"distil": 0.5, "teacher": path}
                        row |= {"pruned": evaluate(given.data, name, output, given.jpeg)}
                        tuned = trained(output, given.data, 1.0, output, given, samples, False, follow)
                        row |= {name: value for name, value in tuned.items() if name != "macs"}
                    row |= evaluate(given.data, name, output, given.jpeg)
                    print(json.dumps(row), flush=True)
                    if given.json:
                        with given.json.open("a") as lines:
                            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
