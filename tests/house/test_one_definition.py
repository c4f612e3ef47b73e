"""A field that is added to an entity is everywhere at once: in JSON, schema, wire and rows."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings

from hsm_signer.core import json_codec, json_schema
from hsm_signer.core.canonical import sequence
from hsm_signer.errors import FrameMalformed, InputError, StoreError
from hsm_signer.evidence.findings import Finding
from hsm_signer.service.wire import operations as wire
from hsm_signer.store import schema
from hsm_signer.store.client_rows import ClientRow
from hsm_signer.store.columns import BadValue, Columns
from hsm_signer.store.rows import ENTRY_COLUMNS, RECORD_COLUMNS, EnrolmentColumns
from hsm_signer.types import (
    U64,
    Algorithms,
    AnyDigest,
    Credential,
    CredentialRecord,
    CredentialView,
    EvidenceEntry,
    Mode,
    Sha256,
    Signature,
    Time,
)
from tests.support.entities import values_of


class Extended(EvidenceEntry, frozen=True, rename={"w": "weight"}):
    """An entry of tomorrow."""

    w: U64
    """How much it weighs."""
    seen: Time | None
    proof: Sha256
    other_mode: Mode | None
    others: Algorithms
    leaves: Annotated[tuple[AnyDigest, ...], msgspec.Meta(max_length=5)]
    stamp: Signature


def _ascending(value: Extended) -> Extended:
    """Its algorithms as a column holds them."""
    others = sorted(set(value.others), key=lambda algorithm: algorithm.number)
    return msgspec.structs.replace(value, others=tuple(others))


EXTENDED = values_of(Extended).map(_ascending)
ADDED = {"w", "seen", "proof", "other_mode", "others", "leaves", "stamp"}
WRONG: dict[str, tuple[Any, Any]] = {
    "weight": (5, -1),
    "seen": (5, -1),
    "proof": ("AAAA", bytes(31)),
    "other_mode": (2, "neither"),
    "others": (["md5"], ()),
    "leaves": ([1], (bytes(31),)),
    "stamp": ("AAAA=", b""),
}
"""Of each new field a value that its JSON, and one that its Python type does not allow."""
PUBLIC = set(WRONG)


def test_json_and_wire_and_rows() -> None:
    columns = Columns(Extended)

    @settings(max_examples=25, deadline=None)
    @given(EXTENDED)
    def holds(value: Extended) -> None:
        said = json_codec.to_json(value)
        assert set(said) >= PUBLIC
        assert said["weight"] == str(value.w)
        assert json_codec.read(Extended, said) == value
        assert wire.decode(wire.encode(value), Extended) == value
        row = columns.row(value, "entry")
        assert set(row) >= ADDED
        assert all(column is None or type(column) in (int, str, bytes) for column in row.values())
        assert columns.read(row.values()) == value

    holds()


@pytest.mark.parametrize("name", WRONG)
def test_each_side_refuses_what_the_definition_does(name: str) -> None:
    attribute = "w" if name == "weight" else name
    in_json, in_python = WRONG[name]
    columns = Columns(Extended)

    @settings(max_examples=5, deadline=None)
    @given(EXTENDED)
    def refuses(value: Extended) -> None:
        said = json_codec.to_json(value)
        with pytest.raises(InputError, match=rf"^{name}(\[0\])?: expected "):
            json_codec.read(Extended, {**said, name: in_json})
        with pytest.raises(InputError, match=f"missing field '{name}'"):
            json_codec.read(Extended, {key: item for key, item in said.items() if key != name})
        bad = msgspec.structs.replace(value, **{attribute: in_python})
        with pytest.raises(FrameMalformed, match=rf"\.{name}"):
            wire.decode(wire.encode(bad), Extended)
        if attribute == "other_mode":
            return  # no column holds what has no number
        row = columns.row(value, "entry")
        row[attribute] = {"others": b"", "leaves": sequence(bad.leaves)}.get(attribute, in_python)
        with pytest.raises(BadValue) as caught:
            columns.read(row.values())
        assert caught.value.field == attribute
        with pytest.raises(StoreError, match=f"field {attribute} is not"):
            columns.row(bad, "entry")

    refuses()


def test_schema() -> None:
    found = json_schema.components([Extended])["Extended"]
    assert set(found["properties"]) >= PUBLIC
    assert set(found["required"]) >= PUBLIC
    assert found["properties"]["weight"]["type"] == "string"
    assert found["properties"]["weight"]["description"] == "How much it weighs."
    assert found["properties"]["proof"] == {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    assert found["properties"]["other_mode"]["anyOf"][0] == {"$ref": "#/components/schemas/Mode"}


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (
            schema.credential,
            {*RECORD_COLUMNS, *EnrolmentColumns.__struct_fields__, "mac", "counted_refusals"},
        ),
        (schema.evidence, {*ENTRY_COLUMNS, "id", "hash"}),
        (schema.client, set(ClientRow.__struct_fields__)),
    ],
    ids=["credential", "evidence", "client"],
)
def test_tables_have_a_column_for_each_field(table: Any, columns: set[str]) -> None:
    assert set(table.columns.keys()) == columns


def test_every_field_has_bounds() -> None:
    """Or one side would let in what the other has no room for."""
    unbounded = [
        f"{kind.__name__}.{field.name}"
        for kind in (CredentialRecord, CredentialView, EvidenceEntry, Finding)
        for field in msgspec.structs.fields(kind)
        if _is_unbounded(msgspec.inspect.type_info(field.type))
    ]
    assert unbounded == []


def _is_unbounded(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _is_unbounded(inner)
        case msgspec.inspect.UnionType(types=types):
            return any(map(_is_unbounded, types))
        case msgspec.inspect.BytesType() | msgspec.inspect.StrType():
            return kind.max_length is None
        case msgspec.inspect.VarTupleType(item_type=item):
            return kind.max_length is None or _is_unbounded(item)
        case msgspec.inspect.IntType():
            return kind.ge is None or kind.le is None
    return False


def test_a_view_shows_only_what_it_shares_with_the_record() -> None:
    assert CredentialView.__struct_fields__ == Credential.__struct_fields__
    assert issubclass(CredentialRecord, Credential)
    assert not issubclass(CredentialRecord, CredentialView)
