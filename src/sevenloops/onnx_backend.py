"""sevenloops behind the interface that the `onnx` package defines for backends, which its conformance tests call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep

from .errors import GraphError
from .session import InferenceSession

__all__ = ["Prepared", "SevenLoopsBackend"]

Array = np.ndarray[Any, Any]


class Prepared(BackendRep):
    """A model that is ready to run."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for inputs in the model's order, or by name."""
        names = [value.name for value in self.session.get_inputs()]
        if not isinstance(inputs, dict):
            given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            if len(given) != len(names):
                raise GraphError(f"the inputs are {', '.join(names)}; got {len(given)}")
            inputs = dict(zip(names, given))
        return tuple(self.session.run(None, inputs))


class SevenLoopsBackend(Backend):
    """`prepare(model)`, `run_model(model, inputs)`, `run_node(node, inputs)`; only the CPU.

    Keyword arguments of `prepare` are those of `InferenceSession`. Raises what that raises, and `ValidationError` of onnx.
    """

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """A model ready to run."""
        super().prepare(model, device, **kwargs)
        return Prepared(InferenceSession(model.SerializeToString(), **kwargs))

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of one node; `opset_version` says which opset it is of."""
        from onnx.defs import onnx_opset_version

        opset = kwargs.pop("opset_version", onnx_opset_version())
        arrays = [np.asarray(value) for value in inputs]
        names = [name for name in node.input if name]
        element = helper.np_dtype_to_tensor_dtype
        infos = [helper.make_tensor_value_info(name, element(a.dtype), a.shape) for name, a in zip(names, arrays)]
        made = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        return Prepared(InferenceSession(model.SerializeToString(), **kwargs)).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a device is the CPU."""
        return device.split(":")[0] == "CPU"
