"""A client that openapi-python-client makes of the OpenAPI document, used against a running service.

What it cannot read in the document it leaves out with a warning; nothing of the native interface may be.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openapi_python_client.strings import snake_case

from hsm_signer.core import json_codec
from hsm_signer.types import Challenge, SignOutcome
from tests.support.front import api, body_of, trusting
from tests.support.people import digests
from tests.support.scenes import authorise, verifies
from tests.support.service import Service, serving
from tests.support.tenants import Tenants

PACKAGE = "generated_hsm_signer_client"
CONFIGURATION = f"""
project_name_override: {PACKAGE}
package_name_override: {PACKAGE}
post_hooks: []
content_type_overrides:
  application/x-ndjson: text/plain
"""
"""Lines of JSON are text to it."""


@dataclass(frozen=True)
class Generated:
    """The client's package, its output when it was made, and a service to use it on."""

    folder: Path
    output: str
    document: dict[str, Any]
    service: Service
    tenants: Tenants

    def module(self, name: str) -> Any:
        """One module of the client."""
        return importlib.import_module(f"{PACKAGE}.{name}")

    def ask(self, name: str, **arguments: Any) -> Any:
        """Call an operation, such as ``credentials.list_credentials``; what it gives."""
        answer = self.answer(name, **arguments)
        assert not isinstance(answer, self.module("models").Problem), answer
        return answer

    def answer(self, name: str, **arguments: Any) -> Any:
        """The same, or the problem that it refuses with."""
        client = self.module("client").AuthenticatedClient(
            base_url=self.service.url,
            token=self.tenants.tokens["app"],
            verify_ssl=trusting(self.service),
            raise_on_unexpected_status=True,
        )
        with client:
            return self.module(f"api.{name}").sync(client=client, **arguments)


@pytest.fixture(scope="module")
def generated(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("generated")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home) as service:
        with api(service) as client:
            document = client.get("/openapi.json").json()
        (folder / "openapi.json").write_text(json.dumps(document))
        (folder / "config.yml").write_text(CONFIGURATION)
        made = subprocess.run(
            [
                *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
                *("--path", folder / "openapi.json", "--config", folder / "config.yml"),
                *("--output-path", folder / PACKAGE),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        sys.path.insert(0, str(folder))
        try:
            yield Generated(folder, made.stdout + made.stderr, document, service, tenants)
        finally:
            sys.path.remove(str(folder))
    shutil.rmtree(folder)


def test_nothing_is_left_out(generated: Generated) -> None:
    assert "WARNING" not in generated.output.upper(), generated.output
    made = {path.stem for path in (generated.folder / PACKAGE / "api").glob("*/*.py")} - {"__init__"}
    operations = [
        operation for methods in generated.document["paths"].values() for operation in methods.values()
    ]
    assert made == {snake_case(operation["operationId"]) for operation in operations}
    assert len(made) == len(operations)


def test_list_and_show(generated: Generated) -> None:
    page = generated.ask("credentials.list_credentials", limit=2)
    assert (len(page.credentials), page.more) == (2, True)
    shown = generated.ask("credentials.get_credential", credential_id=page.credentials[0].credential_id)
    assert shown == page.credentials[0]
    alice = generated.ask("credentials.get_credential_of_user", owner="alice")
    assert (alice.owner, alice.status.value, alice.scheme.value) == ("alice", "active", "rolling")


def test_challenge_signature_and_evidence(generated: Generated) -> None:
    """All that passes between service and card goes through the client's own classes."""
    credential_id = generated.ask("credentials.get_credential_of_user", owner="alice").credential_id
    challenge = generated.ask("signing.get_challenge", credential_id=credential_id)
    content = digests(b"one", b"two")
    nowhere: Any = None
    request = authorise(
        nowhere,
        generated.tenants.home["alice"],
        content,
        challenge=json_codec.read(Challenge, challenge.to_dict()),
    )
    body = generated.module("models").SignatureRequest.from_dict(body_of(request))
    outcome = generated.ask("signing.create_signatures", credential_id=credential_id, body=body)
    verifies(json_codec.read(SignOutcome, outcome.to_dict()), content)
    evidence = generated.ask("evidence.list_evidence", credential_id=credential_id, limit=1000)
    (signed,) = (
        entry for entry in evidence.entries if entry.authorisation_digest == outcome.authorisation_digest
    )
    assert signed.signatures == outcome.signatures
    assert signed.event.value == "sign"
    lines = generated.ask("evidence.export_evidence", credential_id=credential_id).splitlines()
    assert [json.loads(line) for line in lines] == [entry.to_dict() for entry in evidence.entries]


def test_message(generated: Generated) -> None:
    """A body of two parts, one of them JSON."""
    models, types = generated.module("models"), generated.module("types")
    credential_id = generated.ask("credentials.get_credential_of_user", owner="alice").credential_id
    challenge = generated.ask("signing.get_challenge", credential_id=credential_id)
    nowhere: Any = None
    request = authorise(
        nowhere,
        generated.tenants.home["alice"],
        b"I owe you one apple.",
        challenge=json_codec.read(Challenge, challenge.to_dict()),
    )
    body = models.CreateMessageSignatureBody(
        authorisation=models.CardAnswer.from_dict(json_codec.to_json(request.authorisation.answer)),
        message=types.File(payload=io.BytesIO(b"I owe you one apple."), file_name="message"),
    )
    outcome = generated.ask("signing.create_message_signature", credential_id=credential_id, body=body)
    verifies(json_codec.read(SignOutcome, outcome.to_dict()), request.content)


def test_anchor(generated: Generated) -> None:
    """What the client was given it can give back, times and large numbers included."""
    anchor = generated.ask("evidence.get_anchor")
    assert generated.ask("evidence.check_anchor", body=anchor).findings == []


def test_refusal(generated: Generated) -> None:
    problem = generated.answer("credentials.get_credential", credential_id="00" * 16)
    assert (problem.status, problem.code, problem.retryable) == (404, "credential.unknown", False)
