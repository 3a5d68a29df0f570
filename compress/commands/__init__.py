"""The commands, one file each: a module here holds a click command named `command`.

A module must import nothing heavy at its top, so that `compress --help` is quick: torch, ONNX Runtime and numpy
are imported inside the function.
"""
