"""The OpenAPI document (version 3.1), made of the table of endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from types import NoneType
from typing import Any

from msgspec import Struct, structs
from starlette.responses import Response

from hsm_signer.config.service import Settings
from hsm_signer.core import json_codec, json_schema

from .http.routes import Endpoint, Interface, Security
from .problems import title_of

OPENAPI = "3.1.0"
JSON = "application/json"
DESCRIPTION = """\
Signatures with keys that a smart card controls and an HSM uses, one message at a time (EP 0725512).

Credential ids, serial numbers and hashes are lower-case hexadecimal digits, other bytes base64 with padding,
times RFC 3339 in UTC, integers that may not fit into 53 bits text of decimal digits. Every refusal is a
problem document (RFC 9457) with a `code` that never changes; `retryable` says that the same request may be
sent again: nothing is ever signed twice.
"""
KNOWN_CLIENT: Security = ({"bearer": []}, {"certificate": []})
NAME_AND_SECRET: Security = ({"basic": []},)
SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token that `hsm-signer client add` shows once, or an access token (RFC 6750).",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A client's name and its token, for auth/login of the CSC API alone (RFC 7617).",
    },
    "certificate": {
        "type": "mutualTLS",
        "description": "A client certificate in the TLS handshake (RFC 8446, 4.4.2); no header.",
    },
}
TAGS = {
    "service": "Who asks, and what the service can do.",
    "signing": "Challenge, then the card's authorisation, then the signature.",
    "credentials": "What is kept of people's keys, and their status.",
    "enrolment": "A blank card becomes a person's.",
    "evidence": "What was asked of credentials and what came of it.",
    "CSC v2": "The API of the Cloud Signature Consortium, version 2.0.0.2.",
    "CSC v1": "The API of the Cloud Signature Consortium, version 1.0.4.0.",
    "health": "For whoever runs the service; nobody has to say who they are.",
}


def document(interfaces: Iterable[Interface], settings: Settings) -> dict[str, Any]:
    """The document of these interfaces as this installation offers them."""
    endpoints = [
        endpoint for interface in interfaces for endpoint in interface.endpoints if endpoint.documented
    ]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.template, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": OPENAPI,
        "info": {"title": "hsm-signer", "version": version("hsm-signer"), "description": DESCRIPTION},
        "servers": [{"url": settings.public_url or "/", "description": settings.name}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {"schemas": json_schema.components(_structs(endpoints)), "securitySchemes": SCHEMES},
    }


def _structs(endpoints: Iterable[Endpoint]) -> Iterator[type[Struct]]:
    """All that are in bodies; parameters are told one by one."""
    for endpoint in endpoints:
        yield endpoint.interface.problem
        yield from endpoint.other_answers.values()
        for kind in (endpoint.body, endpoint.part, endpoint.answer):
            if kind not in (None, NoneType, Response):
                yield kind


def _reference(kind: Any) -> dict[str, str]:
    return {"$ref": json_schema.TEMPLATE.format(name=kind.__name__)}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or it is not."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**choices[0], **rest}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "security": list(endpoint.security),
        "parameters": list(_parameters(endpoint)),
        "responses": _responses(endpoint),
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.body is not None:
        required = any(field.required for field in structs.fields(endpoint.body))
        content = {JSON: {"schema": _reference(endpoint.body)}}
        operation["requestBody"] = {"required": required, "content": content}
    elif endpoint.part is not None:
        operation["requestBody"] = _multipart(endpoint)
    if endpoint.example.body is not None:
        (content,) = operation["requestBody"]["content"].values()
        content["example"] = _example(endpoint.example.body)
    return operation


def _parameters(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    places: list[tuple[str, str, dict[str, Any]]] = [
        ("path", name, json_schema.schema_of(kind)) for name, kind in endpoint.parameters.items()
    ]
    if endpoint.query is not None:
        schema = json_schema.components([endpoint.query])[endpoint.query.__name__]
        places += [("query", name, _without_null(field)) for name, field in schema["properties"].items()]
    for place, name, schema in places:
        parameter = {"name": name, "in": place, "required": place == "path", "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        if name in endpoint.example.parameters:
            parameter["example"] = endpoint.example.parameters[name]
        yield parameter


def _multipart(endpoint: Endpoint) -> dict[str, Any]:
    """``authorisation``, then ``message``, a file (RFC 7578)."""
    schema = {
        "type": "object",
        "required": ["authorisation", "message"],
        "properties": {
            "authorisation": _reference(endpoint.part),
            "message": {"type": "string", "format": "binary"},
        },
    }
    encoding = {"authorisation": {"contentType": JSON}}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    interface = endpoint.interface
    content: dict[str, Any] = {}
    if endpoint.media_type is not None:
        content = {endpoint.media_type: {"schema": {"type": "string"}}}
    elif endpoint.answer is not NoneType:
        content = {JSON: {"schema": _reference(endpoint.answer)}}
    if content and endpoint.example.answer is not None:
        (media,) = content.values()
        media["example"] = _example(endpoint.example.answer)
    responses = {endpoint.status: {"description": title_of(endpoint.status), "content": content}}
    for status, kind in endpoint.other_answers.items():
        media = {"schema": _reference(kind)}
        if status in endpoint.example.other_answers:
            media["example"] = _example(endpoint.example.other_answers[status])
        responses[status] = {"description": title_of(status), "content": {JSON: media}}
    for status in sorted({*interface.refusals, *endpoint.refusals} - set(responses)):
        problem = {interface.problem_media_type: {"schema": _reference(interface.problem)}}
        responses[status] = {"description": title_of(status), "content": problem}
    return {str(status): response for status, response in responses.items()}


def _example(value: Any) -> Any:
    return json_codec.to_json(value) if isinstance(value, Struct) else value
