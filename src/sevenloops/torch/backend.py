"""The backend of `torch.compile`: `torch.compile(model, backend="sevenloops")`.

Dynamo's graphs go through AOTAutograd to ATen operators. Graphs of inference become networks like those of an
`InferenceSession`, with packed weights; graphs of training run with our convolutions. What sevenloops does not compute
is left to PyTorch; `explain_backend` lists it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.partitioners import default_partition
from torch._guards import TracingContext

from ..errors import FallbackWarning
from .backend_kept import keep
from .backend_parts import cut
from .backend_report import BackendReport, GraphReport
from .backend_sizes import BySize, has_open_sizes
from .backend_training import replace_layers

__all__ = ["backend", "explain_backend"]

log = logging.getLogger("sevenloops.torch")
NAME = "sevenloops"
Tell = Callable[[GraphReport], None]
#: Options that go to `InferenceSession`.
SESSION_OPTIONS = ("accuracy", "threads")
OPTIONS = (*SESSION_OPTIONS, "compare")


def backend(module: Any, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any) -> Any:
    """Compile a graph of Dynamo; for `torch.compile(model, backend=...)`.

    `options` may have, for inference, `accuracy` and `threads`, as `sevenloops.InferenceSession` takes them. For training
    it may have `compare`: by default the convolutions of a new graph are timed with our kernels and with PyTorch's, and the
    faster one is taken; with False, all that can be are ours.
    """
    return _compiled(module, inputs, options or {}, _warn)


def _compiled(module: Any, inputs: Sequence[Any], options: Mapping[str, Any], tell: Tell) -> Any:
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r}; the options are {', '.join(OPTIONS)}")
    if has_open_sizes(inputs):
        return BySize(module, lambda module, inputs: _compiled(module, inputs, options, tell))

    def inference(module: Any, inputs: Sequence[Any]) -> Any:
        context = TracingContext.try_get()
        static = context.fw_metadata.static_input_indices if context and context.fw_metadata else ()
        whole, parts, leftovers = cut(module, static, {name: options[name] for name in SESSION_OPTIONS if name in options})
        tell(GraphReport("inference", _count(module), len(parts), tuple(leftovers)))
        return make_boxed_func(whole.forward)

    def training(kind: str) -> Callable[[Any, Sequence[Any]], Any]:
        def compiled(module: Any, inputs: Sequence[Any]) -> Any:
            context = TracingContext.try_get()
            outputs = context.fw_metadata.num_forward if kind == "forward" and context and context.fw_metadata else 0
            replaced = replace_layers(module, outputs, options.get("compare", True))
            tell(GraphReport(kind, _count(module), replaced.layers, replaced.leftovers))
            return make_boxed_func(module.forward)

        return compiled

    if not torch.is_grad_enabled():
        module = keep(module)
    whole = aot_autograd(
        fw_compiler=training("forward"), bw_compiler=training("backward"), inference_compiler=inference,
        partition_fn=default_partition,
    )  # fmt: skip
    return whole(module, inputs)


def _count(module: Any) -> int:
    return sum(isinstance(node.meta.get("val"), torch.Tensor) for node in module.graph.nodes if node.op == "call_function")


def _warn(report: GraphReport) -> None:
    log.info("%s", report)
    if report.leftovers:
        named = "; ".join(dict.fromkeys(f"{left.op}: {left.reason}" for left in report.leftovers))
        warnings.warn(f"left to PyTorch: {named}", FallbackWarning, stacklevel=2)


def explain_backend(model: Callable[..., Any], *args: Any, **kwargs: Any) -> BackendReport:
    """What `torch.compile(model, backend="sevenloops")` makes of a call: the model runs twice, compiled anew.

    In the grad mode of the caller: under `torch.no_grad()` it is inference; else the report has forward graphs alone, as
    nothing asks for gradients. What has been compiled in this process before is forgotten (`torch._dynamo.reset`).
    """
    graphs: list[GraphReport] = []

    def telling(module: Any, inputs: Sequence[Any]) -> Any:
        return _compiled(module, inputs, {}, graphs.append)

    explained = torch._dynamo.explain(model)(*args, **kwargs)
    torch._dynamo.reset()
    try:
        torch.compile(model, backend=telling)(*args, **kwargs)
    finally:
        torch._dynamo.reset()
    return BackendReport(tuple(map(_broken, explained.break_reasons)), tuple(graphs))


def _broken(found: Any) -> str:
    """Why and where Dynamo broke a graph."""
    reason, *_ = str(found.reason).splitlines() or [""]
    return f"{reason}, {found.user_stack[-1].filename}:{found.user_stack[-1].lineno}" if found.user_stack else reason


def _register() -> None:
    """Make the name known to PyTorch where the installed package has no entry point for it, which PyTorch would find."""
    if NAME not in entry_points(group="torch_dynamo_backends").names:
        torch._dynamo.register_backend(compiler_fn=backend, name=NAME)


_register()
