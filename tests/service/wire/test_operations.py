"""What crosses between front and workers, besides its frames."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_signer.errors import (
    FrameMalformed,
    InputError,
    RecordConflict,
    StoreReadOnly,
    TokenNotFound,
    TokenUnsuitable,
)
from hsm_signer.service.wire import operations as wire
from tests.support.entities import values_of


def test_token_and_store_are_told_by_kind() -> None:
    for error in (TokenNotFound("module /opt/x.so", hint="/opt"), StoreReadOnly("/var/lib/store.db cannot")):
        told = wire.failure_of(error)
        assert told.code == error.code
        assert "/" not in told.message
        assert told.hint is None
    for said in (TokenUnsuitable("no ed25519"), RecordConflict("again", hint="again"), InputError("x: y")):
        assert wire.failure_of(said).message == said.message


OPERATIONS = {kind.__name__: kind for kind in wire.Operation.__subclasses__()}


def test_every_operation_has_a_result() -> None:
    assert set(wire._RESULTS) == set(OPERATIONS.values())


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_encode_gives_decode_takes(name: str, data: st.DataObject) -> None:
    """The front sends what it has made without reading it again: whatever the definitions let in arrives."""
    kind = OPERATIONS[name]
    call = wire.Call(
        caller=data.draw(values_of(wire.Caller)),
        request_id="r",
        operation=data.draw(values_of(kind)),
    )
    assert wire.decode(wire.encode(call), wire.Call) == call
    result = data.draw(values_of(wire._RESULTS[kind]))
    reply = wire.Reply(result=msgspec.Raw(wire.encode(result)), steps=((1, 2),))
    arrived = wire.decode(wire.encode(reply), wire.Reply)
    assert arrived.steps == reply.steps
    assert wire.decode_result(call.operation, arrived.result) == result


@pytest.mark.parametrize("kind", [wire.Failure, wire.WorkerState])
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_else_a_worker_says(kind: Any, data: st.DataObject) -> None:
    value = data.draw(values_of(kind))
    assert wire.decode(wire.encode(value), kind) == value


def test_what_is_malformed_is_named_by_its_place_and_never_quoted() -> None:
    call = wire.Call(caller=wire.Caller(), request_id="r", operation=wire.GetCredential(owner="s" * 300))
    with pytest.raises(FrameMalformed) as caught:
        wire.decode(wire.encode(call), wire.Call)
    assert caught.value.message == "expected Call: ValidationError .operation.owner"
    assert caught.value.__cause__ is None
