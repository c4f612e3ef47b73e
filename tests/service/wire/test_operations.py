"""What crosses between front and workers, besides its frames."""

from __future__ import annotations

from hsm_signer.errors import InputError, RecordConflict, StoreReadOnly, TokenNotFound, TokenUnsuitable
from hsm_signer.service.wire import operations as wire


def test_token_and_store_are_told_by_kind() -> None:
    for error in (TokenNotFound("module /opt/x.so", hint="/opt"), StoreReadOnly("/var/lib/store.db cannot")):
        told = wire.failure_of(error)
        assert told.code == error.code
        assert "/" not in told.message
        assert told.hint is None
    for said in (TokenUnsuitable("no ed25519"), RecordConflict("again", hint="again"), InputError("x: y")):
        assert wire.failure_of(said).message == said.message
