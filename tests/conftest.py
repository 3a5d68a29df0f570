"""Imported before any test module, and so before any of them imports onnxruntime or torch."""

import os

import graph  # noqa: F401  # switches ONNX Runtime's telemetry off for the tests too

# The tests' tensors are small: on a machine that has other work, threads that wait for each other make them ten times
# slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where the tests run as a step of a pipeline, its summary is none of theirs.
os.environ.pop("GITHUB_STEP_SUMMARY", None)
