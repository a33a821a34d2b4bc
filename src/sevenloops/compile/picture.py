"""A convolution or product as matrices, drawn with its own sizes."""

from __future__ import annotations

import math

from ..problem import ConvProblem, GemmProblem, Problem

__all__ = ["gemm_picture"]


def gemm_picture(problem: Problem) -> list[str]:
    """Lines that show the matrix product a problem is, or would be if its patches were written out as columns."""
    if isinstance(problem, GemmProblem):
        return _boxes(problem.m, problem.k, problem.n, ("A", "B", "C"))
    if problem.transposed:
        return _scattered(problem)
    return _lowered(problem)


def _lowered(problem: ConvProblem) -> list[str]:
    """im2col: a row for each output pixel, a column for each tap of each channel."""
    groups = problem.groups
    rows = problem.batch * math.prod(problem.out_size)
    depth = math.prod(problem.kernel) * problem.in_channels // groups
    stored, image = 4 * rows * depth * groups, 4 * math.prod(problem.x_shape)
    taps = " x ".join(map(str, problem.kernel))
    each = f", {groups} times, one for each group" if groups > 1 else ""
    return [
        f"{rows:,} pixels x ({taps} taps x {problem.in_channels // groups} channels = {depth:,}) times {depth:,} x "
        f"{problem.out_channels // groups:,}{each}",
        f"patches written out (im2col) are {stored / 2**20:.2f} MiB, {stored / image:.2f} times the input's "
        f"{image / 2**20:.2f} MiB; direct reads them from the image instead",
        *_boxes(rows, depth, problem.out_channels // groups, ("patches", "weights", "output")),
    ]


def _scattered(problem: ConvProblem) -> list[str]:
    """A transposed convolution: every input pixel times all taps, and the results added up where they overlap."""
    groups, rows = problem.groups, problem.batch * math.prod(problem.in_size)
    width = math.prod(problem.kernel) * problem.out_channels // groups
    return [
        f"{rows:,} pixels of the input x {problem.in_channels // groups} channels times weights for every tap, and the "
        "results added up where they overlap" + (f"; {groups} groups" if groups > 1 else ""),
        *_boxes(rows, problem.in_channels // groups, width, ("input", "weights", "scattered")),
    ]


def _boxes(m: int, k: int, n: int, names: tuple[str, str, str]) -> list[str]:
    """Three matrices side by side: rows on the left, columns above."""
    side = f"{m:,} "
    boxes = [_box(f"{columns:,}", name, 5) for columns, name in ((k, names[0]), (n, names[1]), (n, names[2]))]
    signs = ("", f"  x {k:,} ", "  = ")
    lines = []
    for at in range(6):
        middle = at == 3
        parts = [side if middle else " " * len(side)]
        for sign, box in zip(signs, boxes):
            parts += [sign if middle else " " * len(sign), box[at]]
        lines.append("".join(parts).rstrip())
    return lines


def _box(columns: str, name: str, height: int) -> list[str]:
    width = max(len(columns), len(name)) + 2
    edge = "+" + "-" * width + "+"
    rows = [f"|{name if at == 1 else '':^{width}}|" for at in range(height - 2)]
    return [f" {columns:^{width}} ", edge, *rows, edge]
