"""A program: the kernel calls of a network for exact sizes as pure data, and an executable, the same bound to memory.

Nothing in a program is an address or an object of this process: kernels are named, and every argument lies at an offset of
a region: the arena, an array of the caller, or a constant. So it can be printed, compared, written to a file and read in
another process (`kept`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import address, aligned_empty
from ..compile.runtime import LoadedKernel, step_list

__all__ = ["Argument", "Call", "Executable", "Port", "Program"]

Array = np.ndarray[Any, Any]
ARENA, CONSTANT, INPUT, OUTPUT = "arena", "constant", "input", "output"


class Argument(NamedTuple):
    """Where an operand of a call begins: `offset` bytes into `region` (`ARENA`, or number `number` of the others)."""

    region: str
    number: int
    offset: int


class Call(NamedTuple):
    """A call of a kernel by its name; with `packs`, of the function that packs its weights."""

    kernel: str
    packs: bool
    arguments: tuple[Argument, ...]


class Port(NamedTuple):
    """An input or output: dense in C order."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Program:
    """See the module. `constants` are the sizes of the constants in bytes, in the order of their numbers."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_bytes: int
    constants: tuple[int, ...]
    calls: tuple[Call, ...]

    @property
    def run_bytes(self) -> int:
        """What a run needs beside constants and inputs."""
        return self.arena_bytes + sum(port.n_bytes for port in self.outputs)

    def to_json(self) -> Any:
        """Lists and dictionaries of numbers and words, for `from_json`; kernels are numbered."""
        numbers = {name: at for at, name in enumerate(dict.fromkeys(call.kernel for call in self.calls))}
        regions = [ARENA, CONSTANT, INPUT, OUTPUT]
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "arena_bytes": self.arena_bytes,
            "constants": self.constants,
            "kernels": list(numbers),
            "calls": [
                [numbers[call.kernel], call.packs, [(regions.index(a.region), a.number, a.offset) for a in call.arguments]]
                for call in self.calls
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Program:
        """The inverse of `to_json`. Raises `ValueError`, `KeyError`, `TypeError` or `IndexError` for anything else."""
        kernels, regions = data["kernels"], [ARENA, CONSTANT, INPUT, OUTPUT]
        inputs, outputs = (
            tuple(Port(name, tuple(shape), dtype) for name, shape, dtype in data[key]) for key in ("inputs", "outputs")
        )
        calls = tuple(
            Call(kernels[kernel], bool(packs), tuple(Argument(regions[region], at, by) for region, at, by in arguments))
            for kernel, packs, arguments in data["calls"]
        )
        return cls(inputs, outputs, int(data["arena_bytes"]), tuple(data["constants"]), calls)

    def __str__(self) -> str:
        lines = [f"{port.name}: {port.dtype}{list(port.shape)}" for port in self.inputs]
        lines.append(f"arena {self.arena_bytes:,} bytes, {len(self.constants)} constants of {sum(self.constants):,} bytes")
        for call in self.calls:
            arguments = ", ".join(_text(argument) for argument in call.arguments)
            lines.append(f"{call.kernel}{'.pack' if call.packs else ''}({arguments})")
        return "\n".join([*lines, *(f"{port.name}: {port.dtype}{list(port.shape)}" for port in self.outputs)])


def _text(argument: Argument) -> str:
    where = argument.region if argument.region == ARENA else f"{argument.region}{argument.number}"
    return f"{where}+{argument.offset}"


class Executable:
    """A program in this process: its kernels by name, its constants in order, an arena. One run at a time.

    An `arena` that is given is used if it is large enough.
    """

    def __init__(
        self,
        program: Program,
        kernels: Mapping[str, LoadedKernel],
        constants: Sequence[Array],
        arena: Array | None = None,
    ) -> None:
        self.program, self._keep = program, (kernels, constants)
        size = program.arena_bytes
        self.arena = arena if arena is not None and arena.size >= size else aligned_empty((size,), np.uint8)
        starts = {CONSTANT: [address(array) for array in constants], ARENA: [address(self.arena)]}
        self._patches: list[tuple[int, Argument]] = []  # arguments in the caller's arrays: which, and where they lie
        calls: list[tuple[int, list[int]]] = []
        count = 0
        for call in program.calls:
            addresses = []
            for argument in call.arguments:
                if argument.region in starts:
                    addresses.append(starts[argument.region][argument.number] + argument.offset)
                else:
                    self._patches.append((count + len(addresses), argument))
                    addresses.append(0)
            kernel = kernels[call.kernel]
            calls.append((kernel.pack_list if call.packs else kernel.run_list, addresses))
            count += len(addresses)
        self._list = step_list(calls)

    def outputs(self) -> dict[str, Array]:
        """New arrays for the outputs."""
        return {port.name: aligned_empty(port.shape, np.dtype(port.dtype)) for port in self.program.outputs}

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Let the following calls read and write these arrays, which are dense and of the ports' shapes and dtypes."""
        starts = {INPUT: [address(feeds[port.name]) for port in self.program.inputs]}
        starts[OUTPUT] = [address(outputs[port.name]) for port in self.program.outputs]
        arguments = self._list.arguments
        for at, argument in self._patches:
            arguments[at] = starts[argument.region][argument.number] + argument.offset

    def call(self, begin: int, end: int, times: Any = None) -> tuple[int, int] | None:
        """Run the calls from `begin` up to `end`; returns None, or the number of the call that failed and its code.

        `times` is as in `StepList.run`.
        """
        return self._list.run(begin, end, times)
