"""What answers in place of the service, over real TLS: nonsense, lies, too much, too slowly, half of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from msgspec import structs

from hsm_signer.core import json_codec
from hsm_signer.core.algorithms import spki_of
from hsm_signer.core.content import BytesSource
from hsm_signer.core.identity import enrolment_digest, fingerprint
from hsm_signer.errors import (
    AlgorithmUnsuitable,
    CredentialRevoked,
    EnrolmentProofWrong,
    IdentityChanged,
    RateLimited,
    ServiceAnswerMalformed,
    ServiceError,
    ServiceTimeout,
    ServiceUnreachable,
    SignerError,
    WorkerLost,
)
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    CardPersonalisation,
    Challenge,
    Combine,
    CredentialId,
    CredentialView,
    Digest,
    DigestList,
    InstallationId,
    InstallationSignature,
    KeySpec,
    Message,
    NewCredential,
    PinCheck,
    PinPolicy,
    Quantity,
    Scheme,
    SigningRequest,
    SignOutcome,
    SpkiDer,
    Status,
)
from hsm_signer.workstation.enrolment import check_proof
from hsm_signer.workstation.remote import RemoteServer, _HashingReader
from hsm_signer.workstation.retry import BACKOFF
from hsm_signer.workstation.signing import submit
from tests.support.tls import make_certificate

ID = CredentialId(bytes(range(16)))
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
SPKI = spki_of(KEY.public_key())
DIGEST = Digest(bytes(range(32)))
MESSAGE = b"a message"
REQUEST = SigningRequest(
    Authorisation(Algorithm.ECDSA_SHA256, None, (), bytes(16), (Quantity(bytes(40)),), ID),
    DigestList((DIGEST,)),
)
OF_MESSAGE = SigningRequest(REQUEST.authorisation, Message(BytesSource(MESSAGE)))
Answer = Callable[[ssl.SSLSocket], None]


class Impostor:
    """Answers every request, after reading all of it, with what it was told."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = make_certificate(folder)
        self.answers: list[Answer] = []
        """One for each connection; the last one for all that come after it."""
        self.requests: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._ended.is_set():
                connection.close()
                return
            number = len(self._threads) - 1
            thread = threading.Thread(target=self._talk, args=(connection, number))
            self._threads.append(thread)
            thread.start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(20)
        with (
            connection,
            suppress(OSError, EOFError),
            self._context.wrap_socket(connection, server_side=True) as tls,
        ):
            self.requests.append(_request(tls))
            self.answers[min(number, len(self.answers) - 1)](tls)

    def drip(self, tls: ssl.SSLSocket, data: bytes) -> None:
        """Byte by byte, until the other side has had enough."""
        for position in range(len(data)):
            if self._ended.wait(0.05):
                return
            tls.sendall(data[position : position + 1])

    def silence(self, tls: ssl.SSLSocket) -> None:
        """Nothing, until the other side has had enough."""
        with suppress(TimeoutError):
            tls.recv(1)

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError), socket.create_connection(self._listener.getsockname()):
            pass
        for thread in self._threads:
            thread.join()
        self._listener.close()


def _request(tls: ssl.SSLSocket) -> bytes:
    """Head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(tls)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in lines:
        while not body.endswith(b"0\r\n\r\n"):
            body += _some(tls)
    else:
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += _some(tls)
    return head + b"\r\n\r\n" + body


def _some(tls: ssl.SSLSocket) -> bytes:
    if not (found := tls.recv(65536)):
        raise EOFError
    return found


def http(status: int, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def says(data: bytes) -> Answer:
    return lambda tls: tls.sendall(data)


def tells(value: Any, status: int = 200) -> Answer:
    return says(http(status, json.dumps(value).encode()))


def refuses(status: int, problem: Any, **headers: str) -> Answer:
    return says(http(status, json.dumps(problem).encode(), "application/problem+json", **headers))


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    found = Impostor(tmp_path)
    yield found
    found.close()


@pytest.fixture
def server(impostor: Impostor) -> Iterator[RemoteServer]:
    with RemoteServer(impostor.url, ca=impostor.certificate, token="hsc_x") as found:
        yield found


@pytest.fixture
def hasty(impostor: Impostor) -> Iterator[RemoteServer]:
    """Waits half a second for an answer."""
    with RemoteServer(impostor.url, ca=impostor.certificate, token="hsc_x", timeout=0.5) as found:
        yield found


# --- the way there -----------------------------------------------------------------------------------------

CREDENTIAL = CredentialView(
    credential_id=ID,
    owner="alice",
    status=Status.ACTIVE,
    scheme=Scheme.ROLLING,
    combine=Combine.CBC,
    pin_policy=PinPolicy.ALWAYS,
    pin_check=PinCheck.SERVER,
    token_serial="x",
    spki=SPKI,
    algorithms=(Algorithm.ECDSA_SHA256,),
    version=1,
    x=1,
    failures=0,
    card_serial=bytes(8),
    assurance=0,
    request_hash=None,
)
GOOD = json_codec.to_json(CREDENTIAL)


def test_an_honest_answer_is_taken(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [tells(GOOD)]
    assert server.credential_by_id(ID) == CREDENTIAL
    head = impostor.requests[0].lower()
    assert b"authorization: bearer hsc_x\r\n" in head
    assert b"accept-encoding: identity\r\n" in head


@pytest.mark.parametrize(
    "answer",
    [
        says(b"SSH-2.0-OpenSSH_9.2\r\n"),
        says(b"\x00\xff" * 1000),
        says(http(200, b"")),
        says(http(200, b"<html>", "text/html")),
        says(http(200, b"[]")),
        says(http(200, b"{}")),
        says(http(200, b'{"a":' * 100_000)),
        says(http(200, b"\xff")),
        tells({**GOOD, "colour": 1}),
        tells({**GOOD, "counter": "-1"}),
        tells({**GOOD, "counter": 1}),
        tells({**GOOD, "x": "1"}),
        tells({**GOOD, "version": "0"}),
        tells({**GOOD, "card_serial": "AAAAAAAAAAA="}),
        tells({**GOOD, "credential_id": "00" * 16}),
        tells({name: value for name, value in GOOD.items() if name != "owner"}),
        says(http(200, json.dumps(GOOD).encode(), Content_Encoding="gzip")),
        says(http(200, b"x" * ((4 << 20) + 1))),
        says(http(302, b"", Location="https://127.0.0.1:1/")),
        says(http(404, b'{"detail": "Not Found"}')),
        says(http(502, b"<html>bad gateway</html>", "text/html")),
        refuses(500, "not an object"),
        refuses(500, {"detail": "no code"}),
        refuses(500, {"code": 7}),
        says(http(500, b"{", "application/problem+json")),
    ],
)
def test_nonsense(impostor: Impostor, server: RemoteServer, answer: Answer) -> None:
    impostor.answers = [answer]
    with pytest.raises((ServiceAnswerMalformed, ServiceUnreachable)) as caught:
        server.credential_by_id(ID)
    assert "\n" not in caught.value.message


def test_a_certificate_that_nobody_trusts(impostor: Impostor) -> None:
    with (
        RemoteServer(impostor.url) as server,
        pytest.raises(ServiceUnreachable, match="its certificate is not trusted: self") as caught,
    ):
        server.credential_by_id(ID)
    assert caught.value.hint is not None
    assert "--ca FILE" in caught.value.hint
    assert impostor.requests == []


def test_a_host_that_the_certificate_does_not_name(impostor: Impostor) -> None:
    url = impostor.url.replace("127.0.0.1", "localhost")
    with (
        RemoteServer(url, ca=impostor.certificate) as server,
        pytest.raises(
            ServiceUnreachable, match="its certificate is not trusted: Hostname mismatch"
        ) as caught,
    ):
        server.credential_by_id(ID)
    assert caught.value.hint == "give the service's URL with a host that its certificate names"
    assert impostor.requests == []


def test_no_answer(impostor: Impostor, hasty: RemoteServer) -> None:
    impostor.answers = [impostor.silence]
    with pytest.raises(ServiceTimeout, match=r"no answer within 0\.5 seconds") as caught:
        hasty.credential_by_id(ID)
    assert caught.value.retryable
    assert len(impostor.requests) == 1


def test_an_answer_that_never_ends(impostor: Impostor, hasty: RemoteServer) -> None:
    def slowly(tls: ssl.SSLSocket) -> None:
        answer = http(200, b" " * 100_000)
        tls.sendall(answer[:-100_000])
        impostor.drip(tls, answer[-100_000:])

    impostor.answers = [slowly]
    with pytest.raises(ServiceTimeout):
        hasty.credential_by_id(ID)


def test_half_an_answer_twice(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [says(http(200, json.dumps(GOOD).encode())[:-10])]
    with pytest.raises(ServiceUnreachable, match="the connection broke off"):
        server.credential_by_id(ID)
    assert len(impostor.requests) == 2


def test_a_connection_that_breaks_once_is_made_again(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [lambda tls: None, tells(GOOD)]
    assert server.credential_by_id(ID) == CREDENTIAL
    assert impostor.requests[0] == impostor.requests[1]


def test_a_message_whose_connection_breaks_is_sent_again_from_its_beginning(
    impostor: Impostor, server: RemoteServer
) -> None:
    impostor.answers = [lambda tls: None, tells(outcome(signatures=[base64_of(sign(KEY, MESSAGE))]))]
    assert server.sign(OF_MESSAGE).signatures
    first, again = (_without_boundary(sent) for sent in impostor.requests)
    assert first == again
    assert MESSAGE in first


def _without_boundary(sent: bytes) -> bytes:
    boundary = re.search(rb"boundary=(\w+)", sent)
    assert boundary
    return sent.replace(boundary[1], b"BOUNDARY")


@pytest.mark.parametrize("algorithm", [Algorithm.ECDSA_SHA256, Algorithm.ED25519])
def test_a_message_is_read_chunk_by_chunk(algorithm: Algorithm) -> None:
    """And never whole, however long it is: the reader holds a digest, for Ed25519 what it may be at most."""
    given: list[int] = []

    class Source:
        def chunks(self) -> Iterator[bytes]:
            for number in range(100):
                given.append(number)
                yield bytes(1 << 20)

    reader = _HashingReader(Source(), algorithm)
    assert given == []
    reader.read(65536)
    reader.read(65536)
    assert given == [0, 1]
    reader.seek(0)
    if algorithm is Algorithm.ED25519:
        with pytest.raises(AlgorithmUnsuitable, match="at most 16777216 bytes"):
            list(iter(lambda: len(reader.read(65536)), 0))
        assert len(reader.signed()) == 16 << 20
    else:
        tracemalloc.start()
        while reader.read(65536):
            pass
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
        assert reader.signed() == hashlib.sha256(bytes(100 << 20)).digest()


def test_an_enrolment_is_not_begun_again_by_itself(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [lambda tls: None]
    with pytest.raises(ServiceUnreachable, match="the connection broke off"):
        server.begin_enrolment(WANTED, None)
    assert len(impostor.requests) == 1


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_refusal_is_the_error_of_its_code(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [refuses(403, {"code": "credential.revoked", "detail": "it is revoked", "hint": "h"})]
    with pytest.raises(CredentialRevoked) as caught:
        server.credential_by_id(ID)
    assert (caught.value.message, caught.value.hint) == ("it is revoked", "h")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("worker.lost", WorkerLost),
        ("credential.revoked", CredentialRevoked),
        ("of-tomorrow", ServiceError),
        ("internal", ServiceError),
        ("card.pin-wrong", ServiceError),
        ("", ServiceError),
        ("x" * 10_000, ServiceError),
    ],
)
def test_codes(impostor: Impostor, server: RemoteServer, code: str, kind: type[SignerError]) -> None:
    impostor.answers = [refuses(500, {"code": code, "detail": "y" * 100_000, "title": 1, "hint": 7})]
    with pytest.raises(SignerError) as caught:
        server.credential_by_id(ID)
    assert type(caught.value) is kind
    assert len(caught.value.message) < 1200
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("header", "waited"), [("3", 3.0), ("1000000", 10.0), ("-5", 0.0), ("nan", 0.0), ("Tue, 1 Jan", 0.0)]
)
def test_a_service_that_asks_to_wait_is_obeyed_within_bounds(
    impostor: Impostor, server: RemoteServer, header: str, waited: float
) -> None:
    busy = refuses(
        429, {"code": "client.rate-limited", "detail": "slowly"}, Retry_After=header, Connection="close"
    )
    impostor.answers = [busy, tells(outcome())]
    slept: list[float] = []
    found = submit(server, REQUEST, replace(BACKOFF, sleep=slept.append, random=lambda: 0.0))
    assert found.signatures
    assert [each if each > 0.1 else 0.0 for each in slept] == [waited]


def test_patience_ends(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [refuses(429, {"code": "client.rate-limited"}, Connection="close")]
    with pytest.raises(RateLimited, match="the service refused"):
        submit(server, REQUEST, replace(BACKOFF, sleep=lambda _: None))
    assert len(impostor.requests) == 12


def base64_of(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


# --- lies --------------------------------------------------------------------------------------------------


def sign(key: ec.EllipticCurvePrivateKey, message: bytes | None = None) -> bytes:
    if message is not None:
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    return key.sign(DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))


def outcome(**changes: Any) -> dict[str, Any]:
    honest = SignOutcome(
        credential_id=ID,
        owner="alice",
        algorithm=Algorithm.ECDSA_SHA256,
        spki=SPKI,
        signatures=(sign(KEY),),
        d=Digest(bytes(32)),
        evidence_hash=Digest(bytes(32)),
        repeated=False,
        failures_before=0,
    )
    return {**json_codec.to_json(honest), **changes}


def test_an_honest_signature_is_given_out(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [tells(outcome())]
    assert server.sign(REQUEST).owner == "alice"


def test_an_honest_signature_of_a_message(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [tells(outcome(signatures=[base64_of(sign(KEY, MESSAGE))]))]
    server.sign(OF_MESSAGE)
    sent = impostor.requests[0]
    assert b'\r\nContent-Disposition: form-data; name="authorisation"\r\n' in sent
    assert MESSAGE in sent


@pytest.mark.parametrize(
    "lie",
    [
        outcome(credential_id="00" * 16),
        outcome(algorithm="ecdsa-sha384"),
        outcome(signatures=[]),
        outcome(signatures=[base64_of(sign(KEY))] * 2),
        outcome(signatures=[base64_of(sign(OTHER))]),
        outcome(signatures=[base64_of(sign(KEY, b"another"))]),
        outcome(signatures=["AAAA"]),
        outcome(public_key=base64_of(spki_of(OTHER.public_key()))),
        outcome(public_key="AAAA"),
        outcome(repeated=1),
    ],
)
@pytest.mark.parametrize("request_", [REQUEST, OF_MESSAGE], ids=["digests", "message"])
def test_lies_about_a_signature(
    impostor: Impostor, server: RemoteServer, lie: dict[str, Any], request_: SigningRequest
) -> None:
    impostor.answers = [tells(lie)]
    with pytest.raises(ServiceAnswerMalformed):
        server.sign(request_)


def test_a_good_signature_of_another_key_than_the_challenge_said(
    impostor: Impostor, server: RemoteServer
) -> None:
    challenge = Challenge(ID, Scheme.PIN, None, (), (Algorithm.ECDSA_SHA256,), SPKI)
    another = outcome(
        public_key=base64_of(spki_of(OTHER.public_key())),
        signatures=[base64_of(sign(OTHER))],
    )
    impostor.answers = [
        says(http(200, json_codec.encode(challenge), Connection="close")),
        tells(another),
    ]
    assert server.challenge(ID) == challenge
    with pytest.raises(ServiceAnswerMalformed, match="signatures of another key"):
        server.sign(REQUEST)


WANTED = NewCredential(
    owner="alice",
    scheme=Scheme.ROLLING,
    combine=Combine.CBC,
    key=KeySpec.P256,
    pin_policy=PinPolicy.ALWAYS,
    pin_check=PinCheck.SERVER,
    pin_tries=3,
    puk_tries=10,
    card_point=bytes(65),
    card_serial=bytes(8),
)
PERSONALISATION = json_codec.to_json(
    CardPersonalisation(
        credential_id=ID,
        scheme=Scheme.ROLLING,
        combine=Combine.CBC,
        pin_policy=PinPolicy.ALWAYS,
        pin_check=PinCheck.SERVER,
        pin_tries=3,
        puk_tries=10,
        token_point=bytes(65),
        wrapped_kcar=None,
        wrapped_kek=bytes(40),  # type: ignore[arg-type]
    )
)
IDENTITY = ec.generate_private_key(ec.SECP256R1())
PINNED = fingerprint(spki_of(IDENTITY.public_key()))


def proof(key: ec.EllipticCurvePrivateKey = IDENTITY, **changes: Any) -> Any:
    """As the installation signs what is above; ``changes``: of what it signs."""
    digest = enrolment_digest(
        InstallationId(bytes(8)),
        "alice",
        json_codec.read(CardPersonalisation, {**PERSONALISATION, **changes}),
        card_point=WANTED.card_point,
        spki=SPKI,
    )
    signature = key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    signed = InstallationSignature(InstallationId(bytes(8)), spki_of(key.public_key()), signature)
    return json_codec.to_json(signed)


ENROLMENT = {
    "credential": GOOD,
    "personalisation": PERSONALISATION,
    "request_info": base64_of(b"a request"),
    "proof": proof(),
}


def test_an_honest_enrolment_is_taken(impostor: Impostor, server: RemoteServer) -> None:
    impostor.answers = [tells(ENROLMENT, 201)]
    started = server.begin_enrolment(WANTED, None)
    assert started.credential == CREDENTIAL
    check_proof(WANTED, started, PINNED)


@pytest.mark.parametrize(
    ("part", "lie"),
    [
        ("credential", {**GOOD, "owner": "mallory"}),
        ("credential", {**GOOD, "credential_id": "00" * 16}),
        ("credential", {**GOOD, "public_key": "MAA="}),
        ("personalisation", {**PERSONALISATION, "credential_id": "00" * 16}),
        ("proof", None),
    ],
)
def test_lies_about_an_enrolment(impostor: Impostor, server: RemoteServer, part: str, lie: Any) -> None:
    impostor.answers = [tells({**ENROLMENT, part: lie}, 201)]
    with pytest.raises(ServiceAnswerMalformed):
        server.begin_enrolment(WANTED, None)


LIES: dict[str, Any] = {
    "pin_tries": 15,
    "puk_tries": 0,
    "pin_policy": "session",
    "pin_check": "card",
    "scheme": "basic",
    "combine": "xor",
    "token_point": base64_of(bytes(64) + b"\1"),
    "wrapped_kcar": base64_of(bytes(40)),
    "wrapped_kek": base64_of(bytes(39) + b"\1"),
}


def test_every_field_of_a_personalisation_has_its_lie() -> None:
    assert set(LIES) | {"credential_id"} == set(CardPersonalisation.__struct_fields__)


@pytest.mark.parametrize("field", LIES)
def test_what_the_card_would_get_is_what_was_signed(
    impostor: Impostor, server: RemoteServer, field: str
) -> None:
    lie = {field: LIES[field]}
    impostor.answers = [tells({**ENROLMENT, "personalisation": {**PERSONALISATION, **lie}}, 201)]
    started = server.begin_enrolment(WANTED, None)
    with pytest.raises(EnrolmentProofWrong):
        check_proof(WANTED, started, PINNED)


@pytest.mark.parametrize("field", ["pin_tries", "puk_tries", "pin_policy", "pin_check", "scheme", "combine"])
def test_what_was_signed_is_what_was_wanted(impostor: Impostor, server: RemoteServer, field: str) -> None:
    """The installation itself made it so, because somebody asked it to."""
    lie = {field: LIES[field]}
    told = {"personalisation": {**PERSONALISATION, **lie}, "proof": proof(**lie)}
    impostor.answers = [tells({**ENROLMENT, **told}, 201)]
    started = server.begin_enrolment(WANTED, None)
    with pytest.raises(EnrolmentProofWrong, match=f"has another {field.replace('_', ' ')} than was asked"):
        check_proof(WANTED, started, PINNED)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"credential": {**GOOD, "public_key": base64_of(spki_of(OTHER.public_key()))}}, EnrolmentProofWrong),
        ({"proof": {**proof(), "installation_id": "01" * 8}}, EnrolmentProofWrong),
        ({"proof": {**proof(OTHER), "public_key": proof()["public_key"]}}, EnrolmentProofWrong),
        ({"proof": proof(OTHER)}, IdentityChanged),
    ],
)
def test_what_is_not_signed_by_the_pinned_identity(
    impostor: Impostor, server: RemoteServer, changes: dict[str, Any], error: type[SignerError]
) -> None:
    impostor.answers = [tells({**ENROLMENT, **changes}, 201)]
    started = server.begin_enrolment(WANTED, None)
    with pytest.raises(error):
        check_proof(WANTED, started, PINNED)


@pytest.mark.parametrize("field", ["owner", "card_point", "key"])
def test_what_was_signed_is_for_this_user_this_card_and_this_key_type(
    impostor: Impostor, server: RemoteServer, field: str
) -> None:
    other = {"owner": "bob", "card_point": bytes(64) + b"\1", "key": KeySpec.P384}
    impostor.answers = [tells(ENROLMENT, 201)]
    started = server.begin_enrolment(WANTED, None)
    with pytest.raises(EnrolmentProofWrong):
        check_proof(structs.replace(WANTED, **{field: other[field]}), started, PINNED)


@pytest.mark.parametrize("page", [[], [GOOD], [GOOD, GOOD], [GOOD] * 201])
def test_pages_that_never_end(impostor: Impostor, server: RemoteServer, page: list[Any]) -> None:
    impostor.answers = [
        says(http(200, json.dumps({"credentials": page, "more": True}).encode(), Connection="close"))
    ]
    with pytest.raises(ServiceAnswerMalformed):
        list(server.credentials())
    assert len(impostor.requests) <= 2


def test_answers_grow_with_what_was_asked_for(impostor: Impostor, server: RemoteServer) -> None:
    """Many signatures are more than an answer may otherwise have."""
    count = 20_000
    honest = outcome(signatures=[base64_of(sign(KEY))] * count)
    padded = json.dumps(honest, indent=200).encode()
    assert len(padded) > 4 << 20
    impostor.answers = [says(http(200, padded))]
    many = SigningRequest(REQUEST.authorisation, DigestList((DIGEST,) * count))
    assert len(server.sign(many).signatures) == count


def test_no_word_of_what_is_secret(impostor: Impostor, server: RemoteServer) -> None:
    quantity = base64_of(bytes(40))
    for answer in (tells({"quantities": quantity}), says(b"\0"), refuses(500, {"code": "service.error"})):
        impostor.answers = [answer]
        with pytest.raises(SignerError) as caught:
            server.sign(REQUEST)
        shown = caught.value.message + (caught.value.hint or "") + repr(caught.value)
        assert quantity not in shown
        assert "hsc_x" not in shown
    assert "hsc_x" not in repr(server)


def test_a_key_that_is_no_key(impostor: Impostor, server: RemoteServer) -> None:
    challenge = Challenge(ID, Scheme.PIN, None, (), (Algorithm.ECDSA_SHA256,), SpkiDer(b"\x30\x00"))
    impostor.answers = [
        says(http(200, json_codec.encode(challenge), Connection="close")),
        tells({**GOOD, "public_key": "MAA="}),
    ]
    with pytest.raises(ServiceAnswerMalformed, match="a public key of no known kind"):
        server.challenge(ID)
    with pytest.raises(ServiceAnswerMalformed, match="a public key of no known kind"):
        server.credential_by_id(ID)
