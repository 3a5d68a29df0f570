"""Every model of a folder, pruned to the same share of its MACs without data, one row each.

    python benchmarks/zoo.py ../shared/data/zoo ../shared/data/networks --json zoo.json --markdown zoo.md
    python benchmarks/zoo.py ../shared/data/zoo --rival rival.json          # beside onnxsim, see onnxsim_rival.py

Each model is looked at, pruned and checked in processes of their own, torch on one thread: seconds (of processor time,
which other jobs on the machine hardly change) and peak memory are those of the whole job in Python, without the import
of torch; a crash is a row. Few samples make it quick: the table is about what happens to any network,
benchmarks/accuracy.py is about accuracy.

`prunable` is 1 − the least share of MACs that can be reached. `law` is the largest difference between the cut model and
the original with the removed channels silenced, before anything is fitted, `bridge` that between torch and ONNX Runtime
over nodes and outputs (and how many nodes run in ONNX Runtime), both of the magnitude of the value. `checks` are of
the written file: onnx.checker accepts it (full check), ONNX Runtime runs it, inputs and outputs are the same by
name, dtype and dimensions.

`error` is the relative error of the outputs, √(Σ (a − b)² ÷ Σ a²), the mean over outputs, on generated images that no
tool has seen. Beside a rival that keeps fewer MACs than we, or more with a smaller error, ours is pruned once more,
to the rival's MACs. Of the rival's variants the one with the least error is taken among those within 0.02 of the
target, or else among those nearest to it.
"""

import argparse
import fnmatch
import json
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from child import call
from zoo_tables import NEAR, Row, our_table, their_table

SECONDS = 1800  # for one step of one model
SEEN_BY_NOBODY = 1000  # the seed of the images that errors are measured on


def look(path: Path) -> Row:
    """Return what is known without data, and what it takes to know it."""
    import onnx

    from compress.inspection import inspect

    proto = onnx.load(path)
    start = time.process_time()
    facts: Row = {
        "opset": max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        "nodes": len(proto.graph.node),
        "operators": len({node.op_type for node in proto.graph.node}),
    }
    try:
        found = inspect(path)
    except Exception as error:
        return facts | failure(error)
    return facts | {
        "analysis_seconds": time.process_time() - start,
        "groups": len(found.groups),
        "channels": sum(group.channels for group in found.groups),
        "macs": found.macs,
        "prunable": 1 - found.least_macs / max(found.macs, 1),
        "frozen": [f"{entry.op_type}: {entry.reason}" for entry in found.frozen],
        "uncounted": dict(found.uncounted),
    }


def prune(path: Path, target: float, samples: int, output: Path) -> Row:
    """Prune one model, data-free, and write it."""
    import torch

    import compress

    torch.set_num_threads(1)
    start = time.process_time()
    try:
        options = compress.Options(samples=samples, preprocess=preprocess(path.stem))
        result = compress.prune(path, target, None, options, latency=False)
        result.save(output, overwrite=True)
    except Exception as error:
        return failure(error) | {"seconds": time.process_time() - start, "peak_gib": peak_gib()}
    report = result.report
    return {
        "share": report.after.macs / max(report.before.macs, 1),
        "params": report.after.params / max(report.before.params, 1),
        "law": report.law.relative_difference,
        "notes": list(report.notes),
        "seconds": time.process_time() - start,
        "peak_gib": peak_gib(),
    }


def bridge(path: Path) -> Row:
    """Convert one model to torch; return the largest difference from ONNX Runtime and who computes its nodes."""
    from graph.bridge import to_torch
    from graph.inputs import example_inputs
    from graph.model import load
    from graph.simplify import simplify

    try:
        model = simplify(load(path))
        found = to_torch(model, example_inputs(model))
    except Exception as error:
        return failure(error)
    return {
        "bridge": max(found.largest_difference, found.output_difference),
        "fallbacks": len(found.fallbacks),
        "steps": len(found.steps),
    }


def check(path: Path, output: Path) -> Row:
    """Check the written file; each check is True or a sentence."""
    import onnx

    from graph.inputs import example_inputs
    from graph.model import load
    from graph.runtime import run, session

    done: Row = {}
    for name, test in (
        ("checker", lambda: onnx.checker.check_model(str(output), full_check=True)),
        ("runs", lambda: run(session(output), example_inputs(load(path)))),
    ):
        try:
            test()
            done[name] = True
        except Exception as error:
            done[name] = " ".join(str(error).split())[:200]
    before, after = (interface(onnx.load(file)) for file in (path, output))
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return done | {"interface": f"changed: {', '.join(sorted(changed))}" if changed else True}


def interface(proto: Any) -> dict[str, tuple[Any, ...]]:
    """Return order, dtype and dimensions of the inputs that must be fed and of the outputs, by name."""
    initial = {tensor.name for tensor in proto.graph.initializer}
    found = {}
    for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for place, value in enumerate(value for value in values if value.name not in initial):
            tensor = value.type.tensor_type
            dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
            found[f"{kind} {value.name}"] = (place, tensor.elem_type, tensor.HasField("shape"), tuple(dims))
    return found


def errors(path: Path, others: Mapping[str, Path], samples: int) -> Row:
    """Return the relative error of each other model's outputs on images of a seed of their own, and the agreement."""
    from calibrate.sources import open_source
    from compress.measure import compare
    from graph.inputs import input_specs, settle
    from graph.model import load

    model = load(path)
    source = open_source(
        None, settle(model, input_specs(model)), preprocess(path.stem), samples=samples, seed=SEEN_BY_NOBODY
    )
    found: Row = {}
    for name, other in others.items():
        try:
            compared = compare(model, load(other), source, threads=1)
        except Exception as error:
            found[name] = {"error": None, "why": " ".join(str(error).split())[:200]}
            continue
        known = [output.relative_error for output in compared.outputs if output.relative_error is not None]
        found[name] = {"error": sum(known) / len(known) if known else None, "agreement": compared.agreement}
    return found


def preprocess(name: str) -> Any:
    """Return the preprocessing of a network that is known, None for others."""
    from accuracy import USUAL

    from calibrate.preprocess import PRESETS

    usual = USUAL.get(name) or next((known for known in ("cifar10", "imagenet") if known in name), None)
    return PRESETS[usual] if usual else None


def failure(error: Exception) -> Row:
    """Return the exit code that the command line would end with, None for a traceback, and the sentence."""
    from compress.exit_codes import exit_code

    code = exit_code(error)
    kind = "" if code is not None else f"{type(error).__name__}: "
    return {"exit": code, "sentence": kind + " ".join(str(error).split())[:400]}


def peak_gib() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(path: Path, rival: Row | None, given: argparse.Namespace, folder: Path) -> Row:
    """Return all that is measured of one model."""
    output = folder / "ours.onnx"
    output.unlink(missing_ok=True)
    row: Row = {"model": path.stem}
    row["look"] = call(look, path, seconds=SECONDS)
    row["prune"] = call(prune, path, given.target, given.samples, output, seconds=SECONDS)
    row["bridge"] = call(bridge, path, seconds=SECONDS)
    if output.exists():
        row["checks"] = call(check, path, output, seconds=SECONDS)
        found = call(errors, path, {"ours": output}, given.test_samples, seconds=SECONDS)
        row["prune"] |= found.get("ours", {"error": None, "why": found.get("crash")})
    if rival is not None:
        row["rival"] = against(path, rival, row["prune"], given, folder)
    return row


def against(path: Path, rival: Row, pruned: Row, given: argparse.Namespace, folder: Path) -> Row:
    """Return the rival's best variant; `ours_again` where ours had to be pruned to its MACs to be compared."""
    if "variants" not in rival:
        return {"result": "crash", "why": rival.get("crash", "?")}
    usable = [variant for variant in rival["variants"] if variant.get("share") is not None]
    if not usable:
        first = rival["variants"][0]
        return {"result": first["result"], "why": first["why"]}
    gap = max(NEAR, min(abs(variant["share"] - given.target) for variant in usable) + 1e-9)
    near = {str(n): v for n, v in enumerate(usable) if abs(v["share"] - given.target) <= gap}
    if all(variant["result"] == "no effect" for variant in near.values()):
        return next(iter(near.values()))
    others = {name: Path(variant["file"]) for name, variant in near.items()}
    found = call(errors, path, others, given.test_samples, seconds=SECONDS)
    if "crash" in found:
        return next(iter(near.values())) | {"why": f"not compared: {found['crash']}"}
    worst = float("inf")
    best = min(near, key=lambda name: worst if found[name]["error"] is None else found[name]["error"])
    row: Row = {**near[best], **found[best], "checks": call(check, path, others[best], seconds=SECONDS)}
    gap = row["share"] - pruned.get("share", 2)
    smaller = row["error"] is not None and (pruned.get("error") is None or row["error"] < pruned["error"])
    if row["share"] < 0.995 and (gap < -NEAR / 4 or (gap > NEAR / 4 and smaller)):
        again = folder / "again.onnx"
        again.unlink(missing_ok=True)
        row["ours_again"] = call(prune, path, row["share"], given.samples, again, seconds=SECONDS)
        if again.exists():
            row["ours_again"] |= call(errors, path, {"": again}, given.test_samples, seconds=SECONDS).get("", {})
    return row


def main() -> None:
    """Measure every model of the folders, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", type=float, default=0.7, help="share of the MACs to be left")
    parser.add_argument("--samples", type=int, default=16, help="generated samples to prune with")
    parser.add_argument("--test-samples", type=int, default=32, help="generated samples that errors are measured on")
    parser.add_argument("--only", default="*", help="shell pattern of names of models")
    parser.add_argument("--rival", type=Path, help="what onnxsim_rival.py wrote")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    rivals = json.loads(given.rival.read_text()) if given.rival else {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in [path for each in given.folders for path in sorted(each.glob("*.onnx"))]:
            if not fnmatch.fnmatch(path.stem, given.only):
                continue
            rows.append(measure(path, rivals.get(path.stem), given, Path(folder)))
            print(our_table(rows)[-1], flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
            lines = our_table(rows)
            if compared := [row for row in rows if "rival" in row]:
                print("   ", their_table(compared)[-1] if "rival" in rows[-1] else "", flush=True)
                lines += ["", *their_table(compared)]
            if given.markdown:
                given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
