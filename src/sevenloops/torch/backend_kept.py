"""Operators that keep a function of `torch.nn.functional` whole on its way through AOTAutograd.

AOTAutograd takes `interpolate` apart into index arithmetic and `local_response_norm` into an average pool over five axes,
out of which nobody could read what was meant. So graphs of inference get these operators in their place first. They compute
the same by PyTorch's own function where they are left to PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional

__all__ = ["keep", "kept"]

NAMESPACE = "sevenloops_kept"
_library = torch.library.Library(NAMESPACE, "DEF")
kept = getattr(torch.ops, NAMESPACE)


def _interpolate(
    x: Any, size: Any, scale_factor: Any, mode: str, align_corners: Any, recompute_scale_factor: Any, antialias: bool
) -> Any:
    return functional.interpolate(x, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)


def _local_response_norm(x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    return functional.local_response_norm(x, size, alpha, beta, k)


for _name, _schema, _function in (
    (
        "interpolate",
        "(Tensor x, int[]? size, float[]? scale_factor, str mode, bool? align_corners, bool? recompute_scale_factor, "
        "bool antialias) -> Tensor",
        _interpolate,
    ),
    (
        "local_response_norm",
        "(Tensor x, int size, float alpha, float beta, float k) -> Tensor",
        _local_response_norm,
    ),
):
    _library.define(f"{_name}{_schema}")
    _library.impl(_name, _function, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _function, lib=_library)


def _numbers(value: Any, kind: type, rank: int) -> Any:
    return None if value is None else [kind(v) for v in value] if isinstance(value, (tuple, list)) else [kind(value)] * rank


def _interpolate_arguments(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None,
    recompute_scale_factor: Any = None, antialias: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    rank = input.meta["example_value"].dim() - 2
    size, factors = _numbers(size, int, rank), _numbers(scale_factor, float, rank)
    return input, size, factors, mode, align_corners, recompute_scale_factor, antialias


def _norm_arguments(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> tuple[Any, ...]:
    return input, size, alpha, beta, k


#: Function of PyTorch -> the operator that keeps it, and what brings the function's arguments into the operator's order.
KEPT: dict[Any, tuple[Any, Any]] = {
    functional.interpolate: (kept.interpolate.default, _interpolate_arguments),
    functional.local_response_norm: (kept.local_response_norm.default, _norm_arguments),
}


def keep(module: Any) -> Any:
    """A Dynamo graph of inference with the functions of `KEPT` as operators."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in KEPT and _is_plain(node):
            operator, arguments = KEPT[node.target]
            node.args, node.kwargs, node.target = arguments(*node.args, **node.kwargs), {}, operator
    module.recompile()
    return module


def _is_plain(node: Any) -> bool:
    """Whether the input is float32 on the CPU, and all else are numbers."""
    value = (node.args[0] if node.args else node.kwargs["input"]).meta.get("example_value")
    plain = isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"
    return plain and len(node.all_input_nodes) == 1 and "area" not in (*node.args, *node.kwargs.values())
