"""Build one kernel: a scheduled pipeline becomes object code. Runs in a worker process (see `workers`).

Three objects make a kernel: the pipeline, the pipeline that packs its weights (both from Halide), and one from LLVM IR
with its parallel loop and two trampolines, `name_run(ptr, ptr, ...)` and `name_pack(w, packed)`, which take bare
addresses and lay out the `halide_buffer_t` structs on their own stack. So a call from Python passes a few integers,
allocates nothing, and any number of threads may be inside the same kernel. `name_run_list` and `name_pack_list` take the
same addresses as one array: what the steps of a plan are made of (see `steps`).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..algorithms.base import Buffer, Definition, strides_of
from ..errors import CompileError
from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule
from .halide_pool import halide_par_for_ir
from .link import LINKED, link, links
from .pool import POOL_IR, par_for_ir, runs_on
from .scratch import SCRATCH_IR
from .steps import steps_ir

__all__ = ["KernelImage", "build_image", "build_linked", "build_runtime", "image_of", "lowered_text", "text_of"]

#: LLVM's SLP vectoriser gathers the scalar addresses of a tile's pixels into vectors and takes them apart again in the
#: hot loop (seen: 40 % slower). Halide reads these arguments from the environment, when it is imported.
LLVM_ARGS = "-vectorize-slp=false"
#: How long one kernel may compile before its worker is stopped.
TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class KernelImage:
    """A compiled kernel as bytes: its objects, and what is needed to call it."""

    name: str
    buffers: list[Buffer]
    pack_buffers: list[Buffer]
    objects: list[bytes]

    def header(self) -> str:
        """JSON of everything but the objects themselves."""
        return json.dumps(
            {
                "name": self.name,
                "buffers": _rows(self.buffers),
                "pack_buffers": _rows(self.pack_buffers),
                "sizes": [len(o) for o in self.objects],
            }
        )

    def linked(self, machine: Machine) -> KernelImage:
        """The same with its objects linked into one, where that can be done before it is known who runs them (`link`)."""
        if not links(machine) or self.objects[0].startswith(LINKED):
            return self
        return replace(self, objects=[link(self.objects).to_bytes()])

    @classmethod
    def from_parts(cls, header: str, body: bytes) -> KernelImage:
        """The inverse of `header()` and the objects joined; raises `ValueError` when they do not agree."""
        meta = json.loads(header)
        if sum(meta["sizes"]) != len(body):
            raise ValueError("sizes do not add up")
        objects, at = [], 0
        for size in meta["sizes"]:
            objects.append(body[at : at + size])
            at += size
        return cls(meta["name"], _buffers(meta["buffers"]), _buffers(meta["pack_buffers"]), objects)


def _rows(buffers: list[Buffer]) -> list[Any]:
    return [[b.name, b.shape, b.strides, b.dtype] for b in buffers]


def _buffers(rows: list[Any]) -> list[Buffer]:
    return [Buffer(name, tuple(shape), strides and tuple(strides), dtype) for name, shape, strides, dtype in rows]


def _target(machine: Machine, *, runtime: bool, asserts: bool = False) -> Any:
    import halide as hl

    target = hl.Target(machine.halide_target())
    if runtime:
        return target
    target = target.with_feature(hl.TargetFeature.NoRuntime)
    if not asserts:
        for feature in (hl.TargetFeature.NoAsserts, hl.TargetFeature.NoBoundsQuery):
            target = target.with_feature(feature)
    return target


def define(problem: Problem, schedule: Schedule, machine: Machine) -> Definition:
    """The algorithm's Halide code for a problem and schedule."""
    from ..algorithms import ALGORITHMS
    from ..gradients import GRADIENTS
    from ..layers import LAYERS

    name = schedule.algorithm
    row = next(table[name] for table in (ALGORITHMS, LAYERS, GRADIENTS) if name in table)
    return row.define(problem, schedule, machine)


def build_image(problem: Problem, schedule: Schedule, machine: Machine, name: str, *, asserts: bool = False) -> KernelImage:
    """Compile a kernel. Raises `CompileError` with Halide's own words where it refuses."""
    import halide as hl

    try:
        return image_of(define(problem, schedule, machine), machine, name, problem.dtype, asserts=asserts)
    except hl.HalideError as error:
        raise CompileError(f"Halide refused {schedule} for {problem}: {error}") from None


def build_linked(problem: Problem, schedule: Schedule, machine: Machine, name: str) -> KernelImage:
    """As `build_image`, linked: what the cache keeps."""
    return build_image(problem, schedule, machine, name).linked(machine)


def image_of(d: Definition, machine: Machine, name: str, dtype: str = "float32", *, asserts: bool = False) -> KernelImage:
    """Compile a definition; with `asserts` the code checks its bounds and returns an error code. Raises `HalideError`."""
    import tempfile

    target = _target(machine, runtime=False, asserts=asserts)
    with tempfile.TemporaryDirectory(prefix="sevenloops-") as folder:
        objects = []
        turn = [("_tn", d.turn[0], [d.turn[1]])] if d.turn else []
        for suffix, func, inputs in (("", d.output, d.inputs), ("_pk", d.pack_output, d.pack_inputs), *turn):
            path = os.path.join(folder, f"k{suffix}.o")
            func.compile_to_object(path, inputs, name + suffix, target)
            objects.append(Path(path).read_bytes())
    objects.append(_trampolines(name, d, machine, dtype))
    return KernelImage(name, d.buffers, d.pack_buffers, objects)


def lowered_text(problem: Problem, schedule: Schedule, machine: Machine) -> dict[str, str]:
    """The loop nest as scheduled (`"loops"`), and the machine code (`"assembly"`), as text."""
    return text_of(define(problem, schedule, machine), machine)


def text_of(d: Definition, machine: Machine) -> dict[str, str]:
    """As `lowered_text`, of a definition."""
    import tempfile

    import halide as hl

    target = _target(machine, runtime=False)
    with tempfile.TemporaryDirectory(prefix="sevenloops-") as folder:
        assembly, loops = os.path.join(folder, "k.s"), os.path.join(folder, "k.stmt")
        d.output.compile_to_assembly(assembly, d.inputs, "kernel", target)
        d.output.compile_to_conceptual_stmt(loops, d.inputs, hl.StmtOutputFormat.Text, target)
        return {"assembly": Path(assembly).read_text(), "loops": Path(loops).read_text()}


def build_runtime(machine: Machine) -> KernelImage:
    """What the kernels of a process share, linked: Halide's runtime, our thread pool, a quiet error handler."""
    import tempfile

    import halide as hl

    with tempfile.TemporaryDirectory(prefix="sevenloops-") as folder:
        path = os.path.join(folder, "runtime.o")
        hl.compile_standalone_runtime(path, _target(machine, runtime=True))
        support = QUIET_IR + steps_ir(machine.os) + (POOL_IR + SCRATCH_IR if runs_on(machine.os) else "")
        objects = [Path(path).read_bytes(), _assemble(support, machine)]
        return KernelImage("runtime", [], [], objects).linked(machine)


# ---------------------------------------------------------------------------------------------- trampolines

#: Halide's own handler prints and aborts the process; errors come back as codes instead.
QUIET_IR = """
define void @sevenloops_quiet(ptr %context, ptr %message) {
  ret void
}
"""

TRIPLES = {
    ("x86-64", "linux"): "x86_64-unknown-linux-gnu",
    ("x86-64", "osx"): "x86_64-apple-macosx",
    ("x86-64", "windows"): "x86_64-pc-windows-msvc",
    ("arm-64", "linux"): "aarch64-unknown-linux-gnu",
    ("arm-64", "osx"): "arm64-apple-macosx",
}

#: `halide_type_t` of a dtype: code and bits (HalideRuntime.h).
TYPES = {"float32": (2, 32), "float64": (2, 64), "uint8": (1, 8)}

_STRUCTS = """
%dim = type { i32, i32, i32, i32 }
%buf = type { i64, ptr, ptr, i64, i8, i8, i16, i32, ptr, ptr }
"""


def _trampolines(name: str, d: Definition, machine: Machine, dtype: str) -> bytes:
    """LLVM IR that turns addresses into `halide_buffer_t` (HalideRuntime.h) and calls the two pipelines."""
    ir = [_STRUCTS, par_for_ir(name) if runs_on(machine.os) else halide_par_for_ir(name)]
    ir += _trampoline(name, f"{name}_run", d.buffers, dtype)
    if d.turn is None:
        ir += _trampoline(f"{name}_pk", f"{name}_pack", d.pack_buffers, dtype)
    else:
        ir += _trampoline(f"{name}_tn", f"{name}_turn", d.turn[2], dtype)
        ir += _trampoline(f"{name}_pk", f"{name}_pack_turned", d.pack_buffers, dtype)
        ir.append(_in_turn(name, math.prod(d.turn[2][1].shape) * TYPES[dtype][1] // 8))
    return _assemble("\n".join(ir), machine)


def _in_turn(name: str, n_bytes: int) -> str:
    """`name_pack` as two steps, with turned weights in scratch between them; -11 is Halide's code for no memory."""
    return f"""
declare ptr @halide_malloc(ptr, i64)
declare void @halide_free(ptr, ptr)
define i32 @{name}_pack(ptr %w, ptr %packed) {{
  %turned = call ptr @halide_malloc(ptr null, i64 {n_bytes})
  %none = icmp eq ptr %turned, null
  br i1 %none, label %failed, label %turn
turn:
  %code = call i32 @{name}_turn(ptr %w, ptr %turned)
  %bad = icmp ne i32 %code, 0
  br i1 %bad, label %free, label %pack
pack:
  %packing = call i32 @{name}_pack_turned(ptr %turned, ptr %packed)
  br label %free
free:
  %result = phi i32 [ %code, %turn ], [ %packing, %pack ]
  call void @halide_free(ptr null, ptr %turned)
  ret i32 %result
failed:
  ret i32 -11
}}
define i32 @{name}_pack_list(ptr %list) {{
  %p0 = load ptr, ptr %list
  %q1 = getelementptr ptr, ptr %list, i32 1
  %p1 = load ptr, ptr %q1
  %r = call i32 @{name}_pack(ptr %p0, ptr %p1)
  ret i32 %r
}}"""


def _assemble(ir: str, machine: Machine) -> bytes:
    """LLVM IR as an object file."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLES[machine.arch, machine.os])
    target_machine = target.create_target_machine(opt=2, reloc="pic", codemodel="default")
    return bytes(target_machine.emit_object(llvm.parse_assembly(ir)))


def _trampoline(callee: str, name: str, buffers: list[Buffer], dtype: str) -> list[str]:
    count = len(buffers)
    lines = [f"declare i32 @{callee}({', '.join(['ptr'] * count)})"]
    body = []
    for i, buffer in enumerate(buffers):
        rank, strides = len(buffer.shape), buffer.strides or strides_of(buffer.shape)
        dims = [f"%dim {{ i32 0, i32 {n}, i32 {s}, i32 0 }}" for n, s in zip(reversed(buffer.shape), reversed(strides))]
        lines.append(f"@{name}.dims{i} = private constant [{rank} x %dim] [{', '.join(dims)}]")
        code, bits = TYPES[buffer.dtype or dtype]
        fixed = f"i64 0, i8 {code}, i8 {bits}, i16 1, i32 {rank}, ptr @{name}.dims{i}, ptr null".split(", ")
        body.append(f"  %b{i} = alloca %buf")
        body += [f"  %h{i} = getelementptr %buf, ptr %b{i}, i32 0, i32 2", f"  store ptr %p{i}, ptr %h{i}"]
        for field, value in ((0, "i64 0"), (1, "ptr null"), *zip(range(3, 10), fixed)):
            body.append(f"  %f{i}.{field} = getelementptr %buf, ptr %b{i}, i32 0, i32 {field}")
            body.append(f"  store {value}, ptr %f{i}.{field}")
    args = ", ".join(f"ptr %p{i}" for i in range(count))
    passed = ", ".join(f"ptr %b{i}" for i in range(count))
    lines.append(f"define i32 @{name}({args}) {{")
    lines += [*body, f"  %r = call i32 @{callee}({passed})", "  ret i32 %r", "}"]
    lines.append(f"define i32 @{name}_list(ptr %list) {{")
    for i in range(count):
        lines += [f"  %q{i} = getelementptr ptr, ptr %list, i32 {i}", f"  %p{i} = load ptr, ptr %q{i}"]
    return [*lines, f"  %r = call i32 @{name}({args})", "  ret i32 %r", "}"]
