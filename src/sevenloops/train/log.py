"""The log of a training: a JSON object a line, for every epoch and every so many steps. Needs no PyTorch to read.

Events: "start" (what is trained on what, and how), "steps" (loss and rate of the last so many steps), "epoch" (loss and
accuracy in training and in testing), "resume". `step` counts all steps from the start of the training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import TrainingError
from .files import replace_file

__all__ = ["Log", "read_log"]


class Log:
    """Appends to a file; a line is written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, step: int, **values: Any) -> None:
        """One line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Forget what came after a step: the training goes on from there, and comes by again."""
        if self.path.exists():
            kept = [row for row in read_log(self.path) if row["step"] <= step]
            text = "".join(json.dumps(row) + "\n" for row in kept)
            replace_file(self.path, lambda file: file.write(text.encode()))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a log, without a last line that a crash cut off. Raises `TrainingError` for other files, `OSError`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for at, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            if at == len(lines) - 1:
                break
            raise TrainingError(f"{path}:{at + 1} is no line of a log of `sevenloops train`") from None
        if not isinstance(row, dict) or not {"event", "step"} <= set(row):
            raise TrainingError(f"{path}:{at + 1} is no line of a log of `sevenloops train`")
        rows.append(row)
    return rows
