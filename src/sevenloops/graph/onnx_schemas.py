"""What ONNX says of the operators that have a meaning here: the opsets that changed them, and the attributes of each.

The file beside this one holds it, so that models are read without the `onnx` package; a test compares the two. It is made by
`python -m sevenloops.graph.onnx_schemas`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["attributes", "newest", "since_version", "table_of"]

FILE = Path(__file__).with_name("onnx_schemas.json")


@functools.cache
def _table() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def newest() -> int:
    """The newest opset that the file knows."""
    return int(_table()["newest"])


def since_version(op: str, opset: int) -> int | None:
    """The opset that last changed an operator of ONNX's own domain up to `opset`; None where it is not there yet."""
    return max((int(version) for version in _table()["operators"][op] if int(version) <= opset), default=None)


def attributes(op: str, opset: int) -> dict[str, Any]:
    """The attributes of an operator in an opset with their defaults (None: it has none); none before it was there."""
    version = since_version(op, opset) if op in _table()["operators"] else None
    return {} if version is None else dict(_table()["operators"][op][str(version)])


def table_of(names: Iterable[str]) -> dict[str, Any]:
    """What the installed `onnx` says, as the file holds it."""
    import onnx

    operators: dict[str, dict[str, Any]] = {name: {} for name in sorted(names)}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda schema: int(schema.since_version)):
        if not schema.domain and schema.name in operators:
            found = {name: _default(attribute) for name, attribute in sorted(schema.attributes.items())}
            operators[schema.name][str(schema.since_version)] = found
    return {"newest": onnx.defs.onnx_opset_version(), "operators": operators}


def _default(attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
    return value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    from .onnx_import import NATIVE

    FILE.write_text(json.dumps(table_of(NATIVE), separators=(",", ":")) + "\n", encoding="utf-8")
