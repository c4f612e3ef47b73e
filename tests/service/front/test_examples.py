"""Every example of the OpenAPI document, carried out: a real front, a real worker, a real token, a card.

What only a running service knows (ids, the card's answers, tokens) takes the place of what the example shows,
by name; all else is sent as it is documented.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest

from hsm_signer.card.commands import authorise_content
from hsm_signer.config.service import Settings
from hsm_signer.core import json_codec
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import WrongKey
from hsm_signer.service.front import openapi
from hsm_signer.service.front.app import INTERFACES
from hsm_signer.testing import PIN, Person, make_person
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    Algorithm,
    Authorisation,
    CardAnswer,
    Challenge,
    Content,
    Digest,
    DigestList,
    Message,
    PinCheck,
)
from tests.support.authority import Authority
from tests.support.front import api
from tests.support.scenes import authorise, passing_wrong_pins
from tests.support.service import Service, serving
from tests.support.tenants import Tenants

DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(openapi.document(INTERFACES, Settings())))
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SETTINGS = "[limits]\nrate = 100000\nburst = 100000\n"


@dataclass(frozen=True)
class Scene:
    """The service, a client that may do everything, and people with cards."""

    service: Service
    tenants: Tenants
    client: httpx.Client
    folder: Path

    def id_of(self, name: str) -> str:
        return str(self.client.get(f"/v1/users/{name}/credential").json()["credential_id"])

    def answer_of(self, person: Person, content: Content) -> dict[str, Any]:
        """What the card says to this content."""
        path = f"/v1/credentials/{self.id_of(person.name)}/challenge"
        challenge = json_codec.read(Challenge, self.client.get(path).json())
        with person.card() as card:
            authorisation = authorise_content(card, challenge, content, Algorithm.ECDSA_SHA256, person.pin)
        return card_answer(authorisation)

    def url_answer_of(self, name: str, hashes: list[str]) -> str:
        """The same for a list of hashes, as the CSC API carries it."""
        digests = tuple(Digest(base64.b64decode(text)) for text in hashes)
        answer = self.answer_of(self.tenants.home[name], DigestList(digests))
        return base64.urlsafe_b64encode(json.dumps(answer).encode()).rstrip(b"=").decode()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """On the way to what an example needs."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


def card_answer(authorisation: Authorisation) -> dict[str, Any]:
    """Without the credential's id."""
    fields = {name: getattr(authorisation, name) for name in CardAnswer.__struct_fields__}
    found: dict[str, Any] = json_codec.to_json(CardAnswer(**fields))
    return found


@pytest.fixture(scope="module")
def scene(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("examples")
    tenants = template_tenants.copy_to(folder / "home")
    with (
        serving(tenants.home, settings=SETTINGS) as service,
        api(service, tenants.tokens["app"]) as client,
    ):
        yield Scene(service, tenants, client, folder)
    shutil.rmtree(folder)


# --- what only a running service knows ---------------------------------------------------------------------

Real = dict[str, Any]
"""Members of bodies and parameters by name."""


def of_alice(scene: Scene, example: Any) -> Real:
    return {"credential_id": scene.id_of("alice"), "credentialID": scene.id_of("alice")}


def signed_by_the_card(scene: Scene, example: Any) -> Real:
    """The card is shown what the example signs."""
    if "digests" in example:
        content: Content = DigestList(tuple(Digest(bytes.fromhex(text)) for text in example["digests"]))
    else:
        content = Message(BytesSource(example["message"].encode()))
    return of_alice(scene, example) | {"authorisation": scene.answer_of(scene.tenants.home["alice"], content)}


def certified(scene: Scene, example: Any) -> Real:
    path = f"/v1/credentials/{scene.id_of('paula')}"
    request = scene.client.get(f"{path}/certification-request").json()["pem"]
    chain = [base64.b64encode(der).decode() for der in Authority().chain(request)]
    return {"credential_id": scene.id_of("paula"), "certificates": chain}


def certified_before(scene: Scene, example: Any) -> Real:
    real = certified(scene, example)
    path = f"/v1/credentials/{real['credential_id']}/certificates"
    scene.client.put(path, json={"certificates": real["certificates"]})
    return real


def active(scene: Scene, example: Any) -> Real:
    """Nobody else's."""
    return {"credential_id": scene.id_of(newcomer(scene).name)}


def suspended(scene: Scene, example: Any) -> Real:
    found = active(scene, example)
    scene.post(f"/v1/credentials/{found['credential_id']}/suspend")
    return found


def locked(scene: Scene, example: Any) -> Real:
    """By wrong PINs that pass the card."""
    person = newcomer(scene)
    (wrong,) = passing_wrong_pins(person, 1, PIN)
    with scene.service.worker(bearer=scene.tenants.tokens["app"]) as worker:
        for _ in range(FAILURES_BEFORE_LOCK):
            with pytest.raises(WrongKey):
                worker.sign(authorise(worker, person, b"a guess", pin=wrong))
    return {"credential_id": scene.id_of(person.name)}


def newcomer(scene: Scene) -> Person:
    """Somebody enrolled in a moment."""
    name = f"newcomer-{len(list(scene.folder.glob('*.card')))}"
    server: Any
    with scene.service.worker(bearer=scene.tenants.tokens["app"]) as server:
        return make_person(server, scene.folder, name, pin_check=PinCheck.SERVER)


def pending(scene: Scene, example: Any) -> Real:
    begun = scene.post(
        "/v1/enrolments",
        OPERATIONS["beginEnrolment"][2]["requestBody"]["content"]["application/json"]["example"]
        | {"owner": f"pending-{secrets.token_hex(4)}"},
        201,
    )
    return {"credential_id": begun["credential"]["credential_id"]}


def anchored(scene: Scene, example: Any) -> Real:
    found: Real = scene.client.get("/v1/evidence/anchor").json()
    return found


def logged_in(scene: Scene, example: Any) -> Real:
    name = ("app", scene.tenants.tokens["app"])
    return {"token": scene.client.post("/csc/v2/auth/login", auth=name).json()["access_token"]}


def answered_by_the_card(scene: Scene, example: Any) -> Real:
    """For credentials/authorize."""
    hashes = example.get("hashes") or example["hash"]
    answer = scene.url_answer_of("alice", hashes)
    return of_alice(scene, example) | {"authData": [{"id": "CARD", "value": answer}], "OTP": answer}


def activated(scene: Scene, example: Any) -> Real:
    """For signatures/signHash."""
    hashes = example.get("hashes") or example["hash"]
    asked = {
        "credentialID": scene.id_of("alice"),
        "numSignatures": len(hashes),
        "hash": hashes,
        "OTP": scene.url_answer_of("alice", hashes),
    }
    activation: Real = scene.post("/csc/v1/credentials/authorize", asked)
    return of_alice(scene, example) | activation


KNOWN: dict[str, Callable[[Scene, Any], Real]] = {
    "getCertificates": certified_before,
    "setCertificates": certified,
    "suspendCredential": active,
    "resumeCredential": suspended,
    "unlockCredential": locked,
    "revokeCredential": active,
    "createSignatures": signed_by_the_card,
    "createMessageSignature": signed_by_the_card,
    "getRequestInfo": pending,
    "giveUpEnrolment": pending,
    "checkAnchor": anchored,
    **{f"cscV{version}Revoke": logged_in for version in (1, 2)},
    **{f"cscV{version}Authorize": answered_by_the_card for version in (1, 2)},
    **{f"cscV{version}SignHash": activated for version in (1, 2)},
}
"""Operation id -> what its example needs; alice's credential for all others."""


# --- carrying out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_example(scene: Scene, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    media_type, body = body_example(operation)
    real = KNOWN.get(name, of_alice)(scene, body)
    query = {}
    for parameter in operation["parameters"]:
        value = real.get(parameter["name"], parameter.get("example"))
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif value is not None:
            query[parameter["name"]] = value
    if body is not None:
        body = {member: real.get(member, value) for member, value in body.items()}
    auth = ("app", scene.tenants.tokens["app"]) if operation["security"] == [{"basic": []}] else None
    response = send(scene, method, path, query, media_type, body, auth)
    assert str(response.status_code) in operation["responses"], response.text
    assert response.is_success, response.text
    answered(operation["responses"][str(response.status_code)], response)


def body_example(operation: dict[str, Any]) -> tuple[str | None, Any]:
    """Its media type and value."""
    if "requestBody" not in operation:
        return None, None
    ((media_type, content),) = operation["requestBody"]["content"].items()
    if media_type == "application/json":
        check(content["schema"], content["example"])
    return media_type, content["example"]


def send(
    scene: Scene, method: str, path: str, query: dict[str, Any], media_type: str | None, body: Any, auth: Any
) -> httpx.Response:
    """As the document says it goes."""
    if media_type == "multipart/form-data":
        parts = {
            "files": [
                ("authorisation", (None, json.dumps(body["authorisation"]), "application/json")),
                ("message", ("message", body["message"].encode())),
            ]
        }
        return scene.client.request(method, path, **parts)  # type: ignore[arg-type]
    return scene.client.request(method, path, params=query, json=body, auth=auth)


def answered(documented: dict[str, Any], response: httpx.Response) -> None:
    """What came is of the documented form, and the example of the answer is like it."""
    if not documented["content"]:
        assert response.content == b""
        return
    ((media_type, content),) = documented["content"].items()
    assert response.headers["content-type"].partition(";")[0] == media_type
    if media_type != "application/json":
        assert response.text.startswith(content["example"][:10])
        return
    for value in (response.json(), content["example"]):
        check(content["schema"], value)
    assert shape(response.json()) == shape(content["example"])


def check(schema: dict[str, Any], value: Any) -> None:
    """Raises unless the value is of this schema."""
    jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]}).validate(value)


def shape(value: Any) -> Any:
    """Names and kinds, without values; of a list its first item, of what has names of its own nothing."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items() if name != "obstacles"}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "null" if value is None else type(value).__name__


def test_every_operation_has_an_example() -> None:
    assert len(OPERATIONS) > 35
    for name, (_, _, operation) in OPERATIONS.items():
        for parameter in operation["parameters"]:
            assert "example" in parameter or not parameter["required"], name
        if "requestBody" in operation:
            (content,) = operation["requestBody"]["content"].values()
            assert "example" in content, name
        for status, response in operation["responses"].items():
            if status[0] == "2" and response["content"]:
                (content,) = response["content"].values()
                assert "example" in content, name
