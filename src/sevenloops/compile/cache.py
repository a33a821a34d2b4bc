"""The kernel cache: object code on disk, private, checksummed, bounded, written by atomic rename.

A cached file is code that will run in this process. So the folder must belong to this user and be writable by nobody
else, and a file is used only if its checksum, its format and the key inside it are right; anything else is treated as
absent and built again. Files are never changed in place, so any number of processes may share the folder.

Layout of a file: `MAGIC`, SHA-256 of the rest (32 bytes), length of the header (4 bytes, little endian), the header
(JSON), the objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import CacheWarning
from ..paths import cache_dir, read_file

__all__ = ["CacheEntry", "clear", "entries", "folder", "is_private", "put", "read", "write"]

MAGIC = b"7LOOPS01"
SUFFIX = ".7k"
#: The least recently used files go when the folder grows beyond this.
MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class CacheEntry:
    """One cached kernel, as `sevenloops cache list` shows it."""

    key: str
    path: Path
    size_bytes: int
    modified: float
    problem: str
    algorithm: str


def folder() -> Path:
    """Where kernels are kept."""
    return cache_dir() / "kernels"


_warned: set[str] = set()


def _warn(what: str, error: object) -> None:
    """Say once a process what is wrong, and what follows."""
    if what not in _warned:
        _warned.add(what)
        warnings.warn(f"{what}: {error}. Kernels are compiled again in each process.", CacheWarning, stacklevel=3)


def is_private(path: Path, *, create: bool = False) -> bool:
    """Whether a folder is ours alone; there is a warning if it is not, unless it is just absent."""
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        if create or not isinstance(error, FileNotFoundError):
            _warn(f"the kernel cache {path} cannot be used", error)
        return False
    if not stat.S_ISDIR(info.st_mode):
        _warn(f"the kernel cache {path} cannot be used", "it is not a directory")
        return False
    if hasattr(os, "getuid") and (info.st_uid != os.getuid() or info.st_mode & 0o022):
        _warn(f"the kernel cache {path} cannot be used", "others may write to it (it needs mode 700 and this owner)")
        return False
    return True


def _private_folder() -> Path | None:
    return folder() if is_private(folder()) else None


def read(key: str) -> tuple[str, bytes] | None:
    """Header and objects kept under a key, or None; a damaged file is removed."""
    base = _private_folder()
    if base is None:
        return None
    path = base / (key + SUFFIX)
    try:
        data = read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(f"{path} cannot be read", error)
        return None
    content = _verified(key, data)
    if content is None:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # marks it as recently used
    return content


def _verified(key: str, data: bytes) -> tuple[str, bytes] | None:
    at = len(MAGIC) + 32
    if len(data) < at + 4 or data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[at:]).digest() != data[len(MAGIC) : at]:
        return None
    length = int.from_bytes(data[at : at + 4], "little")
    header, body = data[at + 4 : at + 4 + length], data[at + 4 + length :]
    try:
        meta = json.loads(header)
        return (json.dumps(meta["content"]), body) if meta["key"] == key else None
    except (ValueError, KeyError, TypeError):
        return None


def write(key: str, header: str, body: bytes, *, problem: str, algorithm: str) -> None:
    """Keep a kernel; without a usable folder or space there is a `CacheWarning` and nothing is kept."""
    meta = {"key": key, "problem": problem, "algorithm": algorithm, "content": json.loads(header)}
    head = json.dumps(meta).encode()
    rest = len(head).to_bytes(4, "little") + head + body
    put(folder() / (key + SUFFIX), lambda file: file.write(MAGIC + hashlib.sha256(rest).digest() + rest), MAX_BYTES)


def put(path: Path, write_to: Callable[[BinaryIO], object], most_bytes: int) -> int:
    """Write a file of a private folder by atomic rename, and let the least recently used files beyond `most_bytes` go.

    Returns its size; 0, with a `CacheWarning`, where the folder or the space cannot be had.
    """
    import tempfile

    base = path.parent
    if not is_private(base, create=True):
        return 0
    temporary, size = None, 0
    try:
        handle, temporary = tempfile.mkstemp(dir=base, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            write_to(file)
            size = file.tell()
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        _warn(f"the kernel cache {base} cannot be written", error)
        return 0
    _evict(base, path.suffix, most_bytes)
    return size


def _evict(base: Path, suffix: str, most_bytes: int) -> None:
    """Remove the least recently used files beyond `most_bytes`, and temporary files that a killed process left."""
    files, total = [], 0
    with contextlib.suppress(OSError):
        for path in base.iterdir():
            with contextlib.suppress(OSError):
                info = path.stat()
                if path.name.startswith(".new-") and time.time() - info.st_mtime > 3600:
                    path.unlink()
                elif path.suffix == suffix:
                    files.append((info.st_mtime, info.st_size, path))
                    total += info.st_size
    for _, size, path in sorted(files):
        if total <= most_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def entries() -> list[CacheEntry]:
    """What the cache holds, the newest first; files that are no kernels are left out."""
    base, found = _private_folder(), []
    for path in sorted(base.glob("*" + SUFFIX)) if base else []:
        try:
            data, info = read_file(path), path.stat()
        except OSError:
            continue
        if _verified(path.stem, data) is None:
            continue
        at = len(MAGIC) + 32
        meta = json.loads(data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "little")])
        found.append(CacheEntry(path.stem, path, info.st_size, info.st_mtime, meta["problem"], meta["algorithm"]))
    return sorted(found, key=lambda entry: -entry.modified)


def clear(base: Path | None = None, suffix: str = SUFFIX) -> int:
    """Remove every kernel, or all that a private folder has of another kind; returns how many there were."""
    base, count = base or folder(), 0
    for path in base.glob("*" + suffix) if is_private(base) else []:
        with contextlib.suppress(OSError):
            path.unlink()
            count += 1
    return count
