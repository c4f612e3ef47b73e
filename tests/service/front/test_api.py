"""The native interface over HTTPS: a real front, a real worker, a real token, simulated cards."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from hsm_signer.card.address import create_card
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import json_codec
from hsm_signer.core.canonical import sequence
from hsm_signer.core.identity import check_signature, fingerprint, request_digest
from hsm_signer.core.interface import (
    Capabilities,
    CredentialPage,
    EnrolmentRequest,
    EvidencePage,
    Limits,
    RequestInfo,
)
from hsm_signer.errors import InputError
from hsm_signer.evidence.anchor import Anchor
from hsm_signer.server.base import system_clock
from hsm_signer.service import clients
from hsm_signer.service.front.health import Readiness
from hsm_signer.service.front.http.bodies import strict_json
from hsm_signer.service.roles import Role
from hsm_signer.testing import PIN, PUK, Person
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    Algorithm,
    Challenge,
    Combine,
    CredentialId,
    CredentialView,
    EnrolmentStarted,
    KeySpec,
    NewCredential,
    PinCheck,
    Scheme,
    SignOutcome,
)
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from tests.support.authority import Authority
from tests.support.enrolments import wanted
from tests.support.front import (
    PROBLEM,
    Identity,
    Wire,
    api,
    body_of,
    make_identity,
    pem,
    problem,
    send,
    signatures_path,
)
from tests.support.people import digests
from tests.support.scenes import altered, authorise, flipped_quantity, message, passing_wrong_pins, verifies
from tests.support.service import Service, WorkerClient, in_process, serving
from tests.support.tenants import Tenants

SETTINGS = """
[tls]
client_ca = "tls/clients.pem"
[limits]
digests = 50
message = 4194304
rate = 100000
burst = 100000
"""


def _add(server: Any, name: str, certificate: bytes) -> None:
    clients.add(
        server.environment,
        server.store,
        name=name,
        roles=tuple(Role),
        certificate=certificate,
        actor="test",
        clock=system_clock,
    )


@dataclass(frozen=True)
class Scene:
    """The service, its people, and a client that may do everything."""

    service: Service
    tenants: Tenants
    client: httpx.Client
    identity: Identity
    folder: Path

    def person(self, name: str) -> Person:
        return self.tenants.home[name]

    def worker(self) -> WorkerClient:
        """Past the front."""
        return self.service.worker(bearer=self.tenants.tokens["app"])

    def id_of(self, name: str) -> str:
        return str(self.client.get(f"/v1/users/{name}/credential").json()["credential_id"])

    def authorise(self, person: Person | str, content: Any = b"message", **more: Any) -> Any:
        """What the card makes of it, on the challenge that the front gives."""
        if isinstance(person, str):
            person = self.person(person)
        return authorise(_Challenger(self.client), person, content, **more)  # type: ignore[arg-type]

    def newcomer(self, name: str, scheme: Scheme = Scheme.ROLLING, **more: Any) -> Person:
        """Somebody enrolled in a moment."""
        person = Person(name, scheme, KeySpec.P256, self.folder / f"{name}.card")
        create_card(person.address)
        pin, puk = CardPin(PIN, source="test"), CardPuk(PUK, source="test")
        with self.worker() as worker:
            enrol(
                worker,
                person.card,
                Enrolment(owner=name, scheme=scheme, key=KeySpec.P256, pin=pin, puk=puk, **more),
            )
        return person


@dataclass(frozen=True)
class _Challenger:
    client: httpx.Client

    def challenge(self, credential_id: CredentialId) -> Any:
        answer = self.client.get(f"/v1/credentials/{credential_id.hex()}/challenge")
        assert answer.status_code == 200, answer.text
        return json_codec.read(Challenge, answer.json())


@pytest.fixture(scope="module")
def scene(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("api")
    tenants = template_tenants.copy_to(folder / "home")
    authority = Authority("clients")
    identity = make_identity(authority, folder, "machine")
    in_process(tenants.home, _add, "machine", identity.certificate)
    (tenants.home.path / "tls").mkdir()
    (tenants.home.path / "tls" / "clients.pem").write_text(pem(authority.certificate))
    with (
        serving(tenants.home, settings=SETTINGS) as service,
        api(service, tenants.tokens["app"]) as client,
    ):
        yield Scene(service, tenants, client, identity, folder)
    shutil.rmtree(folder)


def enrolment_of(asked: NewCredential) -> Any:
    """The body that asks for it."""
    return json_codec.to_json(EnrolmentRequest.of(asked, None))


def outcome_of(answer: httpx.Response) -> SignOutcome:
    assert answer.status_code == 200, answer.text
    return json_codec.read(SignOutcome, answer.json())


# --- what is answered --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter"])
def test_digests_are_signed(scene: Scene, name: str) -> None:
    person = scene.person(name)
    algorithm = person.key.default_algorithm
    content = digests(b"one", b"two", b"three", algorithm=algorithm)
    request = scene.authorise(person, content)
    outcome = outcome_of(send(scene.client, request))
    verifies(outcome, content)
    assert (outcome.owner, outcome.algorithm, outcome.repeated) == (name, algorithm, False)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1 << 20, 3_000_000])
def test_message_is_signed(scene: Scene, size: int) -> None:
    """In memory and on disk, in one chunk and in many, and the empty one."""
    data = secrets.token_bytes(size)
    request = scene.authorise("alice", data)
    verifies(outcome_of(send(scene.client, request)), message(data))


def test_authorisation_as_a_file_part(scene: Scene) -> None:
    """As curl sends it with -F authorisation=@FILE;type=application/json."""
    request = scene.authorise("alice", b"from a file")
    text = json.dumps(json_codec.to_json(request.authorisation.answer))
    answer = scene.client.post(
        signatures_path(request, "message-signatures"),
        files=[
            ("authorisation", ("a.json", text, "application/json")),
            ("message", ("m", b"from a file")),
        ],
    )
    verifies(outcome_of(answer), message(b"from a file"))


def test_same_request_again_is_the_stored_answer(scene: Scene) -> None:
    request = scene.authorise("alice", digests(b"once"))
    first, second = (outcome_of(send(scene.client, request)) for _ in range(2))
    assert (first.repeated, second.repeated) == (False, True)
    assert first.signatures == second.signatures
    assert first.evidence_hash == second.evidence_hash


def test_reading(scene: Scene) -> None:
    client = scene.client
    me = client.get("/v1/whoami").json()
    assert me == {
        "name": "app",
        "roles": ["signer", "registrar", "auditor", "admin"],
        "owner": None,
        "certificate": False,
    }
    found = json_codec.read(Capabilities, client.get("/v1/capabilities").json())
    assert found.combines == (Combine.CBC,)
    assert found.limits == Limits(body=1 << 20, message=4 << 20, digests=50)
    credential = client.get("/v1/users/alice/credential").json()
    json_codec.read(CredentialView, credential)
    assert client.get(f"/v1/credentials/{credential['credential_id']}").json() == credential
    challenge = client.get(f"/v1/credentials/{credential['credential_id']}/challenge").json()
    json_codec.read(Challenge, challenge)
    assert challenge["public_key"] == credential["public_key"]
    pem_text = client.get(f"/v1/credentials/{credential['credential_id']}/certification-request").json()[
        "pem"
    ]
    assert x509.load_pem_x509_csr(pem_text.encode()).is_signature_valid


def test_credentials_page_by_page(scene: Scene) -> None:
    whole = scene.client.get("/v1/credentials").json()
    json_codec.read(CredentialPage, whole)
    ids = [each["credential_id"] for each in whole["credentials"]]
    assert ids == sorted(ids)
    assert not whole["more"]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = scene.client.get("/v1/credentials", params={"limit": 2, **after}).json()
        found += [each["credential_id"] for each in page["credentials"]]
        if not page["more"]:
            break
        after = {"after": found[-1]}
    assert found == ids
    mine = scene.client.get("/v1/credentials", params={"owner": "bob"}).json()["credentials"]
    assert [each["owner"] for each in mine] == ["bob"]


def test_evidence(scene: Scene) -> None:
    credential_id = scene.id_of("bob")
    page = scene.client.get("/v1/evidence", params={"credential_id": credential_id, "limit": 1}).json()
    json_codec.read(EvidencePage, page)
    assert page["more"]
    assert [each["event"] for each in page["entries"]] == ["enrol"]
    whole = scene.client.get("/v1/evidence", params={"limit": 1000}).json()["entries"]
    export = scene.client.get("/v1/evidence/export")
    assert export.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in export.text.splitlines()] == whole
    rest = scene.client.get("/v1/evidence/export", params={"after": whole[1]["number"]})
    assert [json.loads(line) for line in rest.text.splitlines()] == whole[2:]
    anchor = scene.client.get("/v1/evidence/anchor").json()
    json_codec.read(Anchor, anchor)
    assert scene.client.post("/v1/evidence/anchor/check", json=anchor).json() == {"findings": []}
    older = {
        "format": 1,
        "time": 0,
        **{name: int(anchor[name]) for name in ("last_entry", "credentials", "entries")},
        "root": anchor["root"],
    }
    assert scene.client.post("/v1/evidence/anchor/check", json=older).json() == {"findings": []}
    wrong = {**anchor, "root": "00" * 32, "entries": str(int(anchor["entries"]) + 1)}
    findings = scene.client.post("/v1/evidence/anchor/check", json=wrong).json()["findings"]
    assert {each["code"] for each in findings} == {"anchor.entries", "anchor.root", "anchor.signature"}


def test_certificates_are_kept(scene: Scene) -> None:
    path = f"/v1/credentials/{scene.id_of('paula')}"
    request = scene.client.get(f"{path}/certification-request").json()["pem"]
    chain = [base64.b64encode(each).decode() for each in Authority().chain(request)]
    assert scene.client.get(f"{path}/certificates").json() == {"certificates": []}
    assert scene.client.put(f"{path}/certificates", json={"certificates": chain}).status_code == 204
    assert scene.client.get(f"{path}/certificates").json() == {"certificates": chain}
    elsewhere = f"/v1/credentials/{scene.id_of('peter')}/certificates"
    problem(scene.client.put(elsewhere, json={"certificates": chain}), 422, "certificate.unsuitable")
    assert scene.client.put(f"{path}/certificates", json={"certificates": []}).status_code == 204
    # Who kept which is in evidence.
    page = scene.client.get("/v1/evidence", params={"credential_id": scene.id_of("paula"), "limit": 1000})
    kept, removed = page.json()["entries"][-2:]
    assert kept["event"] == removed["event"] == "certificates"
    for entry, certificates in ((kept, chain), (removed, [])):
        listed = sequence(base64.b64decode(each) for each in certificates)
        assert entry["digests"] == [hashlib.sha256(listed).hexdigest()]


def test_enrolment_begun_and_given_up(scene: Scene) -> None:
    begun = scene.client.post("/v1/enrolments", json=enrolment_of(wanted()))
    assert begun.status_code == 201
    started = json_codec.read(EnrolmentStarted, begun.json())
    credential_id = begun.json()["credential"]["credential_id"]
    path = f"/v1/enrolments/{credential_id}"
    info = json_codec.read(RequestInfo, scene.client.get(f"{path}/request-info").json())
    assert (info.request_info, info.spki) == (started.request_info, started.credential.spki)
    digest = request_digest(
        info.proof.installation_id, started.credential.credential_id, started.credential.owner, info.spki
    )
    check_signature(info.proof, digest, fingerprint(started.proof.spki))
    assert scene.client.delete(path).status_code == 204
    problem(scene.client.delete(path), 404, "credential.unknown")
    active = scene.id_of("alice")
    problem(scene.client.delete(f"/v1/enrolments/{active}"), 409, "credential.status-unsuitable")


def test_owner_with_a_slash_and_other_letters(scene: Scene) -> None:
    owner = "o/ø %?#"
    body = enrolment_of(wanted(owner=owner))
    begun = scene.client.post("/v1/enrolments", json=body).json()["credential"]
    found = scene.client.get("/v1/users/o%2F%C3%B8%20%25%3F%23/credential")
    assert found.json() == begun
    assert found.json()["owner"] == owner


# --- what is refused ---------------------------------------------------------------------------------------


def _without(value: dict[str, Any], *path: str) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(value))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return copy


def _with(value: dict[str, Any], new: Any, *path: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(value))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    return copy


BAD: list[tuple[Any, tuple[Any, ...], str]] = [
    (7, ("digests",), "digests: expected a list of 1 to 65535"),
    ([], ("digests",), "digests: expected a list of 1 to 65535"),
    ([7], ("digests",), "digests[0]: expected 64 or 96 or 128 lower-case hexadecimal digits"),
    ("00" * 31, ("digests", 0), "digests[0]: expected 64 or 96 or 128 lower-case hexadecimal digits"),
    ("AA" * 32, ("digests", 0), "digests[0]: expected 64 or"),
    ("*" * 64, ("digests", 0), "digests[0]: expected 64 or"),
    ("0" * 63, ("digests", 0), "digests[0]: expected 64 or"),
    ("00" * 32 + "\n", ("digests", 0), "digests[0]: expected 64 or"),
    (base64.b64encode(bytes(32)).decode(), ("digests", 0), "digests[0]: expected 64 or"),
    (
        base64.b64encode(bytes(15)).decode(),
        ("authorisation", "nonce"),
        "authorisation.nonce: expected base64 of 16 bytes",
    ),
    ("A" * 21 + "B==", ("authorisation", "nonce"), "authorisation.nonce: expected base64 of 16 bytes"),
    ("A" * 22, ("authorisation", "nonce"), "authorisation.nonce: expected base64 of 16 bytes"),
    ("A" * 22 + "==\n", ("authorisation", "nonce"), "authorisation.nonce: expected base64 of 16 bytes"),
    (None, ("authorisation", "nonce"), "authorisation.nonce: expected base64 of 16 bytes"),
    ([], ("authorisation", "quantities"), "authorisation.quantities: expected a list of 1 to 6"),
    (
        [base64.b64encode(bytes(40)).decode()] * 7,
        ("authorisation", "quantities"),
        "authorisation.quantities: expected a list of 1 to 6",
    ),
    (
        [base64.b64encode(bytes(39)).decode()],
        ("authorisation", "quantities"),
        "authorisation.quantities[0]: expected base64 of 40 bytes",
    ),
    (1, ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    ("1.5", ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    ("01", ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    (True, ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    ("-1", ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    (str(1 << 64), ("authorisation", "counter"), "authorisation.counter: expected an integer from 0"),
    ("md5", ("authorisation", "algorithm"), "authorisation.algorithm: expected one of: rsa-pkcs1-sha256"),
    (1, ("more",), "body: unknown field 'more'"),
    (1, ("authorisation", "credential_id"), "authorisation: unknown field 'credential_id'"),
    (1, ("authorisation", "x"), "authorisation: unknown field 'x'"),
    ([], ("authorisation",), "authorisation: expected a JSON object"),
]


@pytest.mark.parametrize(("value", "path", "words"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_field_of_another_form(scene: Scene, value: Any, path: tuple[Any, ...], words: str) -> None:
    request = scene.authorise("alice", digests(b"one"))
    bad = _with(body_of(request), value, *path)
    found = problem(scene.client.post(signatures_path(request), json=bad), 400, "input.invalid")
    assert found["detail"].startswith(words)
    assert not found["retryable"]
    # What was sent is never in the answer.
    assert "AAAA" not in json.dumps(found)


@pytest.mark.parametrize(
    "path", [("digests",), ("authorisation",), ("authorisation", "counter"), ("authorisation", "quantities")]
)
def test_field_that_is_missing(scene: Scene, path: tuple[str, ...]) -> None:
    request = scene.authorise("alice", digests(b"one"))
    bad = _without(body_of(request), *path)
    found = problem(scene.client.post(signatures_path(request), json=bad), 400, "input.invalid")
    where = ".".join(path[:-1]) or "body"
    assert found["detail"] == f"{where}: missing field '{path[-1]}'"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body: expected JSON"),
        (b"{", "body: expected JSON"),
        (b"null", "body: expected a JSON object"),
        (b"[]", "body: expected a JSON object"),
        (b'"text"', "body: expected a JSON object"),
        (b'{"digests": [], "digests": []}', "body: a name stands twice in one object"),
        (b'{"digests": NaN}', "body: expected JSON, which has no NaN or Infinity"),
        (b'{"digests": "\xff"}', "body: expected UTF-8"),
        (b'\xef\xbb\xbf{"digests": []}', "body: expected JSON"),
        (b"[" * 100_000, "body: expected JSON"),
        (b"9" * 10_000, "body: expected JSON"),
        (b'{"authorisation": {}, "digests": ["00"]}', "digests[0]: expected 64"),
        (b'{"authorisation": {}, "digests": []}', "authorisation: missing field 'algorithm'"),
        (b'{"authorisation": {}, "digests": ["\\ud800"]}', "digests[0]: expected 64 or"),
        (b'{"authorisation": {"\\ud800": 1}, "digests": []}', "body: expected text that has an encoding"),
    ],
)
def test_body_that_is_not_the_json_wanted(scene: Scene, body: bytes, words: str) -> None:
    path = f"/v1/credentials/{scene.id_of('alice')}/signatures"
    answer = scene.client.post(path, content=body, headers={"content-type": "application/json"})
    assert problem(answer, 400, "input.invalid")["detail"].startswith(words)


def test_names_in_an_object_are_counted() -> None:
    assert strict_json(b"{" + b",".join(b'"%d":0' % each for each in range(100)) + b"}", "body")
    with pytest.raises(InputError, match="at most 100 names"):
        strict_json(b"{" + b",".join(b'"%d":0' % each for each in range(101)) + b"}", "body")


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "x", ""]
)
def test_other_media_type(scene: Scene, media: str) -> None:
    request = scene.authorise("alice", digests(b"one"))
    body = json.dumps(body_of(request))
    headers = {"content-type": media} if media else {}
    for path in (signatures_path(request), signatures_path(request, "message-signatures")):
        answer = scene.client.post(path, content=body, headers=headers)
        problem(answer, 415, "request.media-type")


def test_multipart_of_another_form(scene: Scene) -> None:
    request = scene.authorise("alice", b"m")
    path = signatures_path(request, "message-signatures")
    text = json.dumps(json_codec.to_json(request.authorisation.answer))
    first, second = ("authorisation", (None, text)), ("message", ("m", b"m"))
    for files in (
        [second, first],
        [first],
        [second],
        [first, second, second],
        [first, second, ("more", (None, "x"))],
        [first, ("message", (None, "no filename"))],
        [("authorisation", (None, "{")), second],
        [("authorisation", (None, '{"x": 1, "x": 1}')), second],
        [("authorisation", (None, "x" * 70_000)), second],
    ):
        problem(scene.client.post(path, files=files), 400, "input.invalid")  # type: ignore[arg-type]
    headers = {"content-type": "multipart/form-data"}
    problem(scene.client.post(path, content=b"x", headers=headers), 400, "input.invalid")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for content in (b"x", b"--b\r\n\r\nx\r\n--b--\r\n", b"--b\r\ncontent-disposition: form-data\r\n\r\n"):
        problem(scene.client.post(path, content=content, headers=headers), 400, "input.invalid")
    # It was good all the while.
    verifies(outcome_of(scene.client.post(path, files=[first, second])), message(b"m"))


@pytest.mark.parametrize("credential_id", ["0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 30 + "%0a%0a"])
def test_credential_id_of_another_form(scene: Scene, credential_id: str) -> None:
    answer = scene.client.get(f"/v1/credentials/{credential_id}")
    assert problem(answer, 400, "input.invalid")["detail"].startswith("credential_id: expected")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: expected an integer from 1 to 1000"),
        ("limit=1001", "limit: expected an integer from 1 to 1000"),
        ("limit=x", "limit: expected an integer from 1 to 1000"),
        ("limit=1.0", "limit: expected an integer from 1 to 1000"),
        ("limit=" + "9" * 5000, "limit: expected an integer from 1 to 1000"),
        ("limit=1&limit=2", "query: a name is given twice"),
        ("after=x", "after: expected 32 lower-case hexadecimal digits"),
        ("owner=", "owner: expected text of 1 to 255 characters"),
        ("owner=%00", "owner: expected text of 1 to 255 characters"),
        ("x=1", "query: unknown field 'x'"),
    ],
)
def test_query_of_another_form(scene: Scene, query: str, words: str) -> None:
    found = problem(scene.client.get(f"/v1/credentials?{query}"), 400, "input.invalid")
    assert found["detail"].startswith(words)


def test_query_where_there_is_none(scene: Scene) -> None:
    for path in ("/v1/whoami", f"/v1/credentials/{scene.id_of('alice')}", "/healthz"):
        found = problem(scene.client.get(f"{path}?x=1"), 400, "input.invalid")
        assert found["detail"] == "query: unknown field 'x'"


def test_unknown_things(scene: Scene) -> None:
    nobody = "00" * 16
    for method, path in (
        ("GET", f"/v1/credentials/{nobody}"),
        ("GET", f"/v1/credentials/{nobody}/challenge"),
        ("GET", "/v1/users/nobody/credential"),
        ("GET", f"/v1/enrolments/{nobody}/request-info"),
        ("POST", f"/v1/credentials/{nobody}/revoke"),
    ):
        problem(scene.client.request(method, path), 404, "credential.unknown")
    problem(scene.client.get("/v1/nothing"), 404, "request.path-unknown")
    problem(scene.client.get("/v1/credentials/"), 404, "request.path-unknown")
    wrong = scene.client.delete("/v1/whoami")
    problem(wrong, 405, "request.method-unsuitable")
    assert wrong.headers["allow"] == "GET, HEAD"
    wrong = scene.client.delete(f"/v1/credentials/{nobody}/certificates")
    problem(wrong, 405, "request.method-unsuitable")
    assert wrong.headers["allow"] == "GET, HEAD, PUT"


def test_other_content_than_the_card_saw(scene: Scene) -> None:
    request = scene.authorise("alice", digests(b"one"))
    for changed in (
        altered(request, content=digests(b"two")),
        altered(request, quantities=flipped_quantity(request.authorisation, 0, 3)),
        altered(request, nonce=bytes(16)),
        altered(request, content=digests(b"one", b"one")),
    ):
        problem(send(scene.client, changed), 403, "authorisation.mismatch")
    other = altered(
        request,
        algorithm=Algorithm.ECDSA_SHA384,
        content=digests(b"one", algorithm=Algorithm.ECDSA_SHA384),
    )
    problem(send(scene.client, other), 403, "authorisation.mismatch")
    rsa = altered(request, algorithm=Algorithm.RSA_PSS_SHA256)
    problem(send(scene.client, rsa), 403, "algorithm.not-allowed")
    longer = altered(request, content=digests(b"one", algorithm=Algorithm.ECDSA_SHA512))
    problem(send(scene.client, longer), 400, "algorithm.unsuitable")
    verifies(outcome_of(send(scene.client, request)), request.content)


def test_stale_challenge(scene: Scene) -> None:
    early, late = (scene.authorise("alice", digests(each)) for each in (b"early", b"late"))
    outcome_of(send(scene.client, late))
    found = problem(send(scene.client, early), 409, "authorisation.stale")
    assert not found["retryable"]


def test_status_decides(scene: Scene) -> None:
    person = scene.newcomer("carol", pin_check=PinCheck.CARD)
    path = f"/v1/credentials/{scene.id_of('carol')}"
    request = scene.authorise(person, digests(b"one"))

    def change(what: str, status: str) -> None:
        answer = scene.client.post(f"{path}/{what}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == status

    problem(scene.client.post(f"{path}/resume"), 409, "credential.status-unsuitable")
    change("suspend", "suspended")
    problem(send(scene.client, request), 403, "credential.suspended")
    problem(scene.client.get(f"{path}/challenge"), 403, "credential.suspended")
    change("resume", "active")
    verifies(outcome_of(send(scene.client, request)), request.content)
    late = scene.authorise(person, digests(b"two"))
    change("revoke", "revoked")
    problem(send(scene.client, late), 403, "credential.revoked")
    problem(scene.client.post(f"{path}/suspend"), 409, "credential.status-unsuitable")


def test_pending_credential_signs_nothing_else(scene: Scene) -> None:
    begun = scene.client.post("/v1/enrolments", json=enrolment_of(wanted())).json()
    credential_id = CredentialId(bytes.fromhex(begun["credential"]["credential_id"]))
    request = scene.authorise("alice", digests(b"one"))
    challenge = json_codec.read(
        Challenge, scene.client.get(f"/v1/credentials/{credential_id.hex()}/challenge").json()
    )
    moved = altered(
        request, credential_id=credential_id, x=challenge.x, rolling_values=challenge.rolling_values
    )
    problem(send(scene.client, moved), 403, "credential.pending")


def test_wrong_pins_that_pass_the_card_lock(scene: Scene) -> None:
    person = scene.newcomer("dora", pin_check=PinCheck.SERVER)
    path = f"/v1/credentials/{scene.id_of('dora')}"
    (wrong,) = passing_wrong_pins(person, 1, PIN)
    for number in range(1, FAILURES_BEFORE_LOCK + 1):
        request = scene.authorise(person, digests(b"guess"), pin=wrong)
        problem(send(scene.client, request), 403, "authorisation.wrong-key")
        if number < FAILURES_BEFORE_LOCK:
            problem(send(scene.client, request), 403, "authorisation.wrong-key-again")
        assert scene.client.get(path).json()["failures"] == number
    problem(scene.client.get(f"{path}/challenge"), 403, "credential.locked")
    assert scene.client.post(f"{path}/unlock").json()["status"] == "active"
    request = scene.authorise(person, digests(b"right"))
    assert outcome_of(send(scene.client, request)).repeated is False


def test_basic_needs_a_certificate(scene: Scene) -> None:
    content = digests(b"one")
    refused = scene.client.get(f"/v1/credentials/{scene.id_of('basil')}/challenge")
    if refused.status_code != 200:
        problem(refused, 403, "channel.unsuitable")
    with api(scene.service, identity=scene.identity) as machine:
        me = machine.get("/v1/whoami").json()
        assert (me["name"], me["certificate"]) == ("machine", True)
        request = authorise(_Challenger(machine), scene.person("basil"), content)  # type: ignore[arg-type]
        problem(send(scene.client, request), 403, "channel.unsuitable")
        verifies(outcome_of(send(machine, request)), content)


def test_too_much(scene: Scene) -> None:
    request = scene.authorise("alice", digests(*(bytes([number]) for number in range(51))))
    found = problem(send(scene.client, request), 413, "request.too-large")
    assert found["detail"] == "digests: expected at most 50, got 51"
    request = scene.authorise("alice", digests(*(bytes([number]) for number in range(50))))
    verifies(outcome_of(send(scene.client, request)), request.content)
    largest = scene.authorise("alice", bytes(4 << 20))
    verifies(outcome_of(send(scene.client, largest)), largest.content)
    larger = scene.authorise("alice", bytes((4 << 20) + 1))
    problem(send(scene.client, larger), 413, "request.too-large")
    path = signatures_path(request)
    answer = scene.client.post(path, content=bytes(1 << 21), headers={"content-type": "application/json"})
    problem(answer, 413, "request.too-large")


# --- who asks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer hsc_" + "A" * 43,
        "Bearer hsa_AAAA",
        "Bearer " + "x" * 5000,
        "Bearer \u00e9",
        "Basic YXBwOnNlY3JldA==",
        "Digest x",
        "x",
    ],
)
def test_nobody(scene: Scene, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with api(scene.service) as stranger:
        answer = stranger.get("/v1/whoami", headers=headers)  # type: ignore[arg-type]
    problem(answer, 401, "client.not-authenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="hsm-signer"'


def test_stranger_cannot_fill_the_disk(scene: Scene) -> None:
    """Refused while the message is still to come, and none of it is waited for."""
    start = f"POST /v1/credentials/{'00' * 16}/message-signatures HTTP/1.1\r\nHost: x\r\n"
    with Wire(scene.service) as wire:
        wire.send(
            f"{start}Authorization: Bearer hsc_{'A' * 43}\r\nContent-Length: 4000000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode()
        )
        status, body = wire.answer()
    assert (status, json.loads(body)["code"]) == (401, "client.not-authenticated")


def test_long_json_of_a_stranger_is_not_read(scene: Scene) -> None:
    """To find every fault in a megabyte takes seconds, in which nobody else is served."""
    path = f"/v1/credentials/{'00' * 16}/signatures"
    head = {"Content-Type": "application/json"}
    long = b"[" + b" " * 20_000
    with api(scene.service) as stranger:
        problem(stranger.post(path, content=b"[", headers=head), 400, "input.invalid")
        problem(stranger.post(path, content=long, headers=head), 401, "client.not-authenticated")
        made_up = {**head, "Authorization": f"Bearer hsc_{'A' * 43}"}
        problem(stranger.post(path, content=long, headers=made_up), 401, "client.not-authenticated")
        known = {**head, "Authorization": f"Bearer {scene.tenants.tokens['signer']}"}
        problem(stranger.post(path, content=long, headers=known), 400, "input.invalid")


def test_two_authorization_headers(scene: Scene) -> None:
    headers = [("Authorization", f"Bearer {scene.tenants.tokens[name]}") for name in ("app", "signer")]
    with api(scene.service) as stranger:
        problem(stranger.get("/v1/whoami", headers=headers), 401, "client.not-authenticated")


def test_client_bound_to_a_user_sees_nobody_else(scene: Scene) -> None:
    with api(scene.service, scene.tenants.tokens["bound"]) as bound:
        assert bound.get("/v1/whoami").json()["owner"] == "alice"
        owners = {each["owner"] for each in bound.get("/v1/credentials").json()["credentials"]}
        assert owners == {"alice"}
        problem(bound.get("/v1/users/bob/credential"), 404, "credential.unknown")
        request = scene.authorise("bob", digests(b"one"))
        problem(send(bound, request), 404, "credential.unknown")
        request = scene.authorise("alice", digests(b"one"))
        verifies(outcome_of(send(bound, request)), request.content)


# --- around every answer -----------------------------------------------------------------------------------


def test_request_ids_are_drawn_here(scene: Scene) -> None:
    """A client's own stands beside them: nobody makes two requests look like one."""
    mine = {"X-Request-Id": "My-Request_1.0"}
    ids = []
    for _ in range(2):
        answer = scene.client.get("/v1/whoami", headers=mine)
        ids.append(answer.headers["x-request-id"])
        line = scene.service.wait_for("request", request_id=ids[-1], part="front")
        assert (line["client"], line["endpoint"], line["status"]) == ("app", "/v1/whoami", 200)
        assert line["client_request_id"] == "My-Request_1.0"
        assert scene.service.wait_for("call", request_id=ids[-1])["client"] == "app"
    assert len(set(ids)) == 2
    assert {len(each) for each in ids} == {32}
    refused = scene.client.get("/v1/nothing", headers=mine)
    assert problem(refused, 404, "request.path-unknown")["client_request_id"] == "My-Request_1.0"
    for bad in ("x" * 65, "a b", "a\u00e9", "", 'a"b', "a{}", "a/b"):
        answer = scene.client.get("/v1/nothing", headers={b"X-Request-Id": bad.encode("latin-1")})
        assert "client_request_id" not in problem(answer, 404, "request.path-unknown")
        line = scene.service.wait_for("request", request_id=answer.headers["x-request-id"], part="front")
        assert "client_request_id" not in line


def test_head_is_answered_as_get_without_content(scene: Scene) -> None:
    """RFC 9110, 9.3.2: balancers probe with it."""
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/v1/whoami"):
        got, head = scene.client.get(path), scene.client.head(path)
        assert (head.status_code, head.content, got.status_code) == (200, b"", 200), path
        assert head.headers["content-type"] == got.headers["content-type"]


def test_headers_of_every_answer(scene: Scene) -> None:
    for path in ("/v1/whoami", "/v1/nothing", "/healthz", "/csc/v2/nothing"):
        headers = scene.client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_errors_of_the_other_interface_are_its_own(scene: Scene) -> None:
    answer = scene.client.post("/csc/v2/nothing")
    assert answer.headers["content-type"] != PROBLEM
    assert "error" in answer.json()


def test_log_says_who_and_keeps_secrets(scene: Scene) -> None:
    request = scene.authorise("alice", digests(b"logged"))
    send(scene.client, request)
    scene.client.get(
        f"/v1/users/{'secret-name'}/credential?owner=secret-name", headers={"X-Request-Id": "last"}
    )
    line = scene.service.wait_for("request", client_request_id="last")
    assert line["endpoint"] == "/v1/users/{owner}/credential"
    body = json.dumps(body_of(request))
    text = json.dumps(scene.service.log)
    for secret in (*scene.tenants.tokens.values(), *json.loads(body)["authorisation"]["quantities"]):
        assert secret not in text
    assert "secret-name" not in json.dumps(scene.service.find("request", client_request_id="last"))


def test_metrics(scene: Scene) -> None:
    def values() -> dict[str, float]:
        lines = scene.client.get("/metrics").text.splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    before = values()
    request = scene.authorise("alice", digests(b"counted"))
    send(scene.client, request)
    send(scene.client, altered(request, nonce=bytes(16)))
    after = values()

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    route = "/v1/credentials/{credential_id}/signatures"
    assert grew('hsm_signer_signatures_total{outcome="accepted"}') == 1
    assert grew(f'hsm_signer_requests_total{{endpoint="{route}",status="200"}}') == 1
    assert grew(f'hsm_signer_request_seconds_count{{endpoint="{route}"}}') == 2
    assert grew('hsm_signer_step_seconds_count{step="6"}') == 1
    assert after['hsm_signer_workers{state="ready"}'] == 1
    assert after["hsm_signer_worker_lost_total"] == 0
    assert not [name for name in after if request.authorisation.credential_id.hex() in name]


def test_health(scene: Scene) -> None:
    with api(scene.service) as stranger:
        assert stranger.get("/healthz").json() == {"status": "ok"}
        ready = stranger.get("/readyz")
    assert ready.status_code == 200
    json_codec.read(Readiness, ready.json())
    (worker,) = (each for each in ready.json()["workers"] if each["slot"] == 0)
    assert (worker["state"], worker["signed"], worker["reason"]) == ("ready", True, None)


def test_head_is_get_without_content(scene: Scene) -> None:
    """RFC 9110, 9.3.2."""
    for path in ("/healthz", "/readyz", "/v1/whoami", "/v1/evidence", "/openapi.json", "/docs"):
        whole, head = scene.client.get(path), scene.client.head(path)
        assert (whole.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"]
        if path != "/v1/evidence":
            assert head.headers["content-length"] == whole.headers["content-length"] != "0"


def test_documentation_page_needs_nothing_from_elsewhere(scene: Scene) -> None:
    with api(scene.service) as stranger:
        page = stranger.get("/docs")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';")
        assert "<script" not in page.text
        links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
        assert {link for link in links if link[0] != "#"} == {"/docs/style.css", "/openapi.json"}
        assert stranger.get("/docs/style.css").headers["content-type"].startswith("text/css")
        document = stranger.get("/openapi.json").json()
    places = set(re.findall(r'id="([^"]*)"', page.text))
    assert {link[1:] for link in links if link[0] == "#"} <= places
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert places == {operation["operationId"] for operation in operations} | set(
        document["components"]["schemas"]
    )
