"""Locks that do not survive a fork: a child has only the thread that forked, and nobody to release what the others held.

Python's import system has such locks too, one for each module that is being imported. What other threads were importing is
imported anew in the child: modules of this package load when they are touched, so that may be any.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["renewed_lock"]

#: Objects and modules that own a lock, and the name of the attribute.
_attributes: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def renewed_lock(owner: Any, attribute: str) -> AbstractContextManager[Any]:
    """A reentrant lock for an attribute of an object or a module, which gets a new one in every forked child.

    Locks are replaced, not released: a thread that forks inside `with owner.lock` leaves the block by the old one.
    What a lock guards must be whole between any two statements, or be made again by the next that takes the lock.
    """
    _attributes[owner] = attribute
    return threading.RLock()


def _renew() -> None:
    for owner, attribute in list(_attributes.items()):
        setattr(owner, attribute, threading.RLock())


def _forget_imports() -> None:
    """Let go of the locks, and the half of a module, that other threads of the parent had."""
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    for name, reference in list(locks.items()):
        lock = reference()
        if getattr(lock, "owner", None) not in (None, threading.get_ident()):
            locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                sys.modules.pop(name, None)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew)
    os.register_at_fork(after_in_child=_forget_imports)
