"""PyTorch as a peer: the functional call, and oneDNN's fused operator on prepacked weights (what inductor emits)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..inputs import Inputs
from ..problem import ConvProblem, GemmProblem, Problem
from .engines import Prepared, fastest
from .shift_roads import depthwise_road, slices_road

__all__ = ["image_tensor", "prepare", "weight_tensor"]

#: the names that oneDNN's fused operators know
FUSED = {"none": "none", "relu": "relu", "clip": "hardtanh", "sigmoid": "sigmoid", "silu": "swish"}


def prepare(problem: Problem, inputs: Inputs, threads: int, *, channels_last: bool) -> Prepared:
    """Build the problem in PyTorch under `inference_mode`; raises `Unsupported` with the reason where it cannot."""
    import torch

    torch.set_num_threads(threads)
    torch.inference_mode(True).__enter__()  # for the rest of this process
    if isinstance(problem, GemmProblem):
        return fastest({"functional": lambda: _gemm(problem, inputs), "prepacked": lambda: _gemm_packed(problem, inputs)})
    if problem.shift:
        return _shifted(problem, inputs, channels_last)
    return fastest(
        {
            "functional": lambda: _conv(problem, inputs, channels_last),
            "prepacked": lambda: _conv_packed(problem, inputs, channels_last),
        }
    )


def _holding(step: Callable[[], Any], problem: Problem) -> Prepared:
    """Keep the last result, and give it back channels last."""
    last: list[Any] = [None]

    def run() -> None:
        last[0] = step()

    def output() -> Any:
        y = last[0].numpy()
        return np.moveaxis(y, 1, -1) if isinstance(problem, ConvProblem) else y

    return Prepared(run, output)


def _activation(problem: Problem) -> Callable[[Any], Any]:
    """In place where PyTorch can, as a model in inference mode would have it."""
    import torch.nn.functional as functional

    params = problem.epilogue.params
    table: dict[str, Callable[[Any], Any]] = {
        "none": lambda v: v,
        "relu": lambda v: v.relu_(),
        "clip": lambda v: v.clamp_(*params),
        "leaky_relu": lambda v: functional.leaky_relu_(v, *params),
        "hard_swish": lambda v: functional.hardswish(v, inplace=True),
        "sigmoid": lambda v: v.sigmoid_(),
        "silu": lambda v: functional.silu(v, inplace=True),
    }
    return table[problem.epilogue.activation]


def _epilogue(problem: Problem, residual: Any) -> Callable[[Any], Any]:
    activate = _activation(problem)
    if problem.epilogue.residual == "before":
        return lambda v: activate(v.add_(residual))
    if problem.epilogue.residual == "after":
        return lambda v: activate(v).add_(residual)
    return activate


def image_tensor(array: np.ndarray[Any, Any], channels_last: bool) -> Any:
    """An NHWC array as a tensor of logical shape NCHW, stored channels last or channels first."""
    import torch

    tensor = torch.from_numpy(array).movedim(-1, 1)
    return tensor if channels_last and tensor.dim() > 3 else tensor.contiguous()


def weight_tensor(array: np.ndarray[Any, Any], channels_last: bool) -> Any:
    """Weights in PyTorch's order as a tensor, stored channels last or as they are."""
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    tensor = torch.from_numpy(array)
    if channels_last and tensor.dim() in formats:
        return tensor.contiguous(memory_format=formats[tensor.dim()])
    return tensor


def _optional(array: np.ndarray[Any, Any] | None) -> Any:
    import torch

    return None if array is None else torch.from_numpy(array)


def _conv(problem: ConvProblem, inputs: Inputs, channels_last: bool) -> Prepared:
    import torch.nn.functional as functional

    x, w, bias = image_tensor(inputs.x, channels_last), weight_tensor(inputs.w, channels_last), _optional(inputs.bias)
    residual = None if inputs.residual is None else image_tensor(inputs.residual, channels_last)
    finish = _epilogue(problem, residual)
    rank, stride, dilation, groups = problem.rank, problem.stride, problem.dilation, problem.groups
    padding = [before for before, _ in problem.padding]
    even = all(before == after for before, after in problem.padding)
    if problem.transposed:
        if not even:
            raise Unsupported("PyTorch's transposed convolution takes equal padding on both sides only")
        adjoint = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
        extra = problem.output_padding
        return _holding(lambda: finish(adjoint(x, w, bias, stride, padding, extra, groups, dilation)), problem)
    conv: Callable[..., Any] = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    if even:
        return _holding(lambda: finish(conv(x, w, bias, stride, padding, dilation, groups)), problem)
    sides = [side for pair in reversed(problem.padding) for side in pair]
    return _holding(lambda: finish(conv(functional.pad(x, sides), w, bias, stride, 0, dilation, groups)), problem)


def _conv_packed(problem: ConvProblem, inputs: Inputs, channels_last: bool) -> Prepared:
    import torch

    epilogue = problem.epilogue
    if problem.rank != 2 or epilogue.residual or epilogue.activation not in FUSED:
        raise NotImplementedError("no prepacked form")
    if any(before != after for before, after in problem.padding):
        raise NotImplementedError("no prepacked form with uneven padding")
    x, bias = image_tensor(inputs.x, channels_last), _optional(inputs.bias)
    stride, dilation, padding = list(problem.stride), list(problem.dilation), [before for before, _ in problem.padding]
    plain, groups = weight_tensor(inputs.w, channels_last).to_mkldnn(), problem.groups
    name, numbers, operators = FUSED[epilogue.activation], list(epilogue.params), torch.ops.mkldnn
    if problem.transposed:
        extra = list(problem.output_padding)
        reorder_transposed: Any = operators._reorder_convolution_transpose_weight
        w = reorder_transposed(plain, padding, extra, stride, dilation, groups, list(x.shape))
        adjoint: Any = operators._convolution_transpose_pointwise
        last = (groups, name, numbers, "")
        return _holding(lambda: adjoint(x, w, bias, padding, extra, stride, dilation, *last), problem)
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    w = reorder(plain, padding, stride, dilation, groups, list(x.shape))
    fused: Any = operators._convolution_pointwise
    return _holding(lambda: fused(x, w, bias, padding, stride, dilation, groups, name, numbers, ""), problem)


def _shifted(problem: ConvProblem, inputs: Inputs, channels_last: bool) -> Prepared:
    """Both roads, each with the functional convolution and with prepacked weights."""
    if problem.rank != 2:
        raise Unsupported("shifts are measured with two axes only")
    convs = {"functional": _functional_step, "prepacked": _packed_step}
    roads = {"depthwise": _depthwise_road, "slices": _slices_road}
    build = lambda road, conv: lambda: _holding(road(problem, inputs, channels_last, conv), problem)  # noqa: E731
    return fastest({f"{r}, {c}": build(roads[r], convs[c]) for r in roads for c in convs})


Step = Callable[[Any], Any]
MakeStep = Callable[..., Step]


def _functional_step(x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, p: Any) -> Step:
    import torch.nn.functional as functional

    finish = _epilogue(p, None) if p else lambda v: v
    return lambda v: finish(functional.conv2d(v, w, bias, stride, padding, dilation, groups))


def _packed_step(x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, p: Any) -> Step:
    import torch

    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed = reorder(w.to_mkldnn(), padding, stride, dilation, groups, list(x.shape))
    name, numbers = (FUSED[p.epilogue.activation], list(p.epilogue.params)) if p else ("none", [])
    fused = torch.ops.mkldnn._convolution_pointwise
    return lambda v: fused(v, packed, bias, padding, stride, dilation, groups, name, numbers, "")


def _with_residual(problem: ConvProblem) -> None:
    if problem.epilogue.residual:
        raise Unsupported("shifts are measured without a residual")


def _depthwise_road(problem: ConvProblem, inputs: Inputs, channels_last: bool, make: MakeStep) -> Callable[[], Any]:
    _with_residual(problem)
    road, x = depthwise_road(problem), image_tensor(inputs.x, channels_last)
    kernel = weight_tensor(road.weight, channels_last)
    move = make(x, kernel, None, list(problem.stride), road.padding, road.dilation, problem.in_channels, None)
    w, bias = weight_tensor(inputs.w, channels_last), _optional(inputs.bias)
    mix = make(move(x), w, bias, [1, 1], [0, 0], [1, 1], 1, problem)
    return lambda: mix(move(x))


def _slices_road(problem: ConvProblem, inputs: Inputs, channels_last: bool, make: MakeStep) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as functional

    _with_residual(problem)
    road, x = slices_road(problem), image_tensor(inputs.x, channels_last)
    sides = [side for pair in reversed(road.padding) for side in pair]
    cuts = []
    for (first, end, step), start in road.slices:
        axes = [slice(a, a + size, s) for a, size, s in zip(start, problem.in_size, problem.stride)]
        cuts.append((slice(None), slice(first, end, step), *axes))

    def move() -> Any:
        padded = functional.pad(x, sides)
        return torch.cat([padded[cut] for cut in cuts], 1)

    w = weight_tensor(np.ascontiguousarray(inputs.w[:, road.order]), channels_last)
    mix = make(move(), w, _optional(inputs.bias), [1, 1], [0, 0], [1, 1], 1, problem)
    return lambda: mix(move())


def _gemm(problem: GemmProblem, inputs: Inputs) -> Prepared:
    import torch
    import torch.nn.functional as functional

    a, b, bias, c = (_optional(array) for array in (inputs.x, inputs.w, inputs.bias, inputs.c))
    finish = _epilogue(problem, _optional(inputs.residual))
    alpha, beta = problem.alpha, problem.beta
    a = a.T if problem.trans_a else a
    if alpha == 1 and c is None and bias is None:
        b, out = b.T if problem.trans_b else b, torch.empty(problem.y_shape, dtype=a.dtype)
        return _holding(lambda: finish(torch.mm(a, b, out=out)), problem)
    if alpha == 1 and c is None:
        w = b if problem.trans_b else b.T
        return _holding(lambda: finish(functional.linear(a, w, bias)), problem)
    b = b.T if problem.trans_b else b
    added = torch.zeros(1, dtype=a.dtype) if c is None else c

    def step() -> Any:
        v = torch.addmm(added, a, b, alpha=alpha, beta=beta)
        return finish(v if bias is None else v.add_(bias))

    return _holding(step, problem)


def _gemm_packed(problem: GemmProblem, inputs: Inputs) -> Prepared:
    import torch

    epilogue = problem.epilogue
    plain = problem.alpha == 1 and problem.beta == 0 and not problem.trans_a and problem.dtype == "float32"
    if not plain or epilogue.residual or epilogue.activation not in FUSED:
        raise NotImplementedError("no prepacked form")
    a, b, bias = _optional(inputs.x), _optional(inputs.w), _optional(inputs.bias)
    mkldnn: Any = torch.ops.mkldnn
    w = mkldnn._reorder_linear_weight((b if problem.trans_b else b.T).contiguous(), problem.m)
    fused, name, numbers = mkldnn._linear_pointwise, FUSED[epilogue.activation], list(epilogue.params)
    return _holding(lambda: fused(a, w, bias, name, numbers, ""), problem)
