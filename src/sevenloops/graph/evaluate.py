"""The oracle: a graph computed in plain NumPy, with everything that passes make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..epilogue import Epilogue
from ..errors import GraphError
from ..reference import apply_epilogue
from .dense import DENSE, shifted
from .dtypes import element_of, name_of
from .folding import FOLDS
from .ir import OWN, Graph, Node
from .operands import complain, naming
from .protos import check_objects

__all__ = ["FUSED", "MEANINGS", "compute", "evaluate", "expression_value"]

Array = np.ndarray[Any, Any]
#: Operators of ONNX in NumPy.
MEANINGS = {**FOLDS, **DENSE}
#: Attributes that passes add to operators of ONNX.
FUSED = ("activation", "activation_params", "residual", "shift", "phase", "frames")


def evaluate(graph: Graph, feeds: Mapping[str, Any], dtype: Any = np.float64, every: bool = False) -> dict[str, Any]:
    """The outputs of a graph by name (with `every`, all values), from its inputs by name.

    What is float32 in the graph is computed in `dtype`, by default float64; integers and other dtypes stay. Operators
    without code here go to the reference evaluator of the `onnx` package, those that kept their `proto` as float32.
    Raises `GraphError` for inputs that are missing or unknown, and, naming the node, for what cannot be computed.
    """
    names = {value.name for value in graph.inputs}
    if names != set(feeds):
        raise GraphError(f"the inputs are {', '.join(sorted(names))}; got {', '.join(sorted(feeds)) or 'none'}")
    dtype = np.dtype(dtype)
    values = {name: _as(array, dtype) for name, array in (*graph.constants.items(), *feeds.items())}
    readers = {name: len(nodes) for name, nodes in graph.consumers().items()}
    for node in graph.nodes:
        arrays: list[Any] = [values[name] if name else None for name in node.inputs]
        if node.proto is not None:  # whose body may have constants of its own
            arrays = [a.astype(np.float32) if _narrow(graph, name, a) else a for name, a in zip(node.inputs, arrays)]
        results = compute(_of_dtype(node, dtype), arrays)
        values.update({name: _as(result, dtype) for name, result in zip(node.outputs, results) if name})
        for name in dict.fromkeys(node.inputs):
            readers[name] = readers.get(name, 0) - 1
            if not every and readers[name] == 0 and name not in graph.outputs:
                del values[name]
    return values if every else {name: values[name] for name in graph.outputs}


def _narrow(graph: Graph, name: str, value: Any) -> bool:
    """Whether a value has stood for float32."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and graph.type_of(name).dtype == "float32"


def _as(value: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(value, (list, dict)) or value is None:
        return value
    array = np.asarray(value)
    return array.astype(dtype) if array.dtype == np.float32 else array


def _of_dtype(node: Node, dtype: np.dtype[Any]) -> Node:
    """A Cast to float32 goes to the dtype that stands for it."""
    if node.op == "Cast" and not node.domain and node.proto is None and name_of(node.get("to")) == "float32":
        return node.with_attributes(to=element_of(dtype.name))
    return node


def compute(node: Node, arrays: Sequence[Any]) -> list[Any]:
    """What one node makes of its inputs (None where one is left out), whatever its domain, fused attributes included.

    Raises `GraphError` naming the node for what cannot be computed, and `KernelError` where memory is too small.
    """
    with naming(node), np.errstate(all="ignore"):
        check_objects(node, arrays)
        return _compute(node, arrays)


def _compute(node: Node, arrays: Sequence[Any]) -> list[Any]:
    if node.proto is not None:
        return _by_onnx(node, arrays)
    if any(name in node.attributes for name in FUSED) and not node.domain:
        return [_fused(node, list(arrays))]
    if node.domain == OWN:
        if node.op == "Elementwise":
            return [np.asarray(expression_value(node.get("expression"), arrays))]
        return shifted(node, arrays) if node.op == "Shift" else complain(node, "there is no such operator")
    function = None if node.domain else MEANINGS.get(node.op)
    plain = len([name for name in node.outputs if name]) == 1 or node.op == "Split"
    if function is None or not plain or any(a is not None and not isinstance(a, np.ndarray) for a in arrays):
        return _by_onnx(node, arrays)
    return list(function(node, arrays))


def _by_onnx(node: Node, arrays: Sequence[Any]) -> list[Any]:
    from .fallback import by_onnx

    return by_onnx(node, arrays)


def _fused(node: Node, arrays: list[Any]) -> Array:
    """A layer with shift, activation and residual in it: what the separate operators would give."""
    attributes = {name: value for name, value in node.attributes.items() if name not in FUSED}
    residual = arrays[-1] if node.get("residual") else None
    arrays = arrays[:-1] if node.get("residual") else arrays
    while arrays[-1] is None:
        arrays.pop()
    if node.get("shift"):
        moved = dict(zip(("kernel", "dilation", "convention", "phases"), node.get("shift")))
        moved["frames"] = node.get("frames", 1)
        arrays[0] = shifted(Node("Shift", (), (), moved, domain=OWN), arrays[:1])[0]
    if node.get("phase"):
        arrays[0] = arrays[0][(slice(None), slice(None), *(slice(first, None) for first in node.get("phase")))]
    inputs = tuple(f"{at}" if array is not None else "" for at, array in enumerate(arrays))
    (y, *_) = compute(Node(node.op, inputs, node.outputs[:1], attributes, node.name), arrays)
    where = node.get("residual")
    epilogue = Epilogue(False, node.get("activation", "none"), tuple(node.get("activation_params", ())), where)
    extra = None if residual is None else np.broadcast_to(residual, y.shape)
    return apply_epilogue(epilogue, y, None, extra).astype(y.dtype)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.zeros((), x.dtype))


#: What stands in expressions: name -> (function of the operands and then the parameters, number of operands).
OPERATORS: dict[str, tuple[Callable[..., Any], int]] = {
    "add": (np.add, 2),
    "sub": (np.subtract, 2),
    "mul": (np.multiply, 2),
    "div": (np.divide, 2),
    "pow": (np.power, 2),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "prelu": (lambda x, slope: np.where(x < 0, slope * x, x), 2),
    "neg": (np.negative, 1),
    "abs": (np.abs, 1),
    "reciprocal": (lambda x: 1 / x, 1),
    "sqrt": (np.sqrt, 1),
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "relu": (lambda x: np.maximum(x, 0), 1),
    "sigmoid": (_sigmoid, 1),
    "tanh": (np.tanh, 1),
    "erf": (_erf, 1),
    "floor": (np.floor, 1),
    "ceil": (np.ceil, 1),
    "round": (np.rint, 1),
    "sign": (np.sign, 1),
    "sin": (np.sin, 1),
    "cos": (np.cos, 1),
    "softplus": (_softplus, 1),
    "softsign": (lambda x: x / (1 + np.abs(x)), 1),
    "mish": (lambda x: x * np.tanh(_softplus(x)), 1),
    "gelu": (lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, 1),
    "gelu_tanh": (lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2, 1),
    "hard_swish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 1),
    "silu": (lambda x: x * _sigmoid(x), 1),
    "leaky_relu": (lambda x, a: np.where(x < 0, a * x, x), 1),
    "elu": (lambda x, a: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1),
    "celu": (lambda x, a: np.maximum(x, 0) + np.minimum(0, a * np.expm1(x / a)), 1),
    "selu": (lambda x, a, g: g * np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1),
    "hard_sigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 1),
    "clip": (lambda x, low, high: np.minimum(np.maximum(x, low), high), 1),
    "thresholded_relu": (lambda x, a: np.where(x > a, x, 0), 1),
}


@np.errstate(all="ignore")
def expression_value(expression: Any, inputs: Sequence[Array]) -> Array:
    """The value of an `Elementwise` expression. Raises `GraphError` for one that has no meaning."""
    dtype = np.result_type(*inputs) if inputs else np.dtype(np.float64)
    if isinstance(expression, float):
        return np.asarray(expression, dtype)
    if isinstance(expression, int):
        return inputs[expression]
    name, *rest = expression
    if name not in OPERATORS:
        raise GraphError(f"there is no {name!r} in expressions")
    function, count = OPERATORS[name]
    operands = [expression_value(part, inputs) for part in rest[:count]]
    return np.asarray(function(*operands, *rest[count:])).astype(dtype, copy=False)
