"""Imported before any test module, and so before any of them imports onnxruntime."""

import graph  # noqa: F401  # switches ONNX Runtime's telemetry off for the tests too
