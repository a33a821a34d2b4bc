"""Small trainings for the tests. As a script, it trains in a process of its own, which may be killed at a given moment.

python train_jobs.py FOLDER [--resume] [--kill step:11 | checkpoint:2 | replace:2] [--rank 1] [--batch 8] ...
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

#: 10 steps an epoch.
PICTURES, BATCH, EPOCHS = 160, 16, 3


def small_job(folder: Path, **changes: Any) -> Any:
    """LeNet-5 on a few made-up pictures, with crops and flips, by one thread of PyTorch."""
    from sevenloops.train.job import Job
    from sevenloops.train.recipes import recipe_for

    recipe = {"epochs": EPOCHS, "batch": BATCH, "lr": 0.01, "pad": 1, "colour": 0.1, "warmup": 0.5}
    recipe |= changes.pop("recipe", {})
    values: dict[str, Any] = {"engine": "torch", "threads": 1, "limit": PICTURES, "save_every": 4, "log_every": 5}
    return Job("lenet5", "synthetic", recipe_for("lenet5").changed(**recipe), folder, **values | changes)


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a checkpoint."""
    from sevenloops.train.checkpoint import load_checkpoint

    return {name: tensor.numpy() for name, tensor in load_checkpoint(path)[0].items()}


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def child(folder: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, or in several under torchrun."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*start, __file__, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(kill: str) -> Any:
    """Prepare the death of this process; what hears of every step. `checkpoint:2`: the second is half written then."""
    kind, _, number = kill.partition(":")
    left = int(number)
    if kind == "step":

        def tell(progress: Any) -> None:
            if not progress.over and progress.epoch * progress.steps + progress.step == left:
                _die()

        return tell
    from sevenloops.train import checkpoint as module
    from sevenloops.train import files

    checkpoint: Any = module

    written = 0

    def counted() -> bool:
        nonlocal written
        written += 1
        return written == left

    if kind == "checkpoint":
        whole = checkpoint.replace_file

        def half(path: Path, write: Any) -> None:
            if not counted():
                whole(path, write)
                return

            def some(file: Any) -> None:
                file.write(b"half of a checkpoint")
                file.flush()
                _die()

            whole(path, some)

        checkpoint.replace_file = half
    else:
        replace = os.replace

        def last_moment(source: Any, target: Any) -> None:
            if str(target).endswith("checkpoint.safetensors") and counted():
                _die()
            replace(source, target)

        files.os.replace = last_moment  # type: ignore[attr-defined]
    return lambda progress: None


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    from sevenloops.errors import SevenLoopsError
    from sevenloops.train.loop import Training
    from sevenloops.train.team import joined

    try:
        with joined() as team:
            training = Training(small_job(args.folder, recipe={"batch": args.batch}), team)
            if args.resume:
                training.resume()
            training.run(_arm(args.kill) if args.kill and args.rank == team.rank else lambda progress: None)
    except SevenLoopsError as error:
        print(f"sevenloops: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
