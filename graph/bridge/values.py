"""ONNX values as torch sees them: numeric tensors become torch tensors, strings stay numpy, sequences are lists."""

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, TypeProto, helper

from graph.errors import ModelError

# numpy's dtypes that torch holds as they are; bfloat16, float8, 4-bit integers and strings are not among them.
NUMERIC = frozenset("?bBhHiIlLqQefdFD")

# The element types in the words of ONNX Runtime: "tensor(float)".
_ELEMENTS = {name.lower(): number for name, number in TensorProto.DataType.items()}


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Tell whether torch can hold an array of this dtype without conversion."""
    return dtype.char in NUMERIC


def to_tensor(value: Any, device: torch.device | str) -> Any:
    """Return what ONNX Runtime gave as torch tensors on the device; strings and None pass unchanged."""
    if isinstance(value, list):
        return [to_tensor(item, device) for item in value]
    if isinstance(value, dict) or value is None:
        return value
    array = np.asarray(value)
    return from_array(array if array.flags.writeable else array.copy()).to(device) if is_numeric(array.dtype) else array


def from_array(array: np.ndarray) -> torch.Tensor:
    """Return a tensor that shares the memory of a numeric array."""
    # Where C has two 64-bit integers numpy tells them apart; torch knows one of them.
    return torch.from_numpy(array.view(array.dtype.str) if array.dtype.char in "qQ" else array)


def to_numpy(value: Any) -> Any:
    """Return a torch value as ONNX Runtime takes it; on CUDA this copies to the host."""
    if isinstance(value, list):
        return [to_numpy(item) for item in value]
    return value.detach().cpu().contiguous().numpy() if isinstance(value, torch.Tensor) else value


def type_of_array(dtype: np.dtype[Any]) -> str:
    """Return ONNX Runtime's word for a tensor of this numpy dtype, such as "tensor(float)"."""
    return f"tensor({TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(dtype)).lower()})"


def type_proto(text: str) -> TypeProto:
    """Return the ONNX type for ONNX Runtime's words, without a shape.

    Raises ModelError for a type that has no words here (maps, sparse tensors).
    """
    kind, _, rest = text.partition("(")
    inner = rest.removesuffix(")")
    if kind == "tensor" and inner in _ELEMENTS:
        return helper.make_tensor_type_proto(_ELEMENTS[inner], None)
    if kind == "seq":
        return helper.make_sequence_type_proto(type_proto(inner))
    if kind == "optional":
        return helper.make_optional_type_proto(type_proto(inner))
    raise ModelError(f"a value has type {text}, which the torch bridge cannot pass between nodes")
