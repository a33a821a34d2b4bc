"""The page docs/cli.md, made from the commands themselves: `python -m sevenloops.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from .main import app

__all__ = ["commands", "page", "undocumented"]

HEAD = """# The command line

Every command with its arguments and options. This page is made by `python -m sevenloops.cli.reference > docs/cli.md`; a
test fails when it is out of date, and when a command or an option has no description.

A `MODEL` is a name of the zoo ([zoo.md](zoo.md)) or an ONNX file, a `PROBLEM` a one-line descriptor such as
`mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1` or `gemm m512 n512 k512`. A mistake is one line on standard error and status 2.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words: `("bench conv", command)`, in alphabetical order."""
    yield from sorted(_walk("", typer.main.get_command(app)), key=lambda row: row[0])


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, below in inner.items():
        yield from _walk(f"{name} {word}".strip(), below)


def _shown(command: Any) -> list[Any]:
    return [param for param in command.params if "--help" not in param.opts and not getattr(param, "hidden", False)]


def undocumented() -> list[str]:
    """Commands and parameters without a description."""
    found = []
    for name, command in commands():
        found += [] if (command.help or "").strip() else [name]
        found += [f"{name} {param.name}" for param in _shown(command) if not (getattr(param, "help", "") or "").strip()]
    return found


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: Any) -> str:
    params = _shown(command)
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option"]
    usage = " ".join(["sevenloops", name, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    text = " ".join((command.help or "").split())
    rows = [(f"`{_metavar(param)}`", _about(param)) for param in arguments]
    rows += [(_names(param), _about(param)) for param in options]
    table = "".join(f"| {left} | {right} |\n" for left, right in rows)
    return f"\n## {name}\n`{usage}`\n\n{text}\n" + (f"\n| | |\n|---|---|\n{table}" if rows else "")


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _usage(param: Any) -> str:
    return _metavar(param) if param.required else f"[{_metavar(param)}]"


def _names(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    return names


def _about(param: Any) -> str:
    text = " ".join(str(param.help).split()).replace("|", "or")
    default = param.default() if callable(param.default) else param.default
    shown = default not in (None, False, (), []) and not isinstance(default, bool)
    return f"{text} Default: `{default}`." if shown and str(default).isprintable() else text


if __name__ == "__main__":
    print(page(), end="")
