"""The walls between the rooms, held by walking the imports of every file: they run downwards only."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sevenloops
from sevenloops.algorithms import ALGORITHMS
from sevenloops.compile.store import build_versions, sources
from sevenloops.gradients import GRADIENTS
from sevenloops.layers import LAYERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sevenloops"
MAX_LINES = 400

#: The rooms from the bottom up, each with its modules: a module imports from its own room and from those above it in
#: this list. The first are the values; the package's `__init__` ("sevenloops") shows what users see; nobody imports cli.
ROOMS = {
    "values": "errors locks epilogue sizes shift problem adjoint descriptor schedule machine machine_detect "
    "machine_measure paths reference rows",
    "tools": "arrays inputs recent weights records",
    "algorithms": "algorithms",
    "layers": "layers",
    "gradients": "gradients",
    "choice": "choice learned",
    "compile": "compile",
    "tune": "tune",
    "functional": "functional functional_shift functional_gradients",
    "graph": "graph",
    "models": "models",
    "session": "session onnx_backend network_tuning",
    "analysis": "analysis",
    "torch": "torch",
    "train": "train",
    "front": "sevenloops",
    "report": "report",
    "bench": "bench",
    "ladder": "ladder",
    "demo": "demo classify",
    "cli": "cli __main__",
}
RANKS = {module: rank for rank, modules in enumerate(ROOMS.values()) for module in modules.split()}
ROOM_OF = {module: room for room, modules in ROOMS.items() for module in modules.split()}

#: Packages of others, and the rooms that may import them.
OTHERS = {
    "numpy": set(ROOMS),
    "halide": {"algorithms", "layers", "gradients", "compile", "ladder"},
    "llvmlite": {"values", "compile"},
    "onnx": {"bench", "graph", "session"},
    "onnxruntime": {"bench"},
    "openvino": {"bench"},
    "torch": {"bench", "torch", "train"},
    "MNN": {"bench"},
    "plotly": {"report"},
    "PIL": {"demo", "train"},
    "skimage": {"demo"},
    "rich": {"bench", "ladder", "cli"},
    "matplotlib": {"ladder", "report"},
    "typer": {"cli"},
}
#: Imported inside functions only: `import sevenloops` must stay quick, and the values must not need LLVM.
LAZY_IN_VALUES = {"llvmlite"}
HEAVY = "halide llvmlite rich typer torch onnx onnxruntime openvino PIL plotly matplotlib"
NOT_LOADED_BY_IMPORT = HEAVY.split()

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """`("sevenloops", "compile", "kernel")`; a package counts as its `__init__`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_key(module: tuple[str, ...]) -> str:
    """What `ROOMS` lists: the first name below the package, or the package itself."""
    return module[1] if len(module) > 1 else module[0]


def imports(path: Path) -> Iterator[tuple[tuple[str, ...], ast.stmt, bool]]:
    """Every module that a file imports, in full, with the statement and whether it stands inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node) for function in ast.walk(tree) if is_function(function) for node in ast.walk(function)}
    folder = path.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            # `from . import store` names a module, `from .store import load` what is in it.
            names = [(*base, alias.name) if base == ("sevenloops",) else base for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node, id(node) in inside


def is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def is_module(name: tuple[str, ...]) -> bool:
    path = PACKAGE.parent.joinpath(*name)
    return path.is_dir() or path.with_suffix(".py").is_file()


def complaints(path: Path) -> list[str]:
    """What is wrong with the imports of a file."""
    room = ROOM_OF[room_key(module_of(path))]
    found = []
    for name, node, lazy in imports(path):
        where = f"{path.relative_to(ROOT)}:{node.lineno}: {room} imports {'.'.join(name)}"
        if name[0] == "sevenloops":
            target = room_key(name if is_module(name) else name[:1])
            if RANKS[target] > RANKS[room_key(module_of(path))]:
                found.append(f"{where}, which stands above it")
        elif name[0] not in sys.stdlib_module_names:
            if room not in OTHERS.get(name[0], set()):
                found.append(f"{where}, which only {sorted(OTHERS.get(name[0], set()))} may")
            elif room == "values" and name[0] in LAZY_IN_VALUES and not lazy:
                found.append(f"{where} outside of a function")
    return found


def test_every_module_has_a_room() -> None:
    assert FILES
    assert {room_key(module_of(path)) for path in FILES} <= set(ROOM_OF), "give the new module a room in ROOMS"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    assert not complaints(path)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("problem.py", "import halide as hl", "values imports halide"),
        ("problem.py", "from .compile import compile", "values imports sevenloops.compile"),
        ("problem.py", "def f():\n    from sevenloops.cli.main import main", "values imports sevenloops.cli.main"),
        ("problem.py", "import sevenloops", "values imports sevenloops,"),
        ("problem.py", "import scipy", "values imports scipy"),
        ("machine.py", "from llvmlite import binding", "outside of a function"),
        ("machine.py", "def f():\n    import torch", "values imports torch"),
        ("algorithms/direct.py", "from .. import compile", "algorithms imports sevenloops.compile"),
        ("algorithms/direct.py", "from ..compile.kernel import Kernel", "algorithms imports sevenloops.compile.kernel"),
        ("bench/runner.py", "import halide", "bench imports halide"),
        ("bench/runner.py", "from ..cli import main", "bench imports sevenloops.cli"),
        ("__init__.py", "from .cli import main", "front imports sevenloops.cli"),
    ],
)
def test_the_walk_finds_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, complaint: str) -> None:
    """Each forbidden import is found when it is written into a file of that name."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "sevenloops")
    for module in RANKS:
        (tmp_path / "sevenloops" / module).mkdir(parents=True, exist_ok=True)
    path = tmp_path / "sevenloops" / name
    path.write_text(text, encoding="utf-8")
    (found,) = complaints(path)
    assert complaint in found


def test_the_kernels_digest_has_all_that_builds_them() -> None:
    """Every module that `build` can reach, through functions too; the package's `__init__` only shows what there is."""
    reached: set[tuple[str, ...]] = set()
    rows = (
        *ALGORITHMS.values(),
        *LAYERS.values(),
        *GRADIENTS.values(),
    )  # their tables name the modules, which are imported when looked up
    found = [("sevenloops", "compile", "build"), *(tuple(row.define.__module__.split(".")) for row in rows)]
    while found:
        name = found.pop()
        if name in reached or name[:1] != ("sevenloops",) or len(name) == 1:
            continue
        reached.add(name)
        path = PACKAGE.parent.joinpath(*name)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.exists():
            found += [part for full, _, _ in imports(path) for part in (full, full[:-1])]
    assert len(reached) > 50
    names = {module_of(path) for path in sources()}
    assert {name for name in reached if is_module(name)} <= names


#: A plain call, and a run of a network, that the cache has everything for.
CALL = "x = np.ones((1, 8, 8, 8), np.float32); sevenloops.conv2d(x, np.ones((8, 8, 3, 3), np.float32))"
RUN = """
from sevenloops.graph.builder import GraphBuilder
net = GraphBuilder("net")
graph = net.graph(y=net.relu(net.conv(net.input("x", (1, 8, 8, 8)), 8, 3)))
sevenloops.InferenceSession(graph).run(None, {"x": np.ones((1, 8, 8, 8), np.float32)})
"""
#: What starts processes, what is only needed to compile, and algorithms that such calls never choose.
NOT_LOADED_WHEN_CACHED = (
    *NOT_LOADED_BY_IMPORT, "concurrent", "multiprocessing", "subprocess", "tempfile", "importlib.metadata",
    "sevenloops.compile.child", "sevenloops.compile.workers", "sevenloops.algorithms.fft",
    "sevenloops.algorithms.transposed", "sevenloops.tune", "sevenloops.bench",
)  # fmt: skip


def loaded(code: str) -> set[str]:
    """The modules that a process has loaded after `import sevenloops` and some code."""
    code = f"import sevenloops, sys\n{code}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing() -> None:
    modules = loaded("")
    assert "sevenloops" in modules
    assert not {name for name in modules if name.startswith("sevenloops.")} | (modules & {"numpy", *NOT_LOADED_BY_IMPORT})


def test_the_command_line_needs_no_peer_and_leaves_their_settings_alone() -> None:
    """A command starts without PyTorch, and the engines that it times inherit nothing from it."""
    code = "import os; before = dict(os.environ); import sevenloops.cli.main; assert dict(os.environ) == before"
    assert not loaded(code) & {"torch", "onnx", "onnxruntime", "openvino", "halide", "PIL"}


@pytest.mark.parametrize("code", [CALL, RUN], ids=["call", "run"])
def test_what_is_cached_loads_only_what_it_needs(code: str) -> None:
    code = f"import numpy as np\n{code}"
    loaded(code)  # into the cache
    modules = loaded(code)
    assert {"sevenloops.compile.runtime", "sevenloops.layers.transpose"} <= modules
    assert not modules & set(NOT_LOADED_WHEN_CACHED)


def test_public_names_are_where_type_checkers_see_them() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == sevenloops._MODULE_OF and sorted(seen) == sevenloops.__all__
    assert set(sevenloops.__all__) <= set(dir(sevenloops))
    for name, module in seen.items():
        assert getattr(sevenloops, name) is getattr(importlib.import_module(f"sevenloops.{module}"), name)


@pytest.mark.parametrize(
    "first", ["import sevenloops.compile.cache", "from sevenloops.compile import store", "sevenloops.conv2d", "pass"]
)
def test_compile_is_the_function_and_the_package(first: str) -> None:
    """Whatever is imported first: the import system would put the package in the function's place."""
    code = f"{first}; from sevenloops import compile; assert compile is sevenloops.compile; compile.__call__"
    assert "sevenloops.compile.kernel" in loaded(f"{code}; from sevenloops.compile.kernel import Kernel; sevenloops.records")


def test_a_name_that_is_not_there() -> None:
    for name in ("convolve", "_private", "__main__"):
        assert not hasattr(sevenloops, name)
    assert sevenloops.records is sys.modules["sevenloops.records"]


@pytest.mark.parametrize(
    "path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_versions_of_the_compiler_are_those_of_its_packages() -> None:
    assert build_versions() == {name: importlib.metadata.version(name) for name in ("halide", "llvmlite")}
