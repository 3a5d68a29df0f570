"""The published JSON Schema, whether what a command wrote is as it says, and a small model and data to write it of."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from small_graphs import build

SCHEMA = json.loads((files("compress") / "report.schema.json").read_text(encoding="utf-8"))

NET = """(float[N,3,8,8] x) => (float[N,4] y) <float[12,3,3,3] w1, float[12] b1, float[12,12,3,3] w2, float[12,4] w3> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a) b = Conv (r, w2) s = Relu (b)
    p = GlobalAveragePool (s) f = Flatten (p) y = MatMul (f, w3) }"""


def small_model(folder: Path, samples: int = 80) -> tuple[str, list[str]]:
    """Write a small classifier and labelled samples for it; returns the model and the options that name the data."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(samples, 3, 8, 8)).astype(np.float32)
    ir.save(build(NET), folder / "net.onnx")
    np.savez(folder / "data.npz", images=images, labels=generator.integers(0, 4, samples))
    return str(folder / "net.onnx"), ["--data", str(folder / "data.npz")]


def properties(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of an object, with those of the definitions that it builds on."""
    built_on = [SCHEMA["$defs"][part["$ref"].rpartition("/")[2]] for part in definition.get("allOf", ())]
    return {
        name: each for part in (*map(properties, built_on), definition["properties"]) for name, each in part.items()
    }


def validated(path: Path, command: str) -> dict[str, Any]:
    """Return what a file holds, which must be as the schema says, with no field that the schema lacks at the top."""
    found = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator(SCHEMA).validate(found)
    alone = Draft202012Validator({**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{command}"}]})
    assert best_match(alone.iter_errors(found)) is None
    assert found.keys() == properties(SCHEMA["$defs"][command]).keys()
    return dict(found)
