"""What ONNX says of its operators, by opset: how many inputs and outputs they have, and which attributes.

For those that have a meaning here the file beside this one holds it, so that models are read without the `onnx` package; a
test compares the two. It is made by `python -m sevenloops.graph.onnx_schemas`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .protos import require_onnx

__all__ = ["Attribute", "Schema", "newest", "schema_of", "table_of"]

FILE = Path(__file__).with_name("onnx_schemas.json")


class Attribute(NamedTuple):
    """An attribute: its type (`AttributeProto.AttributeType`), whether it must be there, and else its default or None."""

    type: int
    required: bool
    default: Any


class Schema(NamedTuple):
    """An operator as of the opset `since`. `inputs` are names with whether they must be given; the last may repeat."""

    since: int
    least_inputs: int
    most_inputs: int
    inputs: list[tuple[str, bool]]
    least_outputs: int
    most_outputs: int
    attributes: dict[str, Attribute]


@functools.cache
def _table() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def newest() -> int:
    """The newest opset that the file knows."""
    return int(_table()["newest"])


@functools.cache
def schema_of(op: str, opset: int, domain: str = "") -> Schema | None:
    """An operator in an opset; None where there is none of that name yet, and for domains that are not ONNX's."""
    if domain and not domain.startswith("ai.onnx"):
        return None
    if not domain and opset <= newest() and op in _table()["operators"]:
        rows = [row for row in _table()["operators"][op] if row[0] <= opset]
        if not rows:
            return None
        *numbers, attributes = max(rows)
        return Schema._make([*numbers, {name: Attribute(*found) for name, found in attributes.items()}])
    defs = require_onnx().defs
    return _schema(defs.get_schema(op, opset, domain)) if defs.has(op, opset, domain) else None


def table_of(names: Iterable[str]) -> dict[str, Any]:
    """What the installed `onnx` says of operators of ONNX's own domain, as the file holds it."""
    import onnx

    operators: dict[str, list[Any]] = {name: [] for name in sorted(names)}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda schema: int(schema.since_version)):
        if not schema.domain and schema.name in operators:
            operators[schema.name].append(_schema(schema))
    return {"newest": onnx.defs.onnx_opset_version(), "operators": operators}


def _schema(schema: Any) -> Schema:
    """One of onnx's."""
    attributes = {
        name: Attribute(int(found.type), bool(found.required), _default(found))
        for name, found in sorted(schema.attributes.items())
    }
    inputs = [(parameter.name, parameter.option == type(parameter.option).Single) for parameter in schema.inputs]
    sizes = (schema.min_input, schema.max_input, inputs, schema.min_output, schema.max_output)
    return Schema(int(schema.since_version), *sizes, attributes)


def _default(attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
    return value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    from .onnx_import import NATIVE

    FILE.write_text(json.dumps(table_of(NATIVE), separators=(",", ":")) + "\n", encoding="utf-8")
