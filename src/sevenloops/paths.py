"""Where sevenloops keeps what it can make again: compiled kernels, measurements, tuned schedules."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

__all__ = ["cache_dir"]


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
        user = os.getuid() if hasattr(os, "getuid") else 0
        return Path(tempfile.gettempdir()) / f"sevenloops-{user}"
    return (home / "Library/Caches" if sys.platform == "darwin" else home / ".cache").absolute() / "sevenloops"


def _expand(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # `~` without a home directory: take it literally
        return Path(path).absolute()
