"""The test cases of single nodes that come with the `onnx` package."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PARAMETERS", "Case", "node_cases", "with_constants"]

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
#: Inputs that networks have as constants (sizes, axes, bounds), by operator; the cases feed them.
PARAMETERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "Unsqueeze", "Upsample"), (1,)),
    **{f"Reduce{name}": (1,) for name in REDUCTIONS},
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Dropout": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
}


@dataclass(frozen=True)
class Case:
    """A test case of onnx: a model, pairs of inputs and expected outputs, and how exact they are."""

    name: str
    model: Any
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float

    @property
    def operator(self) -> str:
        """The operator that a model of one node (constants aside) is about, else nothing."""
        nodes = [node for node in self.model.graph.node if node.op_type != "Constant"]
        return nodes[0].op_type if len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") else ""


@functools.cache
def node_cases() -> tuple[Case, ...]:
    """Every node case of the installed `onnx`; some seconds."""
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test.loader import load_model_tests

    plain = lambda value: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, on the way to infinities that the cases are about
        cases = load_model_tests(kind="node")
    return tuple(
        Case(c.name, c.model, tuple(([*map(plain, x)], [*map(plain, y)]) for x, y in c.data_sets or ()), c.rtol, c.atol)
        for c in cases
    )


def with_constants(case: Case) -> Case:
    """The case with inputs that are parameters as constants of the model, as networks have them; of its first data only."""
    from onnx import ModelProto, numpy_helper

    (inputs, outputs), model = case.data[0], ModelProto()
    model.CopyFrom(case.model)
    nodes = model.graph.node
    names = {node.input[at] for node in nodes for at in PARAMETERS.get(node.op_type, ()) if at < len(node.input)}
    kept = []
    for info, array in zip(list(model.graph.input), inputs):
        if info.name in names:
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
            model.graph.input.remove(info)
        else:
            kept.append(array)
    return replace(case, model=model, data=((kept, outputs),))
