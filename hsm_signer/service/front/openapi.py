"""What OpenAPI says beyond what FastAPI sees: refusals, security schemes, and version 3.0 of the format."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from pydantic import BaseModel

from hsm_signer.core import json_schema
from hsm_signer.types import CardAnswer

from .problems import MEDIA_TYPE, Problem, title_of

OPENAPI = "3.0.3"
"""Swagger UI of the bundle knows no 3.1."""

SECURITY: dict[str, Any] = {"security": [{"bearer": []}, {"certificate": []}]}
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
    # mutualTLS is a type of OpenAPI 3.1 only.
    "certificate": {
        "type": "http",
        "scheme": "mutual",
        "description": "A client certificate in the TLS handshake (RFC 8446, 4.4.2); no header.",
    },
}
EVERYWHERE = (400, 401, 403, 408, 413, 429, 500, 503, 504)
"""What any endpoint with a worker behind it may answer."""
REFERENCE = {"$ref": "#/components/schemas/Problem"}

MESSAGE_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["authorisation", "message"],
                "properties": {
                    "authorisation": {"$ref": "#/components/schemas/CardAnswer"},
                    "message": {"type": "string", "format": "binary"},
                },
            },
            "encoding": {"authorisation": {"contentType": "application/json"}},
        }
    },
}

_STRUCTS: set[type[Struct]] = {CardAnswer}
"""What bodies and answers are made of."""


def _json_of(kind: type[Struct]) -> dict[str, Any]:
    _STRUCTS.add(kind)
    reference = json_schema.TEMPLATE.format(name=kind.__name__)
    return {"application/json": {"schema": {"$ref": reference}}}


def body_of(kind: type[Struct]) -> dict[str, Any]:
    """``requestBody`` of a route that reads ``kind``."""
    return {"required": True, "content": _json_of(kind)}


TAGS = [
    {"name": "service", "description": "Who asks, and what the service can do."},
    {"name": "signing", "description": "Challenge, then the card's authorisation, then the signature."},
    {"name": "credentials", "description": "What is kept of people's keys, and their status."},
    {"name": "enrolment", "description": "A blank card becomes a person's."},
    {"name": "evidence", "description": "What was asked of credentials and what came of it."},
    {"name": "health", "description": "For whoever runs the service."},
]


def answers(
    status: int,
    model: type[BaseModel] | type[Struct] | None,
    *refusals: int,
    everywhere: tuple[int, ...] = EVERYWHERE,
    content: dict[str, Any] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: its success and every refusal, the latter as problem documents."""
    success: dict[str, Any] = {"description": title_of(status)}
    if model is not None and issubclass(model, Struct):
        success["content"] = _json_of(model)
    elif model is not None:
        success["model"] = model
    if content is not None:
        success["content"] = content
    declared: dict[int | str, dict[str, Any]] = {status: success}
    for each in sorted({*everywhere, *refusals}):
        declared[each] = {"description": title_of(each), "content": {MEDIA_TYPE: {"schema": REFERENCE}}}
    return declared


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=TAGS,
        )
        components = schema.setdefault("components", {})
        components["securitySchemes"] = SCHEMES
        schemas = components.setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        schemas |= json_schema.components(sorted(_STRUCTS, key=lambda kind: kind.__name__))
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None) if _is_fastapis(operation) else None
        schema["openapi"] = OPENAPI
        schema["info"].pop("summary", None)
        app.openapi_schema = _as_3_0(schema)
    return app.openapi_schema


def _is_fastapis(operation: dict[str, Any]) -> bool:
    """FastAPI adds 422 to whatever has parameters; here such a request gets 400."""
    content = operation["responses"].get("422", {}).get("content", {})
    return "application/json" in content


def _as_3_0(value: Any) -> Any:
    """JSON Schema as OpenAPI 3.0 has it: nullable instead of a type null, enum instead of const."""
    if isinstance(value, list):
        return [_as_3_0(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: _as_3_0(each) for name, each in value.items()}
    if "const" in found:
        found["enum"] = [found.pop("const")]
    choices = found.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        choices = [each for each in choices if each != {"type": "null"}]
        del found["anyOf"]
        found["nullable"] = True
        if len(choices) == 1 and "$ref" not in choices[0]:
            found = {**choices[0], **found}
        else:
            found["anyOf"] = choices
    return found
