"""Where sevenloops keeps what it can make again (compiled kernels, measurements, tuned schedules), and reading it."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

__all__ = ["cache_dir", "read_file"]


def cache_dir() -> Path:
    """The cache directory, absolute; it is not created here.

    `$SEVENLOOPS_CACHE_DIR` if set, else `$XDG_CACHE_HOME/sevenloops`, else `~/.cache/sevenloops`
    (macOS: `~/Library/Caches/sevenloops`). Without a home directory: one per user under the system's temporary files.
    """
    if chosen := os.environ.get("SEVENLOOPS_CACHE_DIR"):
        return _expand(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification: a relative path is to be ignored
        return Path(xdg) / "sevenloops"
    try:
        home = Path.home()
    except RuntimeError:  # a user id without an entry in the password file, and no $HOME
        import tempfile

        user = os.getuid() if hasattr(os, "getuid") else 0
        return Path(tempfile.gettempdir()) / f"sevenloops-{user}"
    return (home / "Library/Caches" if sys.platform == "darwin" else home / ".cache").absolute() / "sevenloops"


def read_file(path: Path) -> bytes:
    """What a file of the cache directory holds. Raises `OSError`, also for a pipe, which might never be written to."""
    with open(path, "rb", opener=_open_regular) as file:
        return file.read()


def _open_regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for, until someone writes
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle


def _expand(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # `~` without a home directory: take it literally
        return Path(path).absolute()
