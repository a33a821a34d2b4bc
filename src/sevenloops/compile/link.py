"""Object files of one kernel linked into one image, which needs nothing but a base address and some foreign functions.

LLVM could link in the process that runs the kernels, but loading LLVM takes 50 ms and 42 MB, more than all the rest of a
start from a warm cache, and then 2 ms a kernel. So what a linker has to know is worked out once, when a kernel is built:
the image is what the cache keeps, and `native.Placed` copies it into memory, adds the base to a list of words and fills in
a list of addresses.

The image has two parts: code with constants, and what is written to, which begins on a page of its own. Foreign functions
are called through stubs, as in an executable. Known is what LLVM emits for x86-64 Linux (position-independent, small code
model; System V ABI, AMD64 supplement, section 4.4). Anything else is an error, nothing is guessed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import CompileError
from ..machine import Machine

__all__ = ["LINKED", "Linked", "link", "links"]

#: Begins a linked image, where an object file has the name of its format.
LINKED = b"7LINKED1"
PAGE = 4096
X86_64 = 62
#: Types and flags of sections, places of symbols that are in none, binding of symbols.
SYMBOLS, RELA, NO_BITS = 2, 4, 8
WRITE, ALLOCATED, THREADS = 1, 2, 0x400
UNDEFINED, RESERVED = 0, 0xFF00
LOCAL, WEAK = 0, 2
#: Sections without a meaning for code that is called, never unwound, and stays until the process ends.
IGNORED = (".eh_frame", ".fini_array", ".init_array")
#: Kinds of references: R_X86_64_64, PC32, PLT32, and the three that go through a word with the address.
ABS64, PC32, PLT32, THROUGH_WORD = 1, 2, 4, (9, 41, 42)
#: `jmp *word(%rip)`
JUMP, JUMP_BYTES = b"\xff\x25", 6


def links(machine: Machine) -> bool:
    """Whether objects for a machine are linked here; for others LLVM does it, in the process that runs them."""
    return (machine.arch, machine.os) == ("x86-64", "linux")


@dataclass(frozen=True)
class Linked:
    """A linked image: `data` up to `writable` is code, what follows is written to, with zeros behind it up to `size`.

    `symbols` are offsets; the base is added to the words at `relative`; the words of `foreign` are functions' addresses.
    """

    data: bytes
    writable: int
    size: int
    symbols: dict[str, int]
    relative: list[int]
    foreign: dict[str, int]

    def to_bytes(self) -> bytes:
        """For the cache: `LINKED`, length of the header (4 bytes, little endian), the header (JSON), `data`."""
        head = json.dumps({name: value for name, value in vars(self).items() if name != "data"}).encode()
        return LINKED + struct.pack("<I", len(head)) + head + self.data

    @classmethod
    def from_bytes(cls, image: bytes) -> Linked:
        """The inverse of `to_bytes`."""
        begin = len(LINKED) + 4
        end = begin + struct.unpack_from("<I", image, len(LINKED))[0]
        return cls(data=image[end:], **json.loads(image[begin:end]))


def link(objects: Sequence[bytes]) -> Linked:
    """Link the objects of one kernel, or of the runtime, for x86-64 Linux. Raises `CompileError` for what is not known."""
    return _Image([_read(data) for data in objects]).linked()


# ----------------------------------------------------------------------------------------------- reading


class _Section(NamedTuple):
    """A section of an ELF-64 object: its header, as far as it matters here, and its bytes."""

    name: str
    kind: int
    flags: int
    size: int
    link: int
    info: int
    align: int
    data: bytes

    @property
    def is_placed(self) -> bool:
        return bool(self.flags & ALLOCATED) and self.name not in IGNORED


class _Symbol(NamedTuple):
    name: str
    binding: int
    section: int
    value: int


class _Object(NamedTuple):
    sections: list[_Section]
    symbols: list[_Symbol]


class _Reference(NamedTuple):
    """`kind` of a reference at `offset` of a section to a symbol of the same object, `addend` bytes behind it."""

    file: int
    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


def _read(data: bytes) -> _Object:
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18) != (X86_64,):
        raise CompileError("only ELF objects for x86-64 can be linked")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_at = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
    names = data[headers[names_at][4] :]
    sections, symbols = [], []
    for name, kind, flags, _, at, size, linked, info, align, _ in headers:
        content = b"" if kind == NO_BITS else data[at : at + size]
        sections.append(_Section(_text(names, name), kind, flags, size, linked, info, max(1, align), content))
        if flags & THREADS:
            raise CompileError("variables that each thread has of its own cannot be linked")
    for section in sections:
        if section.kind == SYMBOLS:
            texts = sections[section.link].data
            for name, binding, _, where, value, _ in struct.iter_unpack("<IBBHQQ", section.data):
                symbols.append(_Symbol(_text(texts, name), binding >> 4, where, value))
    return _Object(sections, symbols)


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


# ----------------------------------------------------------------------------------------------- linking


class _Image:
    """The image while it is put together: first everything gets its place, then the references are filled in."""

    def __init__(self, files: Sequence[_Object]) -> None:
        self.files = files
        self.data = bytearray()
        self.at: dict[tuple[int, int], int] = {}  # of sections, by file and number
        self.words: dict[str | tuple[int, int], int] = {}  # words with an address: of a foreign function, or of a symbol
        self.stubs: dict[str, int] = {}
        self.relative: list[int] = []
        self.owners: dict[str, tuple[int, int]] = {}  # of global names: file and symbol; one that is not weak counts more
        for binding in ((WEAK,), (1,)):
            for file, found in enumerate(files):
                for number, symbol in enumerate(found.symbols):
                    if symbol.binding in binding and symbol.section != UNDEFINED:
                        self.owners[symbol.name] = file, number

    def linked(self) -> Linked:
        targets = [self._target(reference) for reference in self._references()]
        foreign = sorted({target for target in targets if isinstance(target, str)})
        self._place(lambda section: not section.flags & WRITE)
        for name in foreign:
            self.stubs[name] = self._grow(JUMP_BYTES, 2)
        writable = self._grow(0, PAGE)
        self._place(lambda section: bool(section.flags & WRITE) and section.kind != NO_BITS)
        own = {self._target(r): None for r in self._references() if r.kind in THROUGH_WORD}
        for target in dict.fromkeys([*foreign, *own]):
            self.words[target] = self._grow(8, 8)
        end = len(self.data)
        self._place(lambda section: bool(section.flags & WRITE) and section.kind == NO_BITS)
        for name in foreign:
            stub = self.stubs[name]
            self.data[stub : stub + JUMP_BYTES] = JUMP + struct.pack("<i", self.words[name] - (stub + JUMP_BYTES))
        for target, word in self.words.items():
            if not isinstance(target, str):
                self._absolute(word, self._offset(target))
        for reference in self._references():
            self._fill(reference)
        symbols = {name: self._offset(owner) for name, owner in self.owners.items()}
        words = {name: self.words[name] for name in foreign}
        return Linked(bytes(self.data[:end]), writable, len(self.data), symbols, sorted(self.relative), words)

    def _grow(self, size: int, align: int) -> int:
        """Zeros at the end; where they begin."""
        at = -(-len(self.data) // align) * align
        self.data.extend(bytes(at + size - len(self.data)))
        return at

    def _place(self, wanted: Callable[[_Section], bool]) -> None:
        for file, found in enumerate(self.files):
            for number, section in enumerate(found.sections):
                if section.is_placed and wanted(section):
                    at = self.at[file, number] = self._grow(section.size, section.align)
                    self.data[at : at + len(section.data)] = section.data

    def _references(self) -> Iterator[_Reference]:
        for file, found in enumerate(self.files):
            for section in found.sections:
                if section.kind == RELA and found.sections[section.info].is_placed:
                    for offset, what, addend in struct.iter_unpack("<QQq", section.data):
                        yield _Reference(file, section.info, offset, what & 0xFFFFFFFF, what >> 32, addend)

    def _target(self, reference: _Reference) -> str | tuple[int, int]:
        """File and symbol that a reference means, or the name of what is in none of the files."""
        symbol = self.files[reference.file].symbols[reference.symbol]
        if symbol.binding == LOCAL:
            return reference.file, reference.symbol
        return self.owners.get(symbol.name, symbol.name)

    def _offset(self, target: tuple[int, int]) -> int:
        file, number = target
        symbol = self.files[file].symbols[number]
        if symbol.section >= RESERVED or (file, symbol.section) not in self.at:
            raise CompileError(f"the symbol {symbol.name!r} lies in no section that can be linked")
        return self.at[file, symbol.section] + symbol.value

    def _absolute(self, word: int, offset: int) -> None:
        if word % 8:
            raise CompileError("an address that lies across words cannot be linked")
        self.data[word : word + 8] = struct.pack("<Q", offset)
        self.relative.append(word)

    def _fill(self, reference: _Reference) -> None:
        target, kind = self._target(reference), reference.kind
        at = self.at[reference.file, reference.section] + reference.offset
        if kind == ABS64 and not isinstance(target, str):
            self._absolute(at, self._offset(target) + reference.addend)
            return
        if kind in THROUGH_WORD:
            offset = self.words[target]
        elif kind in (PC32, PLT32) and not isinstance(target, str):
            offset = self._offset(target)
        elif kind == PLT32 and isinstance(target, str):
            offset = self.stubs[target]
        else:
            raise CompileError(f"a reference of kind {kind} to {target} cannot be linked")
        self.data[at : at + 4] = struct.pack("<i", offset + reference.addend - at)
