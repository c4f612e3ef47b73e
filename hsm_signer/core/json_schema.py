"""JSON Schema of the entities as core/json_codec.py reads and writes them, from their definitions.

What a field means comes from the docstring below it in the source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from hsm_signer.types import IN_JSON

TEMPLATE = "#/components/schemas/{name}"
"""Where OpenAPI keeps schemas."""


def components(kinds: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Make the schemas of several kinds and of all they are made of, by name (JSON Schema 2020-12)."""
    listed = tuple(kinds)
    _, schemas = msgspec.json.schema_components(listed, ref_template=TEMPLATE)
    for kind in _all_of(listed):
        properties = schemas[kind.__name__]["properties"]
        names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
        for field, words in field_words(kind).items():
            properties[names[field]]["description"] = words
    return {name: _tidied(schema) for name, schema in schemas.items()}


def schema_of(kind: Any) -> dict[str, Any]:
    """Make the schema of one value, such as a parameter."""
    schema: dict[str, Any] = _tidied(msgspec.json.schema(kind, ref_template=TEMPLATE))
    return schema


def _all_of(kinds: Iterable[type[msgspec.Struct]]) -> set[type[msgspec.Struct]]:
    """Collect these structs and those in their fields."""
    structs: set[type[msgspec.Struct]] = set()

    def visit(kind: Any) -> None:
        match kind:
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                structs.add(cls)
                for field in fields:
                    visit(field.type)
            case msgspec.inspect.Metadata(type=inner) | msgspec.inspect.VarTupleType(item_type=inner):
                visit(inner)
            case msgspec.inspect.UnionType(types=types):
                for inner in types:
                    visit(inner)

    for kind in kinds:
        visit(msgspec.inspect.type_info(kind))
    return structs


@cache
def field_words(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Read the docstrings below a struct's fields, by field, inherited ones included."""
    docstrings: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not issubclass(owner, msgspec.Struct) or owner is msgspec.Struct:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        name = ""
        for statement in tree.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=target)):
                    name = target
                case ast.Expr(value=ast.Constant(value=str() as words)) if name:
                    docstrings[name] = " ".join(words.split())
                case _:
                    name = ""
    return docstrings


def _tidied(value: Any) -> Any:
    """Replace the schema of a field's Python type by that of its JSON, and add the type of enumerations."""
    if isinstance(value, list | tuple):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    if IN_JSON in value:
        value = value[IN_JSON] | {name: value[name] for name in ("description", "default") if name in value}
    if "enum" in value:
        numbers = all(isinstance(choice, int) for choice in value["enum"])
        value = {"type": "integer" if numbers else "string"} | value
    return {name: _tidied(item) for name, item in value.items()}
