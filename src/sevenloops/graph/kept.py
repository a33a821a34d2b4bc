"""Programs kept on disk: all that a run of a network needs, in one file that a later process maps and calls.

A file has the program, the code of its kernels and its constants: packed weights, which are as large as the weights or, for
Winograd, a few times larger. So one is written only when a user asks. It is looked for under everything that it depends on:
the contents of the model, the sizes of its inputs, the options, the machine, the tuned records and the sources of the
package. It lies in a folder that is this user's alone, its contents are checksummed, and it is written by atomic rename;
whatever does not agree is treated as absent. Files are never changed in place, so processes share the mapped pages.

Layout of a file: `MAGIC`, SHA-256 of the head (32 bytes), length of the head (8 bytes, little endian), the head (JSON), then
from the next multiple of `PAGE` on the kernels and the constants, whose SHA-256 are in the head, a digest for each `BLOCK`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import address
from ..compile import cache
from ..compile.build import KernelImage
from ..compile.choices import state
from ..compile.runtime import load
from ..compile.store import PACKAGE, digest_of
from ..errors import KernelError
from ..machine import Machine
from .ir import Value
from .program import Executable, Program

__all__ = ["Identity", "Kept", "clear", "digest_of_model", "entries", "find", "identify", "keep", "worth_a_look"]

MAGIC = b"7LPROG01"
SUFFIX = ".7p"
PAGE, ALIGNMENT, BLOCK = 4096, 64, 8 * 2**20
#: The least recently used files go when the folder grows beyond this.
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Identity:
    """What a kept program is found by: digest and length of the model, and a digest of all that the program depends on."""

    model: str
    model_bytes: int
    key: str

    @property
    def path(self) -> Path:
        """Where the program is kept. The length comes first: most lookups need not read the model."""
        return folder() / f"{self.model_bytes}-{self.key}{SUFFIX}"


@dataclass(frozen=True)
class Kept:
    """A program of this process, and the inputs and outputs as the model has them (sizes may be names)."""

    executable: Executable
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    n_bytes: int

    def takes(self, feeds: Mapping[str, Any]) -> bool:
        """Whether these are arrays of the sizes that the program is for."""
        return all(feeds[port.name].shape == port.shape for port in self.executable.program.inputs)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the outputs from dense arrays. Raises `KernelError`."""
        outputs = self.executable.outputs()
        self.executable.bind(feeds, outputs)
        failed = self.executable.call(0, len(self.executable.program.calls))
        if failed:
            raise KernelError(f"call {failed[0]} of the program failed with Halide's code {failed[1]} (out of memory?)")
        return outputs


def folder() -> Path:
    """Where programs are kept."""
    return cache.folder().with_name("programs")


def worth_a_look(model: str | os.PathLike[str] | bytes) -> bool:
    """Whether a program of some model of this length is kept."""
    try:
        start = f"{len(model) if isinstance(model, bytes) else os.stat(model).st_size}-"
        return any(name.startswith(start) for name in os.listdir(folder()))
    except OSError:
        return False


def identify(
    model: str | os.PathLike[str] | bytes, sizes: Mapping[str, Sequence[int]], options: Sequence[object]
) -> Identity:
    """The identity of a program. Raises `OSError` for a file that cannot be read."""
    digest, length = digest_of_model(model)
    sources = digest_of(sorted((PACKAGE / "graph").rglob("*.py")))
    asked = [sorted((name, list(size)) for name, size in sizes.items()), [str(option) for option in options]]
    text = json.dumps([digest, *asked, repr(Machine.host()), state(), sources])
    return Identity(digest, length, hashlib.sha256(text.encode()).hexdigest()[:40])


def digest_of_model(model: str | os.PathLike[str] | bytes) -> tuple[str, int]:
    """SHA-256 of a model's bytes, and how many they are. Raises `OSError` for a file that cannot be read."""
    digest, length = hashlib.sha256(), 0
    with io.BytesIO(model) if isinstance(model, bytes) else open(model, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            length += len(block)
    return digest.hexdigest(), length


def keep(
    identity: Identity,
    program: Program,
    kernels: Mapping[str, KernelImage],
    constants: Sequence[Any],
    ports: tuple[Sequence[Value], Sequence[Value]],
    name: str,
) -> int:
    """Write the program of a model of this name, with its kernels and constants.

    Returns the bytes it takes; 0, with a `CacheWarning`, where they cannot be written.
    """
    bodies: list[memoryview] = []
    placed: list[tuple[int, int]] = []
    end = 0
    images = [kernels[name].linked(Machine.host()) for name in program.to_json()["kernels"]]
    for body in [*(b"".join(image.objects) for image in images), *(array.reshape(-1).view(np.uint8) for array in constants)]:
        padding = -end % ALIGNMENT
        bodies += [memoryview(bytes(padding)), memoryview(body)]
        placed.append((end + padding, len(bodies[-1])))
        end += padding + len(bodies[-1])
    head = {
        "key": identity.key,
        "name": name,
        "inputs": [(value.name, value.shape, value.dtype) for value in ports[0]],
        "outputs": [(value.name, value.shape, value.dtype) for value in ports[1]],
        "program": program.to_json(),
        "kernels": [json.loads(image.header()) for image in images],
        "placed": placed,
        "length": end,
    }

    def write(file: Any) -> None:
        digests: list[str] = []
        digest, room = hashlib.sha256(), BLOCK
        # The digests come before what they are of, so everything is gone through twice.
        for body in bodies:
            while len(body):
                part, body = body[:room], body[room:]
                digest.update(part)
                room -= len(part)
                if not room:
                    digests, digest, room = [*digests, digest.hexdigest()], hashlib.sha256(), BLOCK
        text = json.dumps({**head, "digests": [*digests, digest.hexdigest()]}).encode()
        start = MAGIC + hashlib.sha256(text).digest() + len(text).to_bytes(8, "little") + text
        file.write(start + bytes(-len(start) % PAGE))
        for body in bodies:
            file.write(body)

    return cache.put(identity.path, write, MAX_BYTES)


def find(identity: Identity, threads: int, max_bytes: int) -> Kept | None:
    """The program of an identity, ready to run on so many threads; None if there is none, or a run needs more memory.

    A damaged file is removed.
    """
    path = identity.path
    if not cache.is_private(folder()):
        return None
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # a file of no bytes cannot be mapped
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        kept = _ready(memoryview(data), identity, threads, max_bytes)
        with contextlib.suppress(OSError):
            os.utime(path)  # marks it as recently used
        return kept
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _ready(data: memoryview, identity: Identity, threads: int, max_bytes: int) -> Kept | None:
    """Raises `ValueError` and others where the file is not what was written."""
    fixed = len(MAGIC) + 40
    length = int.from_bytes(data[fixed - 8 : fixed], "little")
    text = data[fixed : fixed + length]
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(text).digest() != data[len(MAGIC) : fixed - 8]:
        raise ValueError("the head is damaged")
    head = json.loads(bytes(text))
    begin = fixed + length + -(fixed + length) % PAGE
    body = data[begin:]
    if head["key"] != identity.key or len(body) != head["length"]:
        raise ValueError("it is another program's, or cut off")
    program = Program.from_json(head["program"])
    if program.run_bytes > max_bytes:
        return None
    _verify(body, head["digests"])
    parts = [body[at : at + size] for at, size in head["placed"]]
    names = head["program"]["kernels"]
    images = [KernelImage.from_parts(json.dumps(of), bytes(part)) for of, part in zip(head["kernels"], parts)]
    constants = [np.frombuffer(part, np.uint8) for part in parts[len(images) :]]
    if any(address(array) % ALIGNMENT for array in constants):
        raise ValueError("constants are not aligned")
    executable = Executable(program, {name: load(image, threads) for name, image in zip(names, images)}, constants)
    inputs, outputs = (
        tuple(Value(name, None if shape is None else tuple(shape), dtype) for name, shape, dtype in head[key])
        for key in ("inputs", "outputs")
    )
    return Kept(executable, inputs, outputs, len(data))


def entries() -> list[cache.CacheEntry]:
    """What is kept, the newest first; only the heads of files are looked at."""
    found = []
    for path in sorted(folder().glob("*" + SUFFIX)) if cache.is_private(folder()) else []:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            info = path.stat()
            with open(path, "rb") as file:
                start = file.read(len(MAGIC) + 40)
                head = json.loads(file.read(int.from_bytes(start[-8:], "little")))
            sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape, _ in head["program"]["inputs"])
            found.append(
                cache.CacheEntry(head["key"], path, info.st_size, info.st_mtime, sizes, f"(program of {head['name']})")
            )
    return sorted(found, key=lambda entry: -entry.modified)


def clear() -> int:
    """Remove every kept program; returns how many there were."""
    return cache.clear(folder(), SUFFIX)


def _verify(body: memoryview, digests: Sequence[str]) -> None:
    """Compare the digests of all blocks, on all cores: hashing lets go of Python's lock."""
    starts = range(0, max(1, len(body)), BLOCK)
    if len(digests) != len(starts):
        raise ValueError("digests are missing")
    from concurrent.futures import ThreadPoolExecutor  # loaded by those alone who have a program to verify

    with ThreadPoolExecutor(Machine.host().cores) as pool:
        for found, wanted in zip(pool.map(lambda at: hashlib.sha256(body[at : at + BLOCK]).hexdigest(), starts), digests):
            if found != wanted:
                raise ValueError("the contents are damaged")
