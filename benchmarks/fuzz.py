"""Damaged models: what does the analysis make of truncated, flipped and rewired copies of every model in a folder?

    python benchmarks/fuzz.py FOLDER [--copies 2000] [--seed 0] [--seconds 60] [--gib 8]

Each copy is damaged by its own seed in one of the ways of `DAMAGES`, loaded and analysed, and, where it survives that,
cut by a random plan under the law's eyes. This happens in a child process that is watched from outside, so that a crash
of the interpreter, a hang and a greed for memory are counted like everything else. Only "read" and "refused" (one
sentence, exit code 3) are right. Every wrong copy is listed with its seed, and `--only SEED` makes it again.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message

ROOT = Path(__file__).parents[1]
OUTCOMES = ("read", "refused", "law", "noise", "traceback", "crash", "hang", "memory")

Rng = np.random.Generator
Damage = Callable[[bytes, bytes, Rng], bytes]

# numbers at which arithmetic, loops and allocations go wrong
_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 4096, 100_000, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_STRINGS = ("", "x", "\n\x1b[31m", "a" * 100_000, "../../etc/passwd", "NOTSET", "ai.onnx.ml")
_LARGE = 512  # bytes: a longer field holds weights


def damaged(whole: bytes, other: bytes, seed: int) -> tuple[str, bytes]:
    """Return the name of the damage that the seed stands for, and the damaged bytes of `whole`."""
    rng = np.random.default_rng(seed)
    while True:
        name = str(rng.choice(list(DAMAGES)))
        try:
            return name, DAMAGES[name](whole, other, rng)
        except (DecodeError, ValueError, TypeError):  # a value that protobuf does not take there
            continue


def truncated(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Cut the end off."""
    return whole[: int(rng.integers(len(whole)))]


def flipped(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Flip a few bits anywhere, which is mostly in weights."""
    return _with_bytes(whole, rng.integers(len(whole), size=rng.integers(1, 8)), rng, flip=True)


def flipped_outside_weights(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Flip a few bits of the graph's structure."""
    return _with_bytes(whole, rng.choice(_structure(whole), size=rng.integers(1, 8)), rng, flip=True)


def overwritten(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Overwrite a few bytes of the graph's structure."""
    return _with_bytes(whole, rng.choice(_structure(whole), size=rng.integers(1, 8)), rng, flip=False)


def spliced(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Put the end of another model behind the start of this one."""
    return whole[: int(rng.integers(len(whole)))] + other[int(rng.integers(len(other))) :]


def rewritten(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Change one to four fields of the parsed model, wherever they are: these copies get furthest."""
    model = onnx.ModelProto.FromString(whole)
    for _ in range(int(rng.integers(1, 5))):
        _rewrite(model, rng)
    return model.SerializeToString()


def rewired(whole: bytes, other: bytes, rng: Rng) -> bytes:
    """Change inputs, outputs, operators and attributes of one to three nodes."""
    model = onnx.ModelProto.FromString(whole)
    for _ in range(int(rng.integers(1, 4))):
        node = model.graph.node[int(rng.integers(len(model.graph.node)))]
        another = model.graph.node[int(rng.integers(len(model.graph.node)))]
        match int(rng.integers(4)):
            case 0 if node.input:
                names = [name for each in model.graph.node for name in (*each.input, *each.output)]
                node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
            case 1:
                node.op_type = another.op_type
            case 2 if node.attribute:
                _rewrite(node.attribute[int(rng.integers(len(node.attribute)))], rng)
            case _ if model.graph.initializer:
                _rewrite_tensor(model.graph.initializer[int(rng.integers(len(model.graph.initializer)))], rng)
    return model.SerializeToString()


DAMAGES: dict[str, Damage] = {
    each.__name__: each
    for each in (truncated, flipped, flipped_outside_weights, overwritten, spliced, rewritten, rewired)
}


def _with_bytes(whole: bytes, places: np.ndarray, rng: Rng, flip: bool) -> bytes:
    content = bytearray(whole)
    for place in places:
        content[place] = content[place] ^ (1 << int(rng.integers(8))) if flip else int(rng.integers(256))
    return bytes(content)


def _structure(whole: bytes) -> np.ndarray:
    """Return the places of the bytes that are no weights."""
    free = np.ones(len(whole), np.bool_)
    for _, field, value in _fields(onnx.ModelProto.FromString(whole)):
        if field.type == field.TYPE_BYTES and len(value) > _LARGE:
            start = whole.find(value)
            free[start : start + len(value)] = False
    return np.flatnonzero(free)


def _fields(message: Message) -> Iterator[tuple[Message, Any, Any]]:
    """Yield every field that is set, in the message and those inside it."""
    for field, value in message.ListFields():
        yield message, field, value
        if field.type == field.TYPE_MESSAGE:
            for each in value if field.is_repeated else [value]:
                yield from _fields(each)


def _rewrite(message: Message, rng: Rng) -> None:
    fields = list(_fields(message))
    if not fields:
        return
    # by kind first: names of values would be drawn nine times out of ten otherwise
    kinds = sorted({(owner.DESCRIPTOR.name, field.name) for owner, field, _ in fields})
    kind = kinds[int(rng.integers(len(kinds)))]
    fitting = [each for each in fields if (each[0].DESCRIPTOR.name, each[1].name) == kind]
    owner, field, value = fitting[int(rng.integers(len(fitting)))]
    if not field.is_repeated:
        if field.type == field.TYPE_MESSAGE:
            owner.ClearField(field.name)
        else:
            setattr(owner, field.name, _other(field, value, rng))
        return
    place = int(rng.integers(len(value)))
    match int(rng.integers(4)):
        case 0:
            del value[place]
        case 1 if field.type != field.TYPE_MESSAGE:
            value[place] = _other(field, value[place], rng)
        case 2 if field.type == field.TYPE_MESSAGE:
            value.add().CopyFrom(value[place])
        case 3 if field.type == field.TYPE_MESSAGE:
            value[place].CopyFrom(value[int(rng.integers(len(value)))])
        case _ if field.type != field.TYPE_MESSAGE:
            value.append(_other(field, value[place], rng))


def _other(field: Any, value: Any, rng: Rng) -> Any:
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            text = _STRINGS[int(rng.integers(len(_STRINGS)))]
            if field.type != field.TYPE_BYTES:
                return text
            return value[: int(rng.integers(len(value) + 1))] if len(value) > 64 else text.encode()
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return float(rng.choice([0, -1, np.nan, np.inf, 1e38, 1e-40]))
        case field.CPPTYPE_INT64:
            return int(rng.choice(_NUMBERS))
        case field.CPPTYPE_INT32 | field.CPPTYPE_ENUM:
            return int(rng.integers(30))
    return value


def _rewrite_tensor(tensor: onnx.TensorProto, rng: Rng) -> None:
    """Change the sizes of a tensor, or the numbers in a small one: sizes, axes and repeats are such."""
    if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.raw_data) <= 64 and len(tensor.raw_data) >= 8:
        numbers = np.frombuffer(tensor.raw_data, np.int64).copy()
        numbers[int(rng.integers(len(numbers)))] = int(rng.choice(_NUMBERS))
        tensor.raw_data = numbers.tobytes()
    elif tensor.dims and rng.random() < 0.5:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(_NUMBERS))
    elif len(tensor.dims) > 1:
        tensor.dims.reverse()


# --- the child: one line as a copy begins, one with what came of it ---------------------------------------------------


def work(folder: Path, seeds: list[int], model: Path, other: Path) -> None:
    """Analyse one damaged copy after the other, and print what comes of it as JSON."""
    whole, rest = model.read_bytes(), other.read_bytes()
    from graph.errors import LawError, ModelError

    logging.disable()  # as the command line does
    warnings.simplefilter("ignore")
    stderr = (folder / "stderr").open("w+b")
    os.dup2(stderr.fileno(), 2)  # what libraries print by themselves is seen here
    for seed in seeds:
        name, content = damaged(whole, rest, seed)
        (folder / "copy.onnx").write_bytes(content)
        print(json.dumps({"seed": seed, "damage": name}), flush=True)
        stderr.seek(0, os.SEEK_END)
        before = stderr.tell()
        start = time.perf_counter()
        try:
            outcome, detail = "read", analysed(folder / "copy.onnx", seed)
        except ModelError as error:
            outcome, detail = ("refused", str(error)) if "\n" not in str(error) else ("noise", str(error))
            if error.__cause__ is not None and "a fault of this program" in detail:
                outcome, detail = "traceback", f"{detail} at {_place(error.__cause__)}"
        except LawError as error:
            outcome, detail = "law", str(error)
        except BaseException as error:
            outcome, detail = "traceback", f"{type(error).__name__}: {error} at {_place(error)}"
        stderr.seek(before)
        printed = stderr.read()
        if printed and outcome in ("read", "refused"):
            outcome, detail = "noise", printed[:300].decode(errors="replace")
        seconds = time.perf_counter() - start
        print(json.dumps({"outcome": outcome, "detail": detail, "seconds": seconds}), flush=True)


def analysed(path: Path, seed: int) -> str:
    """Load and analyse a file and check the law for a random plan; raises what there is to raise."""
    from graph.analysis import analyse
    from graph.inputs import example_inputs
    from graph.law import check_law
    from graph.model import load
    from graph.plan import Plan

    model = load(path)
    feeds = example_inputs(model)
    analysis = analyse(model, feeds)
    rng, keep = np.random.default_rng(seed), {}
    for group in analysis.channels.groups:
        keep[group.name] = rng.random(len(group.channels)) < 0.5
        keep[group.name][0] = True
    check_law(analysis.model, analysis.channels, Plan(keep), feeds)
    return f"{len(keep)} groups"


def _place(error: BaseException) -> str:
    """Return the last places of a traceback, ours and the innermost."""
    traceback, places = error.__traceback__, []
    while traceback is not None:
        places.append(f"{Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return " ".join(places[-4:])


# --- the parent: watches ----------------------------------------------------------------------------------------------


def watch(model: Path, other: Path, seeds: list[int], seconds: float, most_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield what came of every copy, starting a new child after each that had to be ended or ended by itself."""
    left = list(seeds)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            listed = ",".join(map(str, left))
            command = [sys.executable, __file__, str(model), "--worker", folder, "--other", str(other), "--seeds"]
            with subprocess.Popen([*command, listed], stdout=subprocess.PIPE, cwd=ROOT) as child:
                done = set()
                for result in _watched(child, seconds, most_bytes):
                    done.add(result["seed"])
                    yield result
                child.kill()
        last = max((left.index(seed) for seed in done), default=len(left) - 1)
        left = left[last + 1 :]


def _watched(child: "subprocess.Popen[bytes]", seconds: float, most_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the results of one child until it has ended or must be."""
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    buffer, begun, started, most = b"", None, time.monotonic(), 0
    while True:
        buffer += child.stdout.read() or b""
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "outcome" in message:
                yield {**(begun or {}), **message, "mib": most >> 20}
                begun, most = None, 0
            else:
                begun = message
            started = time.monotonic()
        most = max(most, _resident(child.pid))
        ended = child.poll() is not None
        if begun is None and ended and not lines:
            return
        if begun is not None and not lines:
            if ended:
                yield {**begun, "outcome": "crash", "detail": f"exit code {child.returncode}", "mib": most >> 20}
                return
            if most > most_bytes or time.monotonic() - started > seconds:
                outcome = "memory" if most > most_bytes else "hang"
                yield {**begun, "outcome": outcome, "detail": f"{most >> 20} MiB", "mib": most >> 20}
                return
        time.sleep(0.02)


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes (Linux; 0 elsewhere)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Fuzz every model of a folder and print a table; a worker fuzzes one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of models, or one of its files")
    parser.add_argument("--copies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this seed alone")
    parser.add_argument("--seconds", type=float, default=60, help="a copy that takes longer hangs")
    parser.add_argument("--gib", type=float, default=8, help="a copy that takes more is greedy")
    parser.add_argument("--json", type=Path, help="every wrong copy, one a line")
    for hidden in ("--worker", "--other", "--seeds"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(Path(given.worker), [int(seed) for seed in given.seeds.split(",")], given.folder, Path(given.other))
        return
    folder = given.folder if given.folder.is_dir() else given.folder.parent
    models = sorted(folder.glob("*.onnx"))
    seeds = [given.only] if given.only is not None else list(range(given.seed, given.seed + given.copies))
    print("| model | copies | " + " | ".join(OUTCOMES) + " | slowest s | most MiB |")
    print("|---|" + "---|" * (len(OUTCOMES) + 3))
    for index, model in enumerate(models):
        if given.folder not in (folder, model):
            continue
        counts, slowest, most = Counter[str](), 0.0, 0
        for result in watch(model, models[index - 1], seeds, given.seconds, round(given.gib * 2**30)):
            counts[result["outcome"]] += 1
            slowest, most = max(slowest, result.get("seconds", given.seconds)), max(most, result["mib"])
            wrong = result["outcome"] not in ("read", "refused")
            if given.json and wrong:
                with given.json.open("a") as file:
                    file.write(json.dumps({"model": model.name, **result}) + "\n")
            if wrong or given.only is not None:
                print(f"    {model.name} {json.dumps(result)}", file=sys.stderr, flush=True)
        row = [model.stem, str(sum(counts.values())), *(str(counts[each]) for each in OUTCOMES)]
        print("| " + " | ".join([*row, f"{slowest:.1f}", str(most)]) + " |", flush=True)


if __name__ == "__main__":
    main()
