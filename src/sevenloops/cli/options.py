"""What the commands share: options, and how expected errors are reported."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..errors import SevenLoopsError
from ..train.errors import Interrupted

__all__ = [
    "INTERRUPTED",
    "PEERS",
    "PLAIN",
    "Accuracy",
    "Against",
    "Algorithm",
    "IsaName",
    "Json",
    "Output",
    "Problems",
    "Rounds",
    "Threads",
    "numbers",
    "reporting",
]

INTERRUPTED = 130
PEERS = "onnxruntime,openvino,torch"
Command = TypeVar("Command", bound=Callable[..., Any])
PLAIN: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}

Problems = Annotated[list[str] | None, typer.Argument(metavar="PROBLEM...", help="One-line descriptors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Algorithm = Annotated[str | None, typer.Option(help="Force an algorithm by name.")]
IsaName = Annotated[str | None, typer.Option(help="Compile for a lesser instruction set: avx2, sse4.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; by default every core this process may use.")]
Accuracy = Annotated[str, typer.Option(help="strict: only algorithms that accumulate as the definition does; or fast.")]
Against = Annotated[
    str,
    typer.Option(
        help="Comma-separated peers; also torch-nchw, numpy, sevenloops:ALGORITHM, untuned (the model's own choice), none."
    ),
]
Rounds = Annotated[int, typer.Option(min=1, help="How often each engine gets its turn.")]
Output = Annotated[Path | None, typer.Option(help="Also write the results to this file, as JSON.")]


def reporting(command: Command) -> Command:
    """Turn expected errors into one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (SevenLoopsError, OSError) as error:
            if isinstance(error, BrokenPipeError):  # `sevenloops ... | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            print(f"sevenloops: {error}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED if isinstance(error, Interrupted) else 2) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run  # type: ignore[return-value]


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Positive integers with commas between them, as an option's value."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter(f"--{name} takes positive integers with commas between, got {text!r}")
    return found
