"""Every role at every endpoint: exactly what roles.py permits is carried out, and nobody unknown gets in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from hsm_signer.core import json_codec
from hsm_signer.core.interface import EnrolmentRequest
from hsm_signer.evidence.anchor import Anchor
from hsm_signer.service.roles import PERMITTED, Role
from hsm_signer.types import Digest, SigningRequest
from tests.support.enrolments import wanted
from tests.support.front import api, body_of, problem
from tests.support.people import digests
from tests.support.scenes import authorise
from tests.support.service import Service, serving
from tests.support.tenants import Tenants


@dataclass(frozen=True)
class Scene:
    """A service with clients, and a request that is good."""

    service: Service
    tenants: Tenants
    credential_id: str
    request: SigningRequest
    clients: dict[str, httpx.Client]


@pytest.fixture(scope="module")
def scene(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("roles")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home) as service:
        with service.worker(bearer=tenants.tokens["app"]) as worker:
            request = authorise(worker, tenants.home["alice"], digests(b"one"))
        clients = {name: api(service, token) for name, token in tenants.tokens.items()}
        opened = {name: each.__enter__() for name, each in clients.items()}
        try:
            yield Scene(service, tenants, request.authorisation.credential_id.hex(), request, opened)
        finally:
            for each in opened.values():
                each.close()
    shutil.rmtree(folder)


Asked = tuple[str, str, dict[str, Any]]


def endpoints(scene: Scene) -> dict[str, list[Asked]]:
    """Operation of roles.py -> what asks for it here; each can be asked again and again."""
    path = f"/v1/credentials/{scene.credential_id}"
    anchor = json_codec.to_json(
        Anchor(format=2, time=0, last_entry=0, credentials=0, entries=0, root=Digest(bytes(32)), signed=None)
    )
    nobody = "00" * 16
    return {
        "capabilities": [("GET", "/v1/capabilities", {})],
        "who-am-i": [("GET", "/v1/whoami", {})],
        "list-credentials": [("GET", "/v1/credentials", {})],
        "credential": [("GET", path, {}), ("GET", "/v1/users/alice/credential", {})],
        "certificates": [("GET", f"{path}/certificates", {})],
        "certification-request": [("GET", f"{path}/certification-request", {})],
        "challenge": [("GET", f"{path}/challenge", {})],
        "sign": [
            ("POST", f"{path}/signatures", {"json": body_of(scene.request)}),
            (
                "POST",
                f"{path}/message-signatures",
                {
                    "data": {"authorisation": json_codec.encode(scene.request.authorisation.answer).decode()},
                    "files": {"message": ("m", b"not what the card saw")},
                },
            ),
        ],
        "begin-enrolment": [
            # Somebody who has a credential already: it is understood, and nothing is made.
            (
                "POST",
                "/v1/enrolments",
                {"json": json_codec.to_json(EnrolmentRequest.of(wanted(owner="alice"), None))},
            )
        ],
        "request-info": [("GET", f"/v1/enrolments/{nobody}/request-info", {})],
        "give-up-enrolment": [("DELETE", f"/v1/enrolments/{nobody}", {})],
        "set-certificates": [("PUT", f"{path}/certificates", {"json": {"certificates": []}})],
        "suspend": [("POST", f"/v1/credentials/{nobody}/suspend", {})],
        "resume": [("POST", f"{path}/resume", {})],
        "unlock": [("POST", f"{path}/unlock", {})],
        "revoke": [("POST", f"/v1/credentials/{nobody}/revoke", {})],
        "evidence": [("GET", "/v1/evidence", {}), ("GET", "/v1/evidence/export", {})],
        "anchor": [("GET", "/v1/evidence/anchor", {})],
        "check-anchor": [("POST", "/v1/evidence/anchor/check", {"json": anchor})],
    }


ELSEWHERE = {"login", "logout", "examine", "open-activation"}
"""Asked for by the CSC interface alone."""
FOR_PENDING = {"challenge", "sign"}
"""A registrar may do these in enrolment alone; the credential here is active."""
UNDERSTOOD = {
    # The second way of asking comes after a signature by the first.
    "sign": {200, 409},
    "begin-enrolment": {409},
    "request-info": {404},
    "give-up-enrolment": {404},
    "set-certificates": {204},
    "suspend": {404},
    "revoke": {404},
    "resume": {409},
    "unlock": {409},
}
"""What a client gets that may ask; 200 for all others."""


def test_every_operation_is_asked_for(scene: Scene) -> None:
    assert set(endpoints(scene)) | ELSEWHERE == set(PERMITTED)


@pytest.mark.parametrize("operation", sorted(set(PERMITTED) - ELSEWHERE))
@pytest.mark.parametrize("role", Role)
def test_role(scene: Scene, role: Role, operation: str) -> None:
    client = scene.clients[role.value]
    for method, path, more in endpoints(scene)[operation]:
        answer = client.request(method, path, **more)
        if role in PERMITTED[operation]:
            if role is Role.REGISTRAR and operation in FOR_PENDING:
                problem(answer, 403, "client.not-permitted")
            else:
                assert answer.status_code in UNDERSTOOD.get(operation, {200}), answer.text
        else:
            found = problem(answer, 403, "client.not-permitted")
            assert found["hint"].startswith("it needs role ")


def test_registrar_in_enrolment(scene: Scene) -> None:
    registrar, signer = scene.clients["registrar"], scene.clients["signer"]
    body = json_codec.to_json(EnrolmentRequest.of(wanted(), None))
    begun = registrar.post("/v1/enrolments", json=body).json()["credential"]
    path = f"/v1/credentials/{begun['credential_id']}"
    assert registrar.get(f"{path}/challenge").status_code == 200
    assert signer.get(f"{path}/challenge").status_code == 200
    # The first authorisation belongs to enrolment: it is refused for what it is, not for who sends it.
    answer = registrar.post(f"{path}/signatures", json=body_of(scene.request))
    problem(answer, 403, "credential.pending")


@pytest.mark.parametrize("operation", sorted(set(PERMITTED) - ELSEWHERE))
def test_nobody_gets_anything(scene: Scene, operation: str) -> None:
    for token in (None, "hsc_" + "A" * 43):
        with api(scene.service, token) as stranger:
            for method, path, more in endpoints(scene)[operation]:
                problem(stranger.request(method, path, **more), 401, "client.not-authenticated")


def test_no_endpoint_is_forgotten(scene: Scene) -> None:
    """What OpenAPI lists, less what is for everybody, is what was asked above."""
    document = scene.clients["app"].get("/openapi.json").json()
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        if path.startswith("/v1/")
        for method in operations
    }
    asked = set()
    for each in endpoints(scene).values():
        for method, path, _ in each:
            template = path.replace("00" * 16, "{credential_id}").replace(
                scene.credential_id, "{credential_id}"
            )
            asked.add((method, template.replace("/users/alice/", "/users/{owner}/")))
    assert asked == listed
