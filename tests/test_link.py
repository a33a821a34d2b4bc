"""Linked images against LLVM's own linking, what cannot be linked, and choices kept on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import sevenloops
from sevenloops import choice, records
from sevenloops.arrays import address
from sevenloops.compile import Kernel, cache, choices, compile_kept, runtime, store
from sevenloops.compile.build import KernelImage, build_image
from sevenloops.compile.link import LINKED, Linked, link, links
from sevenloops.compile.native import Jitted, Placed, system_function
from sevenloops.compile.workers import run_job
from sevenloops.descriptor import parse_problem
from sevenloops.errors import CompileError
from sevenloops.inputs import make_inputs
from sevenloops.machine import Machine
from sevenloops.problem import Problem
from sevenloops.recent import Recent
from sevenloops.schedule import Schedule

pytestmark = pytest.mark.skipif(not links(Machine.host()), reason="LLVM links on this system")
SMALL = parse_problem("mb2 ic5 ih9 iw7 oc6 kh3 kw3 ph1 pw1 bias act=silu")


def objects_of(problem: Problem, algorithm: str) -> KernelImage:
    schedule = sevenloops.compile(problem, algorithm=algorithm).schedule
    image: KernelImage = run_job(build_image, problem, schedule, Machine.host(), "kernel")
    return image


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "naive", "winograd", "fft"])
def test_linked_code_computes_what_llvms_linking_does(algorithm: str) -> None:
    image = objects_of(SMALL, algorithm)
    known = runtime._runtime()
    inputs = make_inputs(SMALL, 3)
    results = []
    for code in (Jitted(image.objects, known.exports), Placed(link(image.objects), known.resolve)):
        loaded = runtime.called(image, code, 2)
        packed = np.full(image.pack_buffers[-1].shape, np.nan, np.float32)
        out = np.full(SMALL.y_shape, np.nan, np.float32)
        assert inputs.bias is not None
        assert loaded.pack(address(inputs.w), address(packed)) == 0
        assert loaded.run(*map(address, (inputs.x, packed, inputs.bias, out))) == 0
        results.append(out)
    assert np.isfinite(results[0]).all()
    assert np.array_equal(results[0], results[1])


def test_what_the_cache_keeps_is_linked_and_reads_back() -> None:
    linked = link(objects_of(SMALL, "direct").objects)
    assert Linked.from_bytes(linked.to_bytes()) == linked
    assert sevenloops.compile(SMALL).image.objects[0].startswith(LINKED)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_code_cannot_be_written_nor_data_run() -> None:
    linked = link(objects_of(SMALL, "direct").objects)
    code = Placed(linked, runtime._runtime().resolve)
    spans = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    rights = {tuple(int(end, 16) for end in span.split("-")): flags for span, flags in spans}

    def rights_of(name: str) -> str:
        return next(flags[:3] for (low, high), flags in rights.items() if low <= code.address(name) < high)

    assert rights_of("kernel_run") == "r-x"
    assert rights_of("kernel_threads") == "rw-"
    assert code.address("there is none") == 0


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def first_of_kind(data: bytes, kind: int) -> tuple[int, ...]:
    """Where the header of the first section of a kind is, and the header."""
    (table,) = struct.unpack_from("<Q", data, 40)
    for number in range(struct.unpack_from("<H", data, 60)[0]):
        header = struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * number)
        if header[1] == kind:
            return (table + 64 * number, *header)
    raise AssertionError(f"no section of kind {kind}")


def test_what_is_not_known_is_an_error() -> None:
    image = objects_of(SMALL, "direct")
    data = image.objects[0]
    relocations, text = first_of_kind(data, 4), first_of_kind(data, 1)
    with pytest.raises(CompileError, match="a reference of kind 37"):
        link([patched(data, relocations[5] + 8, "<I", 37), *image.objects[1:]])
    with pytest.raises(CompileError, match="each thread"):
        link([patched(data, text[0] + 8, "<Q", text[3] | 0x400)])
    with pytest.raises(CompileError, match="only ELF objects for x86-64"):
        link([patched(data, 18, "<H", 183)])
    with pytest.raises(CompileError, match="'no_such_function', which this system does not have"):
        system_function("no_such_function")
    with pytest.raises(CompileError, match="'no_such_function'"):
        Placed(Linked(bytes(4096), 0, 4096, {}, [], {"no_such_function": 8}), runtime._runtime().resolve)


def test_machines_whose_objects_are_left_to_llvm() -> None:
    arm = Machine.described("neon")
    image = KernelImage("k", [], [], [b"\x7fELF"])
    assert image.linked(arm) is image
    assert not links(dataclasses.replace(Machine.host(), os="osx"))


# ---- choices ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(choices, "_known", Recent())
    choices._state.cache_clear()
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(choices, "_known", Recent())
    choices._state.cache_clear()


def test_a_choice_is_made_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.host()
    first = choices.chosen(SMALL, machine, "fast", None)
    forget(monkeypatch)
    monkeypatch.setattr(choices, "choose", lambda *args, **kwargs: pytest.fail("chosen again"))
    assert choices.kept(SMALL, machine, "fast") == first
    assert choices.chosen(SMALL, machine, "fast", None) == first
    assert choices.kept(SMALL, machine, "strict") is None
    monkeypatch.setattr(choices, "choose", choice.choose)
    assert "new in every call" in choices.chosen(SMALL, machine, "fast", None, weights="varying")[1]
    assert choices.kept(SMALL, machine, "fast") == first
    assert choices.kept(SMALL, dataclasses.replace(machine, l2_bytes=machine.l2_bytes * 2), "fast") is None


@pytest.mark.parametrize("change", ["records", "by another process", "damage"])
def test_what_changed_is_chosen_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    machine = Machine.host()
    choices.chosen(SMALL, machine, "fast", None)
    if change == "records":
        records._forget()
        records.path().write_text("{}\n")
    elif change == "by another process":
        records.path().write_text("{}\n")
        forget(monkeypatch)
    else:
        (file,) = (own_cache / "kernels").iterdir()
        file.write_bytes(file.read_bytes()[:-3])
        forget(monkeypatch)
    assert choices.kept(SMALL, machine, "fast") is None


def test_a_kept_schedule_that_does_not_fit_is_not_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = choices.chosen(SMALL, Machine.host(), "fast", None)
    forget(monkeypatch)
    wrong = Schedule("direct", nothing=1) if good[0].algorithm != "direct" else Schedule("im2col", nothing=1)
    header = json.dumps({"schedule": wrong.to_json(), "why": "a test"})
    key = choices._key(SMALL, Machine.host(), "fast", None, False, "constant")
    cache.write(key, header, b"", problem=str(SMALL), algorithm="(choice)")
    assert choices.kept(SMALL, Machine.host(), "fast") is None


def test_a_kernel_is_kept_only_when_choice_and_code_are(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sevenloops.compile"], "_kernels", Recent())
    problem = parse_problem("mb1 ic3 ih5 iw6 oc7 kh2 kw2")
    assert compile_kept(problem) is None
    kernel = sevenloops.compile(problem)
    monkeypatch.setattr(sys.modules["sevenloops.compile"], "_kernels", Recent())
    again = compile_kept(problem)
    assert isinstance(again, Kernel) and again is not kernel
    assert (again.schedule, again.why) == (kernel.schedule, kernel.why)
    monkeypatch.setattr(sys.modules["sevenloops.compile"], "_kernels", Recent())
    os.remove(own_cache / "kernels" / f"{store.image_key(problem, kernel.schedule, kernel.machine)}.7k")
    assert compile_kept(problem) is None
