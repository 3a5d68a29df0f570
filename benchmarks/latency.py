"""Latency as a target on the real networks, beside targets of MACs: what is saved of the time, and what it costs.

    python benchmarks/latency.py ../shared/data mobilenetv2_1.0_224_imagenet_folded --samples 128 --threads 1 2

For each network and number of threads one process calibrates and profiles once. It then cuts

    latency     at the target of latency, widths in multiples that suit the machine
    macs-same   at the MACs at which the measured latency is the same, widths in the same multiples
    macs-1      at the share of MACs that `--macs` names, with any widths (`--round-to 1`)
    macs-auto   the same in multiples that suit the machine (`--round-to auto`)

and reports shares of the original's MACs and time (ONNX Runtime, CPU, the two timed in turn), the efficiency, which is
time saved ÷ MACs saved, and the accuracy as `accuracy.py` does. Only the first two are compensated and evaluated.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy import evaluate, network, preprocess

HALVINGS = 6  # of the interval of MACs in which the latency is the same


def job(data: Path, name: str, threads: int, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return one row for each cut of one network."""
    from compress.cut import choose, cut_as_planned
    from compress.file_size import finished
    from compress.goal import permitted
    from compress.prepare import examine, prepare, profiled
    from compress.progress import Timed, silent
    from compress.settings import AUTO, Options
    from compress.targets import Target
    from graph.count import count
    from graph.model import save
    from graph.trace import trace

    source = data / "cifar10" / "calibration.npz" if "cifar10" in name else data / "imagenet" / "calibration"
    options = Options(
        preprocess=preprocess(name), samples=arguments.samples, round_to=AUTO, threads=threads, seed=arguments.seed
    )
    timed = Timed(silent)
    examined = profiled(examine(network(data, name, folder), source, options, timed), timed)
    prepared = prepare(examined, timed)
    any_width = permitted(examined.analysis, examined.names, options, 1)
    free = replace(prepared, examined=replace(examined, allowed=any_width))
    clock = examined.clock
    assert clock is not None and examined.profile is not None

    def row(variant: str, prepared: Any, targets: Sequence[Target], *, whole: bool) -> dict[str, Any]:
        examined = prepared.examined
        limits = examined.limits(targets)
        plan, small = choose(prepared, limits, Timed(silent))
        counted = count(small, trace(small, examined.data.few(1)))
        if whole:
            model = cut_as_planned(prepared, limits, plan, small, Timed(silent)).model
            save(model, folder / "small.onnx", overwrite=True)
        else:
            model, _ = finished(small, examined.analysis.stored, examined.original)
        ratio = clock.ratio(model)
        found = {
            "network": name,
            "threads": threads,
            "variant": variant,
            "macs": counted.macs / examined.analysis.original.macs,
            "latency": ratio.value,
            "interval": [ratio.low, ratio.high],
            "gone": sum(not mask.any() for mask in plan.keep.values()),
        }
        found["efficiency"] = (1 - found["latency"]) / max(1 - found["macs"], 1e-9)
        if whole:
            found |= evaluate(data, name, folder / "small.onnx", arguments.jpeg)
        print(json.dumps(found), flush=True)
        return found

    rows = [row("latency", prepared, [Target("latency", arguments.target, True)], whole=True)]
    low, high = 0.05, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        try:
            _, small = choose(prepared, examined.limits([Target("macs", share, True)]), Timed(silent))
        except Exception as error:  # out of reach
            print(json.dumps({"network": name, "share": share, "error": str(error)}), flush=True)
            low = share
            continue
        model, _ = finished(small, examined.analysis.stored, examined.original)
        low, high = (low, share) if clock.ratio(model).value > rows[0]["latency"] else (share, high)
    rows.append(row("macs-same", prepared, [Target("macs", low, True)], whole=True))
    for share in arguments.macs:
        rows.append(row(f"macs-1 {share:g}", free, [Target("macs", share, True)], whole=False))
        rows.append(row(f"macs-auto {share:g}", prepared, [Target("macs", share, True)], whole=False))
    seconds = {stage: round(value, 1) for stage, value in timed.seconds.items()}
    where = examined.profile.where
    return [
        {**each, "original_ms": examined.profile.original_ms, "seconds": seconds, "machine": where} for each in rows
    ]


def main() -> None:
    """Run the grid and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--target", type=float, default=0.6, help="share of the latency")
    parser.add_argument("--macs", type=float, nargs="*", default=[0.7, 0.5])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jpeg", type=int, default=2000, help="how many JPEG test images to compare on")
    parser.add_argument("--json", type=Path, help="append one JSON line per row")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            for threads in arguments.threads:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found = pool.apply(job, (arguments.data, name, threads, arguments, Path(folder)))
                rows += found
                if arguments.json:
                    with arguments.json.open("a") as lines:
                        lines.writelines(json.dumps(each) + "\n" for each in found)
    print("\n| network | threads | variant | MACs | latency | interval | efficiency | gone | top-1 | agreement |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        accuracy = f"{100 * r['top1']:.1f} | {r['agreement']:.3f}" if "top1" in r else " | "
        print(
            f"| {r['network']} | {r['threads']} | {r['variant']} | {r['macs']:.3f} | {r['latency']:.3f} "
            f"| {r['interval'][0]:.3f} … {r['interval'][1]:.3f} | {r['efficiency']:.2f} | {r['gone']} | {accuracy} |"
        )


if __name__ == "__main__":
    main()
