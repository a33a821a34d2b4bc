"""The exceptions that sevenloops raises. Every one is a `SevenLoopsError`.

A message says what was asked, what was got, and what would work. Where a builtin exception describes the same
mistake (`ValueError` for a size, `TypeError` for a dtype), the class is also that builtin, so callers may catch either.
"""

from __future__ import annotations

__all__ = [
    "ArrayError",
    "CacheWarning",
    "CompileError",
    "CompileTimeout",
    "DtypeError",
    "FallbackWarning",
    "GraphError",
    "KernelError",
    "ProblemError",
    "ScheduleError",
    "SevenLoopsError",
    "Unsupported",
    "printable",
]


def printable(text: str, keep: str = "") -> str:
    """Text with everything that a terminal would not print as it stands as an escape: names may come from a file.

    That is control characters, line breaks, and what changes the direction of writing, but for the characters of `keep`.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class SevenLoopsError(Exception):
    """Base class of every error that sevenloops raises on purpose. Its text is one line, and safe to print."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ProblemError(SevenLoopsError, ValueError):
    """A problem that has no meaning: a size below one, channels that do not match, a kernel larger than its input."""


class ArrayError(SevenLoopsError, ValueError):
    """An array whose shape, strides, alignment or overlap does not fit the call."""


class DtypeError(SevenLoopsError, TypeError):
    """An array or problem of a dtype that is not computed here."""


class ScheduleError(SevenLoopsError, ValueError):
    """A schedule that cannot be applied to the problem or machine."""


class Unsupported(SevenLoopsError, ValueError):
    """An algorithm was forced on a problem that it cannot compute; the message carries the reason."""


class CompileError(SevenLoopsError, RuntimeError):
    """Halide or the linker refused a kernel. Its text has their lines."""

    def __str__(self) -> str:
        return printable(str(self.args[0]) if self.args else "", keep="\n\t")


class CompileTimeout(CompileError):
    """A kernel did not compile within its time limit; the worker was stopped."""


class KernelError(SevenLoopsError, RuntimeError):
    """A compiled kernel reported a failure while running (out of memory, mostly)."""


class GraphError(SevenLoopsError, ValueError):
    """A network that has no meaning, cannot be read, or was fed values that do not fit it."""


class FallbackWarning(UserWarning):
    """A network is not computed as it stands: an operator in Python, slowly, or narrow numbers in float32."""

    def __str__(self) -> str:
        return printable(super().__str__())


class CacheWarning(UserWarning):
    """The kernel cache could not be read or written; the work went on without it."""
