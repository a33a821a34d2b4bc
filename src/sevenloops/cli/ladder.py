"""What `sevenloops ladder` does with its options."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..bench.report import write_atomically
from ..descriptor import parse_problem
from ..ladder import CONV_CASES, Case, LadderError, Options, Rung, climb, own_rung, rungs_named
from ..ladder.text import render, rung_lines
from .bench import PIPE_WIDTH

__all__ = ["Wanted", "conv_cases", "ladder_command"]


@dataclass(frozen=True)
class Wanted:
    """Which rungs, and what of them is shown."""

    kind: str
    names: tuple[str, ...]
    schedule: Path | None
    peers: bool
    code: bool
    assembly: bool
    picture: bool
    plot: Path | None
    access_plot: Path | None
    json: bool
    output: Path | None

    def rungs(self) -> list[Rung]:
        """Those named and the reader's own, else all."""
        own = [own_rung(self.schedule)] if self.schedule else []
        if own and not self.names:
            return own
        return [r for r in rungs_named(self.kind, self.names) if self.peers or r.kind != "engine"] + own


def conv_cases(words: Sequence[str]) -> list[Case]:
    """`walkthrough`, `vgg` or descriptors; all of the named ones for no words."""
    return [
        Case(word, CONV_CASES[word]) if word in CONV_CASES else Case(f"layer {index}", parse_problem(word))
        for index, word in enumerate(words or CONV_CASES, 1)
    ]


def ladder_command(wanted: Wanted, cases: Sequence[Case], options: Options) -> None:
    """Climb and show. Raises `LadderError` for what cannot be done, before anything is measured."""
    rungs = wanted.rungs()
    if wanted.code:
        print(_one_code(rungs), end="")
        return
    _check_files(wanted)
    if (wanted.names or wanted.schedule) and not wanted.json:
        for rung in rungs:
            print("\n".join(rung_lines(rung, cases[-1], assembly=wanted.assembly)))
    if wanted.picture or wanted.access_plot:
        _show_access(wanted, rungs)
    with Console(stderr=True).status("") as status:
        run = climb(wanted.kind, rungs, cases, options, status.update)
    text = json_format.dumps(run.to_dict(), indent=2) + "\n"
    if wanted.output:
        write_atomically(wanted.output, text)
    if wanted.plot:
        from ..ladder.plots import draw_ladder

        draw_ladder(run, wanted.plot)
    if wanted.json:
        print(text, end="")
    else:
        console = Console()
        (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(render(run))


def _one_code(rungs: Sequence[Rung]) -> str:
    if len(rungs) != 1 or not rungs[0].code():
        raise LadderError("--code prints the code of one rung of ours: add --rung NAME")
    return rungs[0].code()


def _check_files(wanted: Wanted) -> None:
    """What is written at the end must be writable, and what draws it installed."""
    from ..ladder.plots import check_plot

    for path in (wanted.plot, wanted.access_plot, wanted.output):
        if path is not None and not path.absolute().parent.is_dir():
            raise LadderError(f"cannot write {path}: its folder does not exist")
    for path in (wanted.plot, wanted.access_plot):
        if path is not None:
            check_plot(path)


def _show_access(wanted: Wanted, rungs: Sequence[Rung]) -> None:
    from ..ladder.access import small_case, touches
    from ..ladder.access_text import picture
    from ..ladder.plots import draw_access

    found = [touches(rung, small_case(wanted.kind)) for rung in rungs if rung.compiled]
    if wanted.picture and not wanted.json:
        for trace in found:
            print(picture(trace))
    if wanted.access_plot:
        draw_access(found, wanted.access_plot)
