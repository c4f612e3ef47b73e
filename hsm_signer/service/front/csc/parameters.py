"""Parameters of the CSC API that are checked beyond their type, each with the words for what is wrong.

As the tables of CSC API 2.0.0.2, 11, have them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TypeVar

from msgspec import DecodeError, Struct, ValidationError, json, structs
from starlette.requests import Request

from hsm_signer.core import json_codec, oids
from hsm_signer.errors import InputError
from hsm_signer.service.front.calls import front_of
from hsm_signer.service.front.http.bodies import body_of, require_media_type, strict_json
from hsm_signer.service.front.problems import HttpError
from hsm_signer.types import Algorithm, CredentialId, Digest, HashName

from .errors import CscError, invalid, invalid_parameter, missing_string, no_object, wrong_member

T = TypeVar("T", bound=Struct)

_BEARER = re.compile(r"bearer +[A-Za-z0-9._~+/-]+=*", re.IGNORECASE)
"""RFC 6750, 2.1."""
_BASIC_REALM = {"WWW-Authenticate": 'Basic realm="csc"'}


def bearer(request: Request) -> None:
    """Refuses a header of another form; none at all may do: a client certificate says who asks, too."""
    headers = request.headers.getlist("authorization")
    if headers and (len(headers) > 1 or not _BEARER.fullmatch(headers[0])):
        raise invalid("Malformed authorization header")


def basic(request: Request) -> None:
    """Refuses what is no name and secret, for auth/login."""
    headers = request.headers.getlist("authorization")
    scheme, _, value = (headers[0] if len(headers) == 1 else "").partition(" ")
    if scheme.lower() != "basic" or not value.strip():
        raise CscError("invalid_request", "Malformed authentication parameter", 401, _BASIC_REALM)
    try:
        name, colon, _ = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        name = colon = ""
    if not name or not colon:
        raise invalid("Malformed username-password")


async def read_body(request: Request, kind: type[T]) -> T:
    """The members of the JSON object; without a body, those of an empty one."""
    body = await body_of(request)
    if not body and not any(field.required for field in structs.fields(kind)):
        return kind()
    try:
        require_media_type(request, "application/json")
        strict_json(body, "body")
        return json.decode(body, type=kind)
    except ValidationError as error:
        raise wrong_member(error) from None
    except (HttpError, InputError, DecodeError):
        raise no_object() from None


def identifier(text: str, name: str = "credentialID") -> CredentialId:
    """32 lower-case hexadecimal digits."""
    try:
        return json_codec.read(CredentialId, text)
    except InputError as error:
        raise invalid_parameter(name) from error


def hashes(texts: Sequence[str]) -> tuple[Digest, ...]:
    """Digests of any length, from base64 with padding (RFC 4648, 4)."""
    if not texts:
        raise invalid("Empty hash array")
    try:
        return tuple(Digest(base64.b64decode(text, validate=True)) for text in texts)
    except (binascii.Error, ValueError):
        raise invalid("Invalid Base64 hash string parameter") from None


def check_lengths(digests: Sequence[bytes], hash_name: HashName) -> None:
    """Each as long as the hash gives it."""
    if any(len(digest) != hash_name.length for digest in digests):
        raise invalid("Invalid digest value length")


def check_number(request: Request, number: int, digests: int) -> None:
    """numSignatures: as many as there are digests, and no more than ``multisign``."""
    if number < 1:
        raise invalid("Invalid value for parameter numSignatures")
    if number > multisign(request):
        raise invalid("Numbers of signatures is too high")
    if number != digests:
        raise invalid("Invalid value for parameter numSignatures")


def multisign(request: Request) -> int:
    """Hashes that one authorisation may have: the service's limit for all its requests."""
    return front_of(request).settings.limits.digests


def algorithm(sign_oid: str, params: str | None, hash_oid: str | None, hash_parameter: str) -> Algorithm:
    """What signAlgo, its parameters and the hash say together (CSC API 2.0.0.2, 11.10).

    The hash is looked at only where signAlgo says none itself.
    """
    known = oids.SIGN_OIDS.get(sign_oid)
    if known is None:
        raise invalid_parameter("signAlgo")
    if known.family is oids.Family.PSS:
        if params is None:
            raise missing_string("signAlgoParams")
        hash_name = oids.pss_hash(_der(params))
        if hash_name is None:
            raise invalid_parameter("signAlgoParams")
        return oids.algorithm_of(known.family, hash_name)
    if params is not None and _der(params) != oids.NULL:
        raise invalid_parameter("signAlgoParams")
    if known.hash is not None:
        return oids.algorithm_of(known.family, known.hash)
    if hash_oid is None:
        raise missing_string(hash_parameter)
    named = oids.hash_of(hash_oid)
    if named is None:
        raise invalid_parameter(hash_parameter)
    return oids.algorithm_of(known.family, named)


def _der(params: str) -> bytes:
    try:
        return base64.b64decode(params, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_parameter("signAlgoParams") from None
