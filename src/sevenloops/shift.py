"""The shift operator as a value: which channel moves where (Wu et al., Shift, arXiv 1711.08141).

    out[n, o, c] = x[n, o + offset(c), c]        zero where that lies outside

No weights, no arithmetic: each channel is read a few pixels away. A kernel of K positions has K groups of
floor(channels / K) channels, one group a position; position i of an axis of size k moves by `(i - floor(k / 2)) *
dilation`. The channels left over stay where they are. Two conventions say which channel is in which group:

- `contiguous`: group after group, positions in raster order (the paper, section 3.2; Chainer's `shift`);
- `modulo`: channel `c` is in group `c mod K`, raster order again (peterhj/shiftnet_cuda_v2, which ShiftResNet uses).

They differ by a permutation of channels, which the 1x1 convolutions around a shift absorb (section 3.2.1).

In place of a convention and a kernel, the moves may be written out: `8@1x0+8@-1x0` reads the first 8 channels one row
further on, the next 8 one row before, and the others where they are. Networks that shift in time, or along rows and columns
only, do so (TSM, arXiv 1811.08383; ShiftViT, arXiv 2201.10801).

A shift with a stride reads of each channel only the pixels of one phase: channel c at `o * stride + offset(c)`, which is
phase `offset(c) mod stride`. `phases` says that nothing else is stored: the image has one pixel for each `phases` of them
on an axis, the channels are sorted by their phase (raster order, and in a phase as before), and each is the image of its
own phase. Then channel c moves by `floor(offset(c) / phases)`, and the stride is gone.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import ProblemError
from .sizes import as_int, as_tuple

__all__ = ["CONVENTIONS", "Shift", "channel_offsets", "channels_of_groups", "channels_of_phases"]

CONVENTIONS = ("contiguous", "modulo")
#: Pixels that a channel may move at most: beyond every image, so that sums of positions stay within 32 bits.
MAX_REACH = 2**24
_WORD = re.compile(r"shift=(\d+(?:x\d+)*)(?::d(\d+(?:x\d+)*))?(?::p(\d+(?:x\d+)*))?(?::([a-z]+))?")
_MOVE = r"\d+@-?\d+(?:x-?\d+)*"
_MOVES = re.compile(rf"{_MOVE}(?:\+{_MOVE})*")
_WRITTEN = re.compile(r"shift=([^:]*@[^:]*)(?::p(\d+(?:x\d+)*))?")


@dataclass(frozen=True)
class Shift:
    """How channels move: `kernel`, `dilation` and `phases` integers or one an axis, `convention` a name of `CONVENTIONS`.

    In a problem both are full tuples, outermost axis first. `convention` may also be the moves written out; `kernel` and
    `dilation` are ones then. Raises `ProblemError` for a value without meaning.
    """

    kernel: tuple[int, ...] = (3,)
    dilation: tuple[int, ...] = (1,)
    convention: str = "contiguous"
    phases: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in ("kernel", "dilation", "phases"):
            value = getattr(self, name)
            items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
            numbers = tuple(as_int(f"{name} of a shift", item, 1) for item in items)
            object.__setattr__(self, name, numbers)
        reach = max(k // 2 for k in self.kernel) * max(self.dilation)
        if self.convention not in CONVENTIONS:
            if not isinstance(self.convention, str) or not _MOVES.fullmatch(self.convention):
                names = ", ".join(CONVENTIONS)
                raise ProblemError(
                    f"convention must be one of {names}, got {self.convention!r}; moves are written out as 8@1x0+8@-1x0"
                )
            ranks, ones = {len(offset) for _, offset in self.moves}, (1,) * len(self.moves[0][1])
            if len(ranks) > 1 or not all(n for n, _ in self.moves):
                raise ProblemError(f"moves need at least one channel each and as many offsets, got {self.convention!r}")
            object.__setattr__(self, "kernel", ones)
            object.__setattr__(self, "dilation", ones)
            reach = max(abs(by) for _, offset in self.moves for by in offset)
        if reach > MAX_REACH:
            raise ProblemError(f"a shift may move channels by at most {MAX_REACH} pixels, got {reach}")

    @classmethod
    def of_moves(cls, moves: Iterable[tuple[int, tuple[int, ...]]]) -> Shift:
        """The shift of runs of channels, each with its offset on each axis; channels behind them stay."""
        return cls(convention="+".join(f"{n}@{'x'.join(map(str, offset))}" for n, offset in moves))

    @functools.cached_property
    def moves(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Runs of channels with their offsets, where they are written out; empty for a named convention."""
        if self.convention in CONVENTIONS:
            return ()
        runs = (run.split("@") for run in self.convention.split("+"))
        return tuple((int(n), tuple(map(int, offset.split("x")))) for n, offset in runs)

    def of_rank(self, rank: int) -> Shift:
        """The same with full tuples for `rank` axes."""
        if self.moves and len(self.kernel) != rank:
            raise ProblemError(f"each move of a shift needs {rank} offsets here, got {self.convention!r}")
        kernel, dilation, phases = (
            as_tuple(f"{name} of a shift", getattr(self, name), rank, 1) for name in ("kernel", "dilation", "phases")
        )
        return Shift(kernel, dilation, self.convention, phases)

    def word(self) -> str:
        """The word of a problem's descriptor: `shift=3`, `shift=3x5:d2:modulo`, `shift=5:p2`, `shift=8@1x0+8@-1x0`."""
        parts = ["shift=" + (self.convention if self.moves else _short(self.kernel))]
        for letter, numbers in (("d", self.dilation), ("p", self.phases)):
            parts += [letter + _short(numbers)] if set(numbers) != {1} else []
        return ":".join(parts + ([self.convention] if self.convention == "modulo" else []))

    @classmethod
    def from_word(cls, word: str) -> Shift:
        """Read what `word` wrote; raises `ProblemError` for anything else."""
        if written := _WRITTEN.fullmatch(word):
            return cls(phases=tuple(map(int, (written[2] or "1").split("x"))), convention=written[1])
        match = _WORD.fullmatch(word)
        if not match:
            known = "shift=K or shift=KHxKW, then :dD, :pP, :CONVENTION, or its moves, shift=8@1x0+8@-1x0"
            raise ProblemError(f"cannot read {word!r}: a shift is {known}")
        kernel, dilation, phases, convention = match.groups(default="")
        numbers = [tuple(map(int, text.split("x"))) for text in (kernel, dilation or "1", phases or "1")]
        return cls(numbers[0], numbers[1], convention or "contiguous", numbers[2])


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def channels_of_groups(shift: Shift, channels: int) -> list[list[int]]:
    """The channels of each group in raster order, if there are any, and last those that are left over and do not move.

    Moves that are written out are the groups, in their order; raises `ProblemError` where they have too many channels.
    """
    if shift.moves:
        edges = [0, *itertools.accumulate(n for n, _ in shift.moves)]
        if edges[-1] > channels:
            raise ProblemError(f"{shift.word()} moves {edges[-1]} channels of {channels}")
        return [list(range(*edge)) for edge in itertools.pairwise([*edges, channels])]
    groups = math.prod(shift.kernel)
    each = channels // groups
    if not each:
        return [list(range(channels))]
    if shift.convention == "contiguous":
        moved = [list(range(g * each, (g + 1) * each)) for g in range(groups)]
    else:
        moved = [list(range(g, groups * each, groups)) for g in range(groups)]
    return [*moved, list(range(groups * each, channels))]


def channel_offsets(shift: Shift, channels: int) -> list[tuple[int, ...]]:
    """For each channel how far away it is read, `(dy, dx)` for two axes: `out[c, y, x] = in[c, y + dy, x + dx]`."""
    offsets = _offsets(shift, channels)
    if set(shift.phases) == {1}:
        return offsets
    order = itertools.chain(*channels_of_phases(shift, channels).values())
    return [tuple(by // step for by, step in zip(offsets[channel], shift.phases)) for channel in order]


def channels_of_phases(shift: Shift, channels: int) -> dict[tuple[int, ...], list[int]]:
    """The channels that a stride of `shift.phases` reads at each phase, in raster order; phases without any are left out.

    The numbers are those of channels as they are before they are sorted by phase.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for channel, offset in enumerate(_offsets(shift, channels)):
        found.setdefault(tuple(by % step for by, step in zip(offset, shift.phases)), []).append(channel)
    return dict(sorted(found.items()))


def _offsets(shift: Shift, channels: int) -> list[tuple[int, ...]]:
    """How channels move before they are sorted by phase."""
    offsets = [(0,) * len(shift.kernel)] * channels
    *moved, _ = channels_of_groups(shift, channels)
    if not moved:
        return offsets
    places = itertools.product(*map(range, shift.kernel))
    steps = [tuple((i - k // 2) * d for i, k, d in zip(place, shift.kernel, shift.dilation)) for place in places]
    for offset, members in zip([offset for _, offset in shift.moves] or steps, moved):
        for channel in members:
            offsets[channel] = offset
    return offsets


def as_shift(value: Any, rank: int) -> Shift:
    """A shift for problems of `rank` axes; raises `ProblemError` for anything else."""
    if not isinstance(value, Shift):
        raise ProblemError(f"shift must be None or a Shift, got {value!r}")
    return value.of_rank(rank)
