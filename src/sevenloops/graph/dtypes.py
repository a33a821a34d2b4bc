"""Element types: ONNX numbers them, the graph names them as NumPy does."""

from __future__ import annotations

from typing import Any

from ..errors import GraphError

__all__ = ["ELEMENTS", "element_of", "name_of"]

#: TensorProto.DataType -> the name of NumPy's dtype (those from bfloat16 on come from the package ml_dtypes).
ELEMENTS: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "object",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}
_NUMBERS = {name: number for number, name in ELEMENTS.items()} | {"str": 8}


def name_of(element: Any) -> str:
    """The name of a dtype that ONNX gives by number; raises `GraphError` for a number that it does not have."""
    if isinstance(element, str):
        return element
    if element not in ELEMENTS:
        raise GraphError(f"ONNX has no element type {element!r}")
    return ELEMENTS[element]


def element_of(name: str) -> int:
    """ONNX's number of a dtype; raises `GraphError` for a name without one."""
    if name not in _NUMBERS:
        raise GraphError(f"ONNX has no element type for dtype {name!r}")
    return _NUMBERS[name]
