"""From (problem, schedule, machine) to a kernel image: out of the cache, or built by a worker and then kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule
from . import cache
from .build import LLVM_ARGS, KernelImage, build_linked, build_runtime

__all__ = ["build_digest", "build_versions", "digest_of", "image_key", "kept_image", "kernel_image", "runtime_image"]


PACKAGE = Path(__file__).resolve().parents[1]


def sources(package: Path = PACKAGE) -> list[Path]:
    """The files that decide what a kernel's code is: these folders, and all that they may import lies beside them."""
    folders = (package / name for name in ("algorithms", "compile", "gradients", "layers"))
    return sorted([*package.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))])


def digest_of(files: Iterable[Path]) -> str:
    """Changes whenever one of the files does, or where it lies in the package."""
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.name} {path.parent.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def build_digest() -> str:
    """Changes whenever the package does (its version too), or the compiler behind it."""
    versions = {**build_versions(), "numpy": np.__version__}  # numpy computes the constants of transforms
    return hashlib.sha256(json.dumps([digest_of(sources()), LLVM_ARGS, versions]).encode()).hexdigest()


def build_versions() -> dict[str, str]:
    """The compiler's versions."""
    return {name: version_of(name) for name in ("halide", "llvmlite")}


def version_of(package: str) -> str:
    """As `importlib.metadata.version`, which takes 20 ms to import, from the name of the folder that it would read."""
    for folder in sys.path:
        with contextlib.suppress(OSError):
            names = (
                name.removesuffix(".dist-info").split("-") for name in os.listdir(folder) if name.endswith(".dist-info")
            )
            found = [rest for first, *rest in names if first == package]
            if len(found) == 1:
                return "-".join(found[0])
    import importlib.metadata

    return importlib.metadata.version(package)


def image_key(problem: Problem, schedule: Schedule, machine: Machine) -> str:
    """The cache key: everything that the object code depends on."""
    text = "\n".join([str(problem), schedule.to_json(), machine.build_key, build_digest()])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def kept_image(problem: Problem, schedule: Schedule, machine: Machine) -> KernelImage | None:
    """The kernel's code if the cache has it."""
    found = cache.read(image_key(problem, schedule, machine))
    if found:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of another version: build it again
            return KernelImage.from_parts(*found)
    return None


def kernel_image(problem: Problem, schedule: Schedule, machine: Machine, time_limit_s: float) -> KernelImage:
    """The kernel's code. Raises `CompileError` or `CompileTimeout`."""
    kept = kept_image(problem, schedule, machine)
    if kept is not None:
        return kept
    from .workers import run_job  # what follows is slow; a warm start must not load what starts processes

    key = image_key(problem, schedule, machine)
    image: KernelImage = run_job(build_linked, problem, schedule, machine, f"k{key[:16]}", time_limit_s=time_limit_s)
    cache.write(key, image.header(), b"".join(image.objects), problem=str(problem), algorithm=schedule.algorithm)
    return image


def runtime_image(machine: Machine) -> KernelImage:
    """What the kernels of a process share (see `build_runtime`)."""
    key = hashlib.sha256(f"runtime {machine.key} {build_digest()}".encode()).hexdigest()[:40]
    found = cache.read(key)
    if found:
        return KernelImage.from_parts(*found)
    from .workers import run_job

    image: KernelImage = run_job(build_runtime, machine)
    cache.write(key, image.header(), b"".join(image.objects), problem="(what kernels share)", algorithm="runtime")
    return image
