"""Whatever comes over its socket: a worker carries out what is of the agreed form, and goes on."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm_signer.errors import CredentialUnknown, FrameMalformed
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_CHUNK, MAX_FRAME, Kind, frame_bytes
from hsm_signer.types import Event
from tests.support.scenes import AUTHORISATION, authorise, sql
from tests.support.service import WorkerClient, error_in
from tests.support.tenants import Running

TABLES = ("credential", "evidence", "client")


def stored(running: Running) -> list[Any]:
    """Everything in the store."""
    return [sql(running.home, f"SELECT * FROM {table}") for table in TABLES]


@pytest.fixture(autouse=True)
def _unharmed(running: Running) -> Any:
    """Afterwards the worker is the same process, serves, and has written nothing."""
    pid, before = running.service.pid_of("worker-0"), stored(running)
    yield
    with running.as_client("app") as client:
        assert client.hello.pid == pid
        assert client.call(wire.WhoAmI()).name == "app"
    assert stored(running) == before
    assert running.service.find("started", child="worker-0")[-1]["generation"] == 1
    assert running.service.find("internal-error") == []
    assert running.service.find("text") == []


def refused(client: WorkerClient, number: int = 0) -> str:
    """The worker answers FAILURE with this id and closes; what it says."""
    frame = client.finish(number)
    assert (frame.id, frame.kind) == (number, Kind.FAILURE), frame
    error = error_in(frame)
    assert type(error) is FrameMalformed
    assert client.is_closed()
    return error.message


def call_bytes(operation: wire.AnyOperation, number: int = 1, bearer: str | None = None) -> bytes:
    """A CALL frame."""
    call = wire.Call(caller=wire.Caller(bearer=bearer), request_id="x", operation=operation)
    return frame_bytes(number, Kind.CALL, wire.encode(call))


@pytest.mark.parametrize("length", [0, 8, MAX_FRAME + 1, 2**32 - 1])
def test_lengths(running: Running, length: int) -> None:
    with running.as_client("app") as client:
        client.send(struct.pack(">IQB", length, 7, 1))
        assert "length" in refused(client)


def test_an_unknown_kind(running: Running) -> None:
    with running.as_client("app") as client:
        client.send(struct.pack(">IQB", 9, 7, 6))
        assert "kind" in refused(client, 7)


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.REPLY, Kind.FAILURE, Kind.STATE])
def test_kinds_of_the_other_direction(running: Running, kind: Kind) -> None:
    with running.as_client("app") as client:
        client.send(frame_bytes(3, kind, wire.encode(client.hello)))
        assert "expected CALL or CHUNK" in refused(client, 3)


def test_a_stream_that_ends_inside_a_frame(running: Running) -> None:
    with running.as_client("app") as client:
        client.send(call_bytes(wire.WhoAmI())[:-1])
        client.end()
        assert "ends inside" in refused(client)


def test_ids_ascend(running: Running) -> None:
    with running.as_client("app") as client:
        token = running.tenants.tokens["app"]
        client.send(call_bytes(wire.WhoAmI(), 5, token))
        assert client.finish(5).kind is Kind.REPLY
        client.send(call_bytes(wire.WhoAmI(), 5, token))
        assert "id: expected more than 5" in refused(client, 5)
    with running.as_client("app") as client:
        client.send(call_bytes(wire.WhoAmI(), 0))
        assert "id: expected more than 0" in refused(client, 0)


def test_a_chunk_that_nobody_expects(running: Running) -> None:
    with running.as_client("app") as client:
        client.send(frame_bytes(4, Kind.CHUNK, b"x"))
        assert "no message is expected" in refused(client, 4)
    with running.as_client("app") as client:
        assert client.call(wire.WhoAmI())
        client.send(frame_bytes(1, Kind.CHUNK, b"x"))
        assert "no message is expected" in refused(client, 1)


@pytest.mark.parametrize("chunks", [[b""], [b"x" * 101], [b"x" * 60, b"x" * 41], [b"x" * 100, b"x"]])
def test_chunks_that_do_not_fit(running: Running, chunks: list[bytes]) -> None:
    with running.as_client("app") as client:
        # For a credential that is not there: the message that is complete leaves no entry.
        number = client.begin(wire.Sign(authorisation=AUTHORISATION, message=100))
        for chunk in chunks:
            client.send(frame_bytes(number, Kind.CHUNK, chunk))
        found = client.finish(number)
        if error_in(found).code == CredentialUnknown.code:
            found = client.finish(number)  # the message was complete, and answered first
        assert type(error_in(found)) is FrameMalformed
        assert client.is_closed()


def test_a_chunk_that_is_too_long(running: Running) -> None:
    with running.as_client("app") as client:
        request = authorise(client, running.home["alice"], b"x")
        number = client.begin(wire.Sign(authorisation=request.authorisation, message=1_000_000))
        client.send(frame_bytes(number, Kind.CHUNK, bytes(MAX_CHUNK + 1)))
        assert "expected 1 to 65536" in refused(client, number)


def test_a_message_that_does_not_end(running: Running) -> None:
    with running.as_client("app") as client:
        request = authorise(client, running.home["alice"], b"x" * 100)
        number = client.begin(wire.Sign(authorisation=request.authorisation, message=100))
        client.send(frame_bytes(number, Kind.CHUNK, b"x" * 99))
        # Other calls do not wait for it.
        assert client.call(wire.WhoAmI()).name == "app"
        client.end()
        assert client.is_closed()


def _good_call() -> dict[str, Any]:
    return {"caller": {}, "request_id": "x", "operation": {"op": "who-am-i"}}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x91" * 3000 + b"\xc0",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({**_good_call(), "more": 1}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "unknown"}}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "login", "lifetime": 59}}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "login", "lifetime": "60"}}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "list-credentials", "limit": 1001}}),
        msgspec.msgpack.encode(
            {**_good_call(), "operation": {"op": "change-status", "credential_id": bytes(16), "event": "x"}}
        ),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "credential", "credential_id": b"x"}}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "credential", "owner": ""}}),
        msgspec.msgpack.encode({**_good_call(), "operation": {"op": "logout", "token": "x" * 4097}}),
        msgspec.msgpack.encode({**_good_call(), "caller": {"certificate": b"short"}}),
        msgspec.msgpack.encode({**_good_call(), "caller": {"bearer": "x" * 4097}}),
        msgspec.msgpack.encode(_good_call()) + b"\xc0",
    ],
)
def test_payloads(running: Running, payload: bytes) -> None:
    with running.as_client("app") as client:
        client.send(frame_bytes(1, Kind.CALL, payload))
        frame = client.finish(1)
        assert (frame.id, frame.kind) == (1, Kind.FAILURE)
        error = error_in(frame)
        assert type(error) is FrameMalformed
        assert "x" * 100 not in error.message
        # Only this call ends with it.
        client.send(call_bytes(wire.WhoAmI(), 2, running.tenants.tokens["app"]))
        assert client.finish(2).kind is Kind.REPLY
        client.send(frame_bytes(2, Kind.CALL, payload))
        assert "id: expected more than 2" in refused(client, 2)


def test_what_came_before_a_bad_frame_may_be_answered(running: Running) -> None:
    with running.as_client("app") as client:
        client.send(b"".join(call_bytes(wire.WhoAmI(), n) for n in range(1, 20)) + bytes(4))
        assert client.is_closed()


# --- anything ----------------------------------------------------------------------------------------------

packed = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
).map(msgspec.msgpack.encode)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from([kind.__struct_config__.tag for kind in wire.Operation.__subclasses__()])},
    optional={
        "credential_id": st.binary(max_size=17),
        "owner": st.text(max_size=5),
        "limit": st.integers(-1, 1001),
        "after": st.integers(-1, 2**63) | st.binary(max_size=16),
        "message": st.integers(-1, 2**63),
        "authorisation": st.none(),
        "event": st.sampled_from([event.value for event in Event]) | st.integers(0, 9),
    },
)
calls = st.fixed_dictionaries(
    {"caller": st.just({}), "request_id": st.just("f"), "operation": operations}
).map(msgspec.msgpack.encode)
a_frame = st.builds(
    frame_bytes, st.integers(0, 5), st.sampled_from(Kind), packed | calls | st.binary(max_size=100)
)
lengths = st.integers(0, 2**32 - 1).map(lambda n: struct.pack(">I", n))
streams = st.lists(a_frame | st.binary(max_size=60) | lengths, max_size=6).map(b"".join)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=streams, cut=st.integers(0, 20))
def test_anything(running: Running, data: bytes, cut: int) -> None:
    # No client's name among it: nothing of this may be carried out.
    with running.service.worker() as client:
        try:
            client.send(data[: len(data) - cut])
            client.end()
        except OSError:
            pass  # closed in between
        assert client.is_closed()


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operation=operations)
def test_any_operation_of_a_client(running: Running, operation: dict[str, Any]) -> None:
    """Fields of the right types with odd values: each is answered, by an error that was meant."""
    caller = {"bearer": running.tenants.tokens["app"]}
    call = msgspec.msgpack.encode({"caller": caller, "request_id": "f", "operation": operation})
    with running.service.worker() as client:
        client.send(frame_bytes(1, Kind.CALL, call))
        frame = client.receive()
        assert frame.kind in (Kind.REPLY, Kind.FAILURE)
        if frame.kind is Kind.FAILURE:
            assert error_in(frame).code != "internal"
