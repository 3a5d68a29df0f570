"""onnxsim's `apply_structured_pruning` on a folder of models, for the comparison in benchmarks/zoo.py.

    python -m venv /tmp/rival && /tmp/rival/bin/pip install onnxsim==0.8.1 onnx onnxruntime onnxscript
    /tmp/rival/bin/python benchmarks/onnxsim_rival.py FOLDER --keep /tmp/pruned --json rival.json
    python benchmarks/zoo.py FOLDER --rival rival.json

It runs in an environment of its own: onnxscript is there for onnx-ir, with which this tool's counter (graph/count.py)
counts the MACs of both tools' results.

Each model is simplified first, as onnxsim's documents ask for (its pruning expects BatchNormalization to be fused);
where its simplifier fails, the model is pruned as it is. Its one number, `sparsity`, is bisected until the MACs come
nearest to the target; each combination of its two other options (l1 or l2 norms, the same share in every layer
or one ranking of all) is tried, and all results are kept: zoo.py takes the one that serves onnxsim best.

Its function returns no plan, slices weights and changes none of their numbers. Which channels it kept is read from the
numbers (benchmarks/sliced.py), the simplified original is given zeros in the consumers' weights at the others, and
both are run in ONNX Runtime on the same random inputs: "equal" within 1e-3 of an output's magnitude, the tolerance of
our own law; else "broken"; "not decidable" where equal numbers leave open what was kept, or where the outputs do not
react to the pruning on these inputs.
"""

import argparse
import fnmatch
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the repository: the counter of both tools

from child import call

BISECTIONS = 12
OPTIONS = [
    {"importance_norm": norm, "global_sparsity": everywhere}
    for everywhere, norm in itertools.product((False, True), ("l2", "l1"))
]


def macs(proto: Any, feeds: Any) -> int:
    """Count MACs with this tool's counter."""
    import onnx_ir as ir

    from graph.count import count
    from graph.standard import standardise
    from graph.trace import trace

    standard, _ = standardise(ir.from_proto(proto))
    return count(standard, trace(standard, feeds)).macs


def prune(path: Path, target: float, keep: Path) -> dict[str, Any]:
    """Simplify and prune one model in every way; the pruned models go to the folder `keep`."""
    import onnx
    import onnx_ir as ir
    import onnxsim

    from graph.inputs import example_inputs

    original = onnx.load(path)
    feeds = example_inputs(ir.from_proto(original))
    whole, start = macs(original, feeds), time.perf_counter()
    try:
        simple, simplified = onnxsim.simplify(original)[0], "yes"
    except Exception as error:  # it raises RuntimeError and whatever its passes raise
        simple, simplified = original, f"failed: {' '.join(str(error).split())[:150]}"
    row: dict[str, Any] = {"simplify_seconds": round(time.perf_counter() - start, 2), "simplified": simplified}
    variants = []
    for number, options in enumerate(OPTIONS):
        start = time.perf_counter()
        try:
            found = nearest(simple, feeds, whole, target, options)
        except Exception as error:  # the same
            variants.append({**options, "result": "crash", "why": f"{type(error).__name__}: {str(error)[:200]}"})
            continue
        destination = keep / f"{path.stem}-{number}.onnx"
        onnx.save(found.pop("model"), destination)
        found |= judge(original, simple, destination, feeds) if found["share"] is not None else {}
        variants.append({**options, **found, "file": str(destination.resolve())})
        variants[-1]["seconds"] = round(time.perf_counter() - start, 2)
    return row | {"variants": variants}


def nearest(simple: Any, feeds: Any, whole: int, target: float, options: dict[str, Any]) -> dict[str, Any]:
    """Bisect the sparsity; return the model whose MACs are nearest to the target, among those that can be counted."""
    import onnxsim

    low, high, best = 0.0, 0.99, None
    for sparsity in [high, *[None] * BISECTIONS]:
        tried = (low + high) / 2 if sparsity is None else sparsity
        model = onnxsim.apply_structured_pruning(simple, tried, **options)
        try:
            share = macs(model, feeds) / whole
        except Exception as error:  # ONNX Runtime refuses what came out: the row says so
            why = " ".join(str(error).split())[:200]
            return {"model": model, "sparsity": tried, "share": None, "result": "broken", "why": why}
        if best is None or abs(share - target) < abs(best["share"] - target):
            best = {"model": model, "sparsity": tried, "share": share}
        if sparsity is not None:
            if share >= target:
                break  # the most that it does
        elif share > target:
            low = tried
        else:
            high = tried
    assert best is not None
    return best


def judge(original: Any, simple: Any, destination: Path, feeds: Any) -> dict[str, Any]:
    """Say whether the pruned file is its own masked original."""
    import onnx
    from sliced import constants, largest, run, verdict

    pruned = onnx.load(destination)
    shapes = [{name: list(t.dims) for name, t in constants(model).items()} for model in (simple, pruned)]
    if shapes[0] == shapes[1]:
        return {"result": "no effect", "why": "no weight is smaller"}
    result, why = verdict(simple, pruned, feeds)
    off = largest(run(simple, feeds), run(original, feeds))
    return {"result": result, "why": why, "simplified_difference": off}


def main() -> None:
    """Prune every model of the folders, one process each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", type=float, default=0.7, help="share of the MACs to be left")
    parser.add_argument("--only", default="*", help="shell pattern of names of models")
    parser.add_argument("--keep", type=Path, required=True, help="folder for the pruned models")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one model")
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    rows = {}
    for path in [path for folder in given.folders for path in sorted(folder.glob("*.onnx"))]:
        if fnmatch.fnmatch(path.stem, given.only):
            rows[path.stem] = call(prune, path, given.target, given.keep, seconds=given.timeout)
            shown = rows[path.stem].get("variants") or [rows[path.stem]]
            print(path.stem, *(f"\n    {variant}" for variant in shown), flush=True)
            given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
