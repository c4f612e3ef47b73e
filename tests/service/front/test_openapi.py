"""The OpenAPI document: complete, and true of what the running service answers to whatever it allows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hsm_signer.config.service import ACTS, Settings
from hsm_signer.errors import all_errors
from hsm_signer.service.front import openapi
from hsm_signer.service.front.app import INTERFACES
from hsm_signer.service.front.native.endpoints import NATIVE
from tests.support.front import PROBLEM, api
from tests.support.service import Service, serving
from tests.support.tenants import Tenants

SETTINGS = "[limits]\nrate = 100000\nburst = 100000\n"
EXAMPLES = 5
"""Of each endpoint."""
CHECKS: tuple[Any, ...] = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@dataclass(frozen=True)
class Scene:
    """The service, a client that may do everything, and a credential that is there."""

    service: Service
    token: str
    credential_id: str
    document: dict[str, Any]


@pytest.fixture(scope="module")
def scene(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("openapi")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home, settings=SETTINGS) as service:
        token = tenants.tokens["app"]
        with api(service, token) as client:
            document = client.get("/openapi.json").json()
            found = client.get("/v1/users/alice/credential").json()["credential_id"]
        yield Scene(service, token, found, document)
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", GenerationMode)
def test_answers_are_as_documented(scene: Scene, mode: GenerationMode) -> None:
    """To requests that the document allows, and to such that it does not."""
    document = schemathesis.openapi.from_dict(scene.document).exclude(path_regex="^/csc/")
    asked = set()
    statuses: set[int] = set()
    for found in document.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        asked.add(operation.label)
        statuses |= _ask(scene, operation.as_strategy(generation_mode=mode))
    # It did get in, and it was refused, by the way of asking that was meant to.
    assert ({200, 404} if mode is GenerationMode.POSITIVE else {400}) <= statuses
    assert {"POST /v1/credentials/{credential_id}/signatures", "GET /v1/evidence"} <= asked
    assert len(asked) > 15


def _ask(scene: Scene, strategy: Any) -> set[int]:
    """The statuses of the answers."""
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        # Half of what is only looked at is there.
        if case.method == "GET" and str(case.path_parameters.get("credential_id", "f"))[:1] in "01234567":
            case.path_parameters["credential_id"] = scene.credential_id
        answer = case.call(
            base_url=scene.service.url,
            headers={**(case.headers or {}), "Authorization": f"Bearer {scene.token}"},
            verify=str(scene.service.ca),
            timeout=60,
        )
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable):  # no request of this endpoint is wrong
        ask()
    return statuses


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            if path.startswith("/v1/"):
                yield method, path, operation


def test_every_refusal_is_declared(scene: Scene) -> None:
    problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for method, path, operation in operations(scene.document):
        where = f"{method} {path}"
        declared = set(operation["responses"])
        assert {str(status) for status in NATIVE.refusals} <= declared, where
        assert sum(status.startswith("2") for status in declared - {"202"}) == 1, where
        assert ("202" in declared) == (path.rpartition("/")[2] in ACTS), where
        for status, answer in operation["responses"].items():
            if not status.startswith("2"):
                assert answer["content"] == problem, where
        assert operation["security"] == [{"bearer": []}, {"certificate": []}], where


def test_statuses_of_errors_are_declared_somewhere(scene: Scene) -> None:
    """No class of errors.py that a worker raises has a status that the document does not know."""
    declared = {status for _, _, operation in operations(scene.document) for status in operation["responses"]}
    from_cards_and_clients = {"502"}
    assert {str(error.http_status) for error in all_errors()} <= declared | from_cards_and_clients


def test_no_reference_leads_nowhere(scene: Scene) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(scene.document))
    assert len(found) > 20
    for reference in found:
        inner: Any = scene.document
        for name in reference.removeprefix("#/").split("/"):
            inner = inner[name]
    assert found == {f"#/components/schemas/{name}" for name in scene.document["components"]["schemas"]}


def test_document_is_of_version_3_1(scene: Scene) -> None:
    assert scene.document["openapi"] == "3.1.0"
    assert scene.document["components"]["securitySchemes"]["certificate"]["type"] == "mutualTLS"
    text = json.dumps(scene.document)
    assert '"nullable"' not in text
    assert '{"type": "null"}' in text


def test_every_operation_has_names_of_its_own(scene: Scene) -> None:
    every = [
        (path, operation)
        for path, methods in scene.document["paths"].items()
        for operation in methods.values()
    ]
    ids = [operation["operationId"] for _, operation in every]
    assert len(set(ids)) == len(ids) > 35
    assert {"listCredentials", "getChallenge", "createSignatures", "cscV2SignHash", "cscV1SignHash"} <= set(
        ids
    )
    for path, operation in every:
        assert operation["summary"], path
        (tag,) = operation["tags"]
        if path.startswith("/csc/"):
            assert tag == f"CSC {path.split('/')[2]}"
        else:
            assert not tag.startswith("CSC"), path
    tags = [tag["name"] for tag in scene.document["tags"]]
    assert set(tags) == {operation["tags"][0] for _, operation in every}


def test_every_schema_has_a_name_of_its_own(scene: Scene) -> None:
    schemas = scene.document["components"]["schemas"]
    titles = [schema["title"] for schema in schemas.values()]
    assert titles == list(schemas)
    # Where two structs had one name, their modules would be part of it.
    assert not [title for title in titles if not title.isidentifier()]


def test_server_is_where_clients_reach_it() -> None:
    def servers(settings: Settings) -> list[str]:
        return [server["url"] for server in openapi.document(INTERFACES, settings)["servers"]]

    assert servers(Settings()) == ["/"]
    assert servers(Settings(public_url="https://sign.example.org")) == ["https://sign.example.org"]
