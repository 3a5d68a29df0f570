"""The torch bridge on real networks: who computes each node, how far it is from ONNX Runtime, and how fast it is.

    python benchmarks/bridge.py ../shared/data/zoo ../shared/data/networks --json bridge.jsonl

Each .onnx file of the folders is simplified as `compress prune` does it, in float32 where it holds halves, converted,
and run on other random inputs than those it was converted with; three samples where the batch is free. Differences
are relative to the largest magnitude of the value. `outputs` is the largest over the outputs, end to end; `node` that
of the worst node alone, on ONNX Runtime's own inputs. Times are in seconds; those of one forward pass are medians,
with the same inputs and one thread on both sides.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graph.bridge import TorchModel, to_torch
from graph.bridge.agreement import difference, floor_of
from graph.bridge.registry import Apply
from graph.bridge.values import to_tensor
from graph.errors import ModelError
from graph.inputs import example_feeds, input_specs, settle, takes_several
from graph.model import load
from graph.runtime import session
from graph.simplify import simplify
from graph.widen import widened

LEAST_SECONDS = 0.5  # spent on each median
COLUMNS = ("ours", "onnx2torch", "ONNX Runtime", "node", "outputs", "convert s", "torch s", "ONNX Runtime s")


def measure(path: Path) -> dict[str, Any]:
    """Convert and run one model; raises ModelError where it cannot be."""
    model = widened(simplify(load(path)))
    specs = settle(model, input_specs(model))
    start = time.perf_counter()
    converted = to_torch(model, example_feeds(specs))
    seconds = time.perf_counter() - start
    feeds = example_feeds(specs, batch=3, seed=1)
    if not takes_several(model, feeds):
        feeds = example_feeds(specs, seed=1)
    runner = session(model, optimise=False, threads=1)
    tensors = [to_tensor(feeds[name], "cpu") for name in converted.inputs]
    with torch.no_grad():
        outputs = off_by(converted, converted.module(*tensors), runner.run(None, feeds))
        torch_seconds = median_seconds(lambda: converted.module(*tensors))
    return {
        "model": path.stem,
        "nodes": len(converted.steps),
        **makers(converted),
        "node": converted.largest_difference,
        "outputs": outputs,
        "convert s": seconds,
        "torch s": torch_seconds,
        "ONNX Runtime s": median_seconds(lambda: runner.run(None, feeds)),
        "reasons": [f"{f.op_type} {f.node}: {f.reason}" for f in converted.fallbacks],
    }


def makers(converted: TorchModel) -> dict[str, dict[str, int]]:
    """Return how many nodes of which operators each side computes."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in COLUMNS[:3]}
    for step in converted.steps:
        maker = "ONNX Runtime" if step.fallback else "ours" if isinstance(step.module, Apply) else "onnx2torch"
        counted[maker][step.op_type] += 1
    return {name: dict(counter.most_common()) for name, counter in counted.items()}


def off_by(converted: TorchModel, got: Sequence[Any], want: Sequence[Any]) -> float:
    """Return the largest relative difference over the outputs."""
    made_by: Mapping[str, str] = {name: step.op_type for step in converted.steps for name in step.outputs}
    floors = [floor_of(made_by.get(name, "")) for name in converted.outputs]
    return max((difference(g, w, floor) for g, w, floor in zip(got, want, floors, strict=True)), default=0.0)


def median_seconds(run: Callable[[], object]) -> float:
    """Return the median time of a call, which was made once before."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(result: dict[str, Any]) -> str:
    """Write a result as a row of the table."""
    cells = [result["model"], str(result["nodes"])]
    for column in COLUMNS[:3]:
        operators = ", ".join(f"{count} {name}" for name, count in list(result[column].items())[:4])
        more = ", …" if len(result[column]) > 4 else ""
        cells.append(f"{sum(result[column].values())}" + (f" ({operators}{more})" if operators else ""))
    cells += [f"{result[column]:.1e}" for column in COLUMNS[3:5]]
    cells += [f"{result[column]:.3f}" for column in COLUMNS[5:]]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure every model of the folders, print a table, then why nodes fell back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="append one JSON line per model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print(f"| model | nodes | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (2 + len(COLUMNS)))
    for path in sorted(path for folder in arguments.folders for path in folder.glob("*.onnx")):
        try:
            result = measure(path)
        except ModelError as error:
            print(f"| {path.stem} | {error} |", flush=True)
            continue
        results.append(result)
        print(row(result), flush=True)
        if arguments.json:
            with arguments.json.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
    for result in results:
        for reason in dict.fromkeys(result["reasons"]):
            print(f"{result['model']}: {reason}")


if __name__ == "__main__":
    main()
