"""The reference evaluator of the `onnx` package, within limits: it counts steps and bytes of what runs inside an operator.

Loops, branches and operators that are defined as functions have bodies, which the evaluator runs node by node. Each node
of a body is a step; what it makes, and what loops collect, counts as memory until the body has run (see `limits`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dtypes import ELEMENTS
from .ir import Node
from .limits import check_types, count_step, current
from .operands import NotKnown, Operands, Type
from .protos import check_objects

__all__ = ["evaluator_class"]

#: A node of a body that reads fewer bytes is trusted not to make more than the machine has, unless its size is a value.
SMALL = 2**16
#: Operators whose sizes are values that they read, or attributes.
SIZED_BY_VALUES = """
    BlackmanWindow CenterCropPad Col2Im ConstantOfShape Expand EyeLike HammingWindow HannWindow OneHot Pad RandomNormal
    RandomUniform Range Resize Tile Upsample
"""


@functools.lru_cache(maxsize=1)
def evaluator_class() -> Any:
    """A class as `onnx.reference.ReferenceEvaluator`; evaluators of bodies are of it too."""
    from onnx.reference import ReferenceEvaluator

    class Evaluator(ReferenceEvaluator):
        collected = 0  # outputs of a body, counted from the last, that its loop collects

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"new_ops": [_loop_class()], **kwargs})
            bodies = [(o.onnx_node, b) for o in self.rt_nodes_ for b in vars(o).values() if isinstance(b, Evaluator)]
            for owner, body in bodies:
                body.collected = _collected(owner, body)
                for operator in body.rt_nodes_:
                    operator.run = functools.partial(_run, operator.run, operator.onnx_node, body.opsets)

        def run(self, *args: Any, **kwargs: Any) -> Any:
            limits = current()
            before = limits.held
            results: Any = super().run(*args, **kwargs)
            last = results[len(results) - self.collected :]
            limits.held = before + _bytes(last)
            return results

    return Evaluator


@functools.lru_cache(maxsize=1)
def _loop_class() -> Any:
    """Loop as it is defined. That of `onnx` takes no turn where the condition is left out, and joins what it collects along
    the first axis of the elements, where a new axis is due."""
    from onnx.reference.ops.op_loop import Loop as Base

    class Loop(Base):
        op_domain = ""

        def _run(
            self: Any, M: Any, cond: Any = None, *carried: Any, context: Any = None, body: Any = None, **more: Any
        ) -> Any:
            names, collected = self.body.input_names, [list[Any]() for _ in range(self.K)]
            turn, goes_on = 0, cond is None or bool(cond)
            while goes_on and (M is None or turn < M):
                given = dict(zip(names, (np.array(turn, np.int64), np.array(True), *carried)))
                goes_on, *made = self._run_body({**(context or {}), **given}, **more)
                carried = tuple(made[: self.N])
                for values, value in zip(collected, made[self.N :]):
                    values.append(value)
                turn += 1
            types = self.body.output_types_[1 + self.N :]
            return (*carried, *(np.stack(v) if v else _none_of(type_) for v, type_ in zip(collected, types)))

    return Loop


def _none_of(proto: Any) -> Any:
    """What a loop without a turn collects, by the declared type of an element; unknown sizes are 0."""
    tensor = proto.tensor_type
    return np.zeros((0, *(dim.dim_value for dim in tensor.shape.dim)), ELEMENTS.get(tensor.elem_type, "float32"))


def _collected(proto: Any, body: Any) -> int:
    """How many outputs of the body of a Loop or Scan are stacked; none of other bodies."""
    if proto.op_type == "Loop":
        return max(0, len(body.output_names) - max(0, len(body.input_names) - 2) - 1)
    if proto.op_type != "Scan":
        return 0
    scanned = next((attribute.i for attribute in proto.attribute if attribute.name == "num_scan_inputs"), 0)
    return max(0, len(body.output_names) - (len(body.input_names) - scanned))


def _run(run: Callable[..., Any], proto: Any, opsets: dict[str, int], *arrays: Any, **kwargs: Any) -> Any:
    """One node of a body: checked before it runs."""
    limits = current()
    node = Node(proto.op_type, tuple(proto.input), tuple(proto.output), name=proto.name, domain=proto.domain)
    count_step(node)
    check_objects(node.replace(opset=opsets.get(proto.domain, 1)), arrays)
    known = [array if isinstance(array, np.ndarray) else None for array in arrays]
    if proto.op_type in SIZED_BY_VALUES.split() or sum(array.nbytes for array in known if array is not None) > SMALL:
        _check(node.replace(proto=proto.SerializeToString(), opset=opsets.get(proto.domain, 1)), known)
    before = limits.held
    results = run(*arrays, **kwargs)
    limits.held = before + _bytes(results)
    return results


def _check(node: Node, arrays: Sequence[Any]) -> None:
    from .fallback import infer_types

    types = [None if array is None else Type(array.shape, array.dtype.name) for array in arrays]
    try:
        check_types(node, infer_types(Operands(node, types, arrays)), current().held)
    except NotKnown:
        return


def _bytes(results: Any) -> int:
    """The bytes that results own; views own none."""
    return sum(value.nbytes for value in results if isinstance(value, np.ndarray) and value.base is None)
