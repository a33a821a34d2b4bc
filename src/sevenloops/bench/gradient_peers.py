"""One layer in one direction in each engine, as a training step of its users has it: new memory for every result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..problem import ConvProblem, GemmProblem
from .engines import Prepared, Settings, fastest
from .gradients import GradientWork, make_operands
from .shift_roads import depthwise_road, slices_road
from .torch_peer import image_tensor, weight_tensor

__all__ = ["prepare_gradient"]

Array = np.ndarray[Any, Any]
#: A layer of `x` and `w`, tensors that autograd follows.
Forward = Callable[[Any, Any], Any]


def prepare_gradient(engine: str, work: GradientWork, seed: int, settings: Settings) -> Prepared:
    """Build one layer in one direction; raises `Unsupported` for engines that have no gradients."""
    if engine not in PREPARE:
        raise Unsupported(f"{engine} computes no gradients; {', '.join(PREPARE)} do")
    return PREPARE[engine](work, seed, settings)


def _held(step: Callable[[], Any], output: Callable[[Any], Array] = np.asarray, **prepared: Any) -> Prepared:
    """Keeps the last result alive until the next one is there."""
    last: list[Any] = [None]

    def run() -> None:
        last[0] = step()

    return Prepared(run, lambda: output(last[0]), **prepared)


def _sevenloops(work: GradientWork, seed: int, settings: Settings) -> Prepared:
    """What `sevenloops.torch` calls for a tensor that is channels last."""
    from ..compile import compile
    from ..functional_gradients import InputGradient, WeightsGradient

    conv, options = make_operands(work.conv, seed), {"threads": settings.threads, "algorithm": settings.algorithm}
    if isinstance(work.problem, GemmProblem):
        product, a, b = _product(work.problem, work.direction, conv.x[:, 0], conv.w[..., 0], conv.dy[:, 0])
        kernel = compile(product, weights="varying", **options)  # type: ignore[arg-type]
        step = lambda: kernel.once(a, b)  # noqa: E731
        found: Any = kernel
    elif work.direction == "forward":
        kernel = compile(work.problem, weights="varying", **options)  # type: ignore[arg-type]
        step, found = lambda: kernel.once(conv.x, conv.w), kernel
    elif work.direction == "data":
        found = back = InputGradient(work.problem, **options)  # type: ignore[arg-type]
        step = lambda: back(conv.dy, conv.w)  # noqa: E731
    else:
        found = weights = WeightsGradient(work.problem, **options)  # type: ignore[arg-type]
        step = lambda: weights(conv.x, conv.dy)  # noqa: E731
    details = {"algorithm": found.algorithm, "schedule": repr(found.schedule), "macs_executed": found.macs_executed}
    return _held(step, note=found.algorithm, details=details)


def _product(layer: GemmProblem, direction: str, x: Array, w: Array, dy: Array) -> tuple[GemmProblem, Array, Array]:
    """A fully connected layer's product in a direction, and its operands."""
    m, n, k, dtype = layer.m, layer.n, layer.k, layer.dtype
    x, w, dy = map(np.ascontiguousarray, (x, w, dy))
    if direction == "forward":
        return layer, x, w
    if direction == "data":
        return GemmProblem(m, k, n, dtype=dtype), dy, w
    return GemmProblem(n, k, m, trans_a=True, dtype=dtype), dy, x


def _torch(work: GradientWork, seed: int, settings: Settings, channels_last: bool = True) -> Prepared:
    """`aten.convolution` and `aten.convolution_backward`, which autograd calls, with the mask of the direction."""
    import torch

    torch.set_num_threads(settings.threads)
    problem, conv = work.problem, make_operands(work.conv, seed)
    if isinstance(problem, GemmProblem):
        x, w, dy = (torch.from_numpy(np.ascontiguousarray(a)) for a in (conv.x[:, 0], conv.w[..., 0], conv.dy[:, 0]))
        product = {"forward": lambda: x @ w.t(), "data": lambda: dy @ w, "weights": lambda: dy.t() @ x}[work.direction]
        return _held(product, lambda y: np.asarray(y.numpy()), note="mm")
    x, dy = (image_tensor(array, channels_last) for array in (conv.x, conv.dy))
    w = weight_tensor(conv.w, channels_last)

    def output(y: Any) -> Array:
        y = y.detach().numpy()
        return y if work.direction == "weights" else np.moveaxis(y, 1, -1)

    if problem.shift is not None:
        roads = {"depthwise": _depthwise(problem), "slices": _slices(problem)}

        def way(forward: Forward) -> Callable[[], Prepared]:
            return lambda: _held(_differentiated(forward, work.direction, x, w, dy), output)

        return fastest({name: way(forward) for name, forward in roads.items()})
    if any(before != after for before, after in problem.padding):
        raise Unsupported("PyTorch's convolutions have the same padding on both sides only")
    padding = [before for before, _ in problem.padding]
    window = (problem.stride, padding, problem.dilation, problem.transposed, problem.output_padding, problem.groups)
    if work.direction == "forward":
        return _held(lambda: torch.ops.aten.convolution(x, w, None, *window), output, note="convolution")
    mask = [work.direction == "data", work.direction == "weights", False]
    at, backward = mask.index(True), torch.ops.aten.convolution_backward
    return _held(lambda: backward(dy, x, w, None, *window, mask)[at], output, note="convolution_backward")


def _torch_nchw(work: GradientWork, seed: int, settings: Settings) -> Prepared:
    return _torch(work, seed, settings, channels_last=False)


def _depthwise(problem: ConvProblem) -> Forward:
    import torch.nn.functional as functional

    road = depthwise_road(problem)
    one_hot = weight_tensor(road.weight, True)

    def forward(x: Any, w: Any) -> Any:
        moved = functional.conv2d(x, one_hot, None, problem.stride, road.padding, road.dilation, problem.in_channels)
        return functional.conv2d(moved, w)

    return forward


def _slices(problem: ConvProblem) -> Forward:
    import torch
    import torch.nn.functional as functional

    road = slices_road(problem)
    sides = [side for pair in reversed(road.padding) for side in pair]
    cuts = []
    for (first, end, step), start in road.slices:
        axes = [slice(a, a + size, s) for a, size, s in zip(start, problem.in_size, problem.stride)]
        cuts.append((slice(None), slice(first, end, step), *axes))

    def forward(x: Any, w: Any) -> Any:
        padded = functional.pad(x, sides)
        return functional.conv2d(torch.cat([padded[cut] for cut in cuts], 1), w[:, road.order])

    return forward


def _differentiated(forward: Forward, direction: str, x: Any, w: Any, dy: Any) -> Callable[[], Any]:
    """By autograd: a gradient takes its part of the backward pass alone, on a graph that was built once."""
    import torch

    if direction == "forward":
        return lambda: forward(x, w)
    wanted = (x if direction == "data" else w).requires_grad_()
    y = forward(x, w)
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)[0]


PREPARE: dict[str, Callable[[GradientWork, int, Settings], Prepared]] = {
    "sevenloops": _sevenloops,
    "torch": _torch,
    "torch-nchw": _torch_nchw,
}
