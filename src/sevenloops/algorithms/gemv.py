"""gemv: products of a few rows with a transposed B, as fully connected layers have at batch 1.

    y[m, n] = sum over k of a[m, k] * b[n, k]

Each element of B is used once per row of A, so memory is the limit: 4 bytes per 2m FLOP. B is read in its own order, rows
of it side by side (`columns` of y), with `vectors` vectors of partial sums per element that are added up at the end
(level-2 BLAS; Dongarra et al. 1988). No packing: B is used as it is stored.

Wins for one to eight rows. Cannot run: B stored (k, n), transposed A, more than eight rows, float64, convolutions.
"""

from __future__ import annotations

from ..machine import Machine
from ..problem import GemmProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, ceil_div
from .cost import FORK_CYCLES, L3_BYTES_PER_CYCLE, with_memory_s
from .naive import _raw_pack

MAX_ROWS = 8
PARAMETERS = {
    "columns": "elements of y computed side by side",
    "vectors": "vectors of partial sums per element",
    "task_columns": "elements of y in one task",
    "parallel": "whether tasks run on the thread pool",
}

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, GemmProblem):
        return "it computes matrix products, and this is a convolution"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; naive computes float64"
    if problem.m > MAX_ROWS:
        return f"it is for at most {MAX_ROWS} rows, and m is {problem.m}"
    if not problem.trans_b or problem.trans_a:
        return "it needs A stored (m, k) and B stored (n, k), as linear stores its weight"
    return None


# --------------------------------------------------------------------------------------------------- define


def define(problem: GemmProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Partial sums by lane, a tail of k, and their sum."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image, split_tasks

    a, b = image("a", problem.a_shape), image("b", problem.b_shape)
    extra, specs = epilogue_inputs(problem, problem.n, problem.y_shape)
    if problem.beta != 0:
        specs.append(("c", problem.y_shape))
        extra.append(image("c", problem.y_shape))
    named = dict(zip((name for name, _ in specs), extra))
    width = schedule.vectors * machine.lanes
    steps, rest = divmod(problem.k, width)

    lane, n, m = hl.Var("lane"), hl.Var("n"), hl.Var("m")
    partial = hl.Func("partial")  # partial[lane, n, m]
    whole = hl.Func("whole")  # whole[n, m]: partial sums and the tail of k
    out = hl.Func("out")
    k = hl.RDom([hl.Range(0, max(steps, 1))], "k")
    partial[lane, n, m] = hl.f32(0)
    if steps:
        partial[lane, n, m] += a[k[0] * width + lane, m] * b[k[0] * width + lane, n]
    lanes = hl.RDom([hl.Range(0, width)], "lanes")
    tail = hl.RDom([hl.Range(steps * width, max(rest, 1))], "tail")
    whole[n, m] = hl.f32(0)
    whole[n, m] += partial[lanes[0], n, m]
    if rest:
        whole[n, m] += a[tail[0], m] * b[tail[0], n]
        whole.update(1).unroll(n).unroll(m)
    v = hl.Expr(whole[n, m])
    v = v * hl.f32(problem.alpha) if problem.alpha != 1 else v
    v = v + named["c"][n, m] * hl.f32(problem.beta) if "c" in named else v
    bias = named["bias"][n] if "bias" in named else None
    out[n, m] = apply_epilogue(problem.epilogue, v, bias, named["residual"][n, m] if "residual" in named else None)

    task, tile, col = (hl.Var(s) for s in ("task", "tile", "col"))
    out.bound(n, 0, problem.n).bound(m, 0, problem.m)
    split_tasks(out, n, (task, tile, col), problem.n, schedule.columns, schedule.task_columns)
    out.reorder(col, m, tile, task)
    out.unroll(col).unroll(m)
    if schedule.parallel:
        out.parallel(task)
    whole.compute_at(out, tile).unroll(n).unroll(m)
    whole.update(0).reorder(lanes[0], n, m).atomic().vectorize(lanes[0], width).unroll(n).unroll(m)
    partial.compute_at(out, tile).vectorize(lane, machine.lanes).unroll(lane).unroll(n).unroll(m)
    if steps:
        hot = partial.update(0).reorder(lane, n, m, k[0]).vectorize(lane, machine.lanes).unroll(lane)
        hot.unroll(n).unroll(m)
    operands = [(a, Buffer("a", problem.a_shape)), (b, Buffer("b", problem.b_shape))]
    return definition(problem, out, problem.y_shape, operands, (extra, specs), _raw_pack(problem.b_shape, problem.dtype))


# ------------------------------------------------------------------------------------------------ schedules


def schedules(problem: GemmProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first: as many sums as the registers hold, and at least a few tasks per core."""
    found = []
    for columns, vectors in ((8, 1), (4, 2), (4, 1), (2, 2), (2, 4), (1, 4), (1, 1)):
        sums = columns * vectors * problem.m
        if columns > problem.n or sums > machine.vector_registers - 4 or vectors * machine.lanes > problem.k:
            continue
        tasks = 1 if problem.macs < 50_000 else 8 * machine.cores
        size = min(max(ceil_div(ceil_div(problem.n, tasks), columns) * columns, columns), problem.n)
        parallel = machine.cores > 1 and size < problem.n
        found.append(Schedule("gemv", columns=columns, vectors=vectors, task_columns=size, parallel=parallel))
    return found or [Schedule("gemv", columns=1, vectors=1, task_columns=problem.n, parallel=False)]


def cost(problem: GemmProblem, s: Schedule, machine: Machine) -> float:
    """Seconds: a tile's steps along k on two FMA and two load ports, its sums across the lanes, and B from where it lies."""
    vectors = s.columns * s.vectors
    step = max(vectors * problem.m / 2, (vectors + s.vectors * problem.m) / 2, 4.0)
    step += 1.5 * max(0, (vectors + s.vectors) * problem.m - machine.vector_registers)  # sums without a register
    steps, rest = divmod(problem.k, s.vectors * machine.lanes)
    tile = steps * (step + 1) + s.columns * problem.m * (rest + 3 * s.vectors + 8) + 20
    b_bytes = 4.0 * s.columns * problem.k
    if 4 * problem.n * problem.k > 0.6 * machine.l2_bytes * machine.cores:
        tile = max(tile, b_bytes / L3_BYTES_PER_CYCLE)
    tasks = ceil_div(problem.n, s.task_columns)
    task = ceil_div(s.task_columns, s.columns) * tile + 100
    cycles = (ceil_div(tasks, machine.cores) + 0.1) * task + FORK_CYCLES if s.parallel else tasks * task
    return with_memory_s(machine, float(cycles), problem.unique_bytes)


def check(problem: GemmProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    if set(schedule.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(schedule.params)}"
    numbers = (schedule.columns, schedule.vectors, schedule.task_columns)
    if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in numbers):
        return f"columns, vectors and task_columns are integers of at least 1, got {numbers}"
    if not isinstance(schedule.parallel, bool):
        return f"parallel must be True or False, got {schedule.parallel!r}"
    if not schedule.columns <= schedule.task_columns <= problem.n:
        return f"columns <= task_columns <= {problem.n} (n) does not hold"
    if schedule.columns * schedule.vectors * problem.m > 4 * machine.vector_registers:
        return f"columns * vectors * m is over four times the {machine.vector_registers} registers"
    return None


# ------------------------------------------------------------------------------------------------- the row

GEMV = Algorithm(
    name="gemv",
    equation="y[m, n] = sum over k of a[m, k] * b[n, k]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=lambda problem, s: problem.macs,
    workspace_bytes=lambda problem, s, threads: 0,
    parameters=PARAMETERS,
    cost=cost,
    kinds=(GemmProblem,),
    reads_as_stored=True,
)
