"""Problems as they are typed: descriptors, quoted or not, and short forms of matrix products."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..descriptor import parse_problem
from ..errors import ProblemError
from ..problem import ConvProblem, GemmProblem, Problem

__all__ = [
    "any_problems", "conv_problems", "gemm_problems", "is_model", "named_shapes", "one_problem", "tunable_problems",
]  # fmt: skip

_SHORT = re.compile(r"(\d+)(?:x(\d+)x(\d+))?")


def conv_problems(words: Sequence[str]) -> list[ConvProblem]:
    """Descriptors of convolutions; words without a space among them are one unquoted descriptor."""
    texts = words if any(" " in word for word in words) else [" ".join(words)]
    problems = []
    for text in texts if words else []:
        problem = parse_problem(text)
        if not isinstance(problem, ConvProblem):
            raise ProblemError(f"{text!r} is a matrix product; use `sevenloops bench gemm`")
        problems.append(problem)
    return problems


def gemm_problems(words: Sequence[str]) -> list[GemmProblem]:
    """`512` (square), `512x1024x256` (M x N x K), or descriptors (`gemm m512 n512 k512`, quoted or not)."""
    if words and words[0] == "gemm":
        words = [" ".join(words)]
    problems = []
    for word in words:
        short = _SHORT.fullmatch(word)
        if short:
            m, n, k = (int(size or short[1]) for size in short.groups())
            problem: Problem = GemmProblem(m, n, k)
        elif " " in word:
            problem = parse_problem(word)
        else:
            raise ProblemError(f"cannot read {word!r}: a product is 512, 512x1024x256 (MxNxK) or 'gemm m512 n512 k512'")
        if not isinstance(problem, GemmProblem):
            raise ProblemError(f"{word!r} is a convolution; use `sevenloops bench conv`")
        problems.append(problem)
    return problems


def any_problems(words: Sequence[str]) -> list[Problem]:
    """Descriptors of either kind; words without a space among them are one unquoted descriptor."""
    texts = words if any(" " in word for word in words) else [" ".join(words)]
    return [parse_problem(text) for text in texts] if words else []


def one_problem(words: Sequence[str]) -> Problem:
    """A descriptor, quoted or not, or the short form of a matrix product."""
    if len(words) == 1 and _SHORT.fullmatch(words[0]):
        return gemm_problems(words)[0]
    return parse_problem(" ".join(words))


def named_shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`input=1x3x224x224`, of several inputs."""
    found = {}
    for word in words:
        name, _, sizes = word.rpartition("=")
        if not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise ProblemError(f"cannot read {word!r}: the size of an input is NAME=1x3x224x224")
        found[name] = tuple(map(int, sizes.split("x")))
    return found


def is_model(words: Sequence[str]) -> bool:
    """Whether what was typed is a network (one word: a name of the zoo, or a file), not descriptors."""
    from ..classify import is_file
    from ..models import known

    return len(words) == 1 and (known(words[0]) or is_file(words[0]))


def tunable_problems(words: Sequence[str], batch: int, shapes: Sequence[str]) -> list[Problem]:
    """The layers of a network (one word: a name of the zoo, or a file), else descriptors."""
    from ..analysis.layers import problems
    from ..bench.network_bench import case
    from ..classify import load_graph

    if is_model(words):
        network = case(words[0], load_graph(words[0]), batch, named_shapes(shapes))
        return problems(network.graph, network.sizes)
    return any_problems(words)
