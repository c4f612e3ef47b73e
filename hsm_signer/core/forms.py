"""What crosses the network: the JSON of the service's own interface, to and from types.py. Pure conversions.

Bytes are base64 with padding (RFC 4648, 4), credential ids 32 lower-case hexadecimal digits, enumerations the
names of the command line (``rolling``, ``ecdsa-sha256``), absent values null. Reading is strict: a field that
is unknown, missing, of another type, length or range raises InputError with the field's name and what was
expected. What was found is never quoted: it may be a quantity.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from hsm_signer.errors import InputError
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    KW_LENGTH,
    MAX_DIGESTS,
    MAX_ROLLING_VALUES,
    NONCE_LENGTH,
    ROLLING_VALUE_LENGTH,
    Algorithm,
    Authorisation,
    Begun,
    CardPersonalisation,
    Challenge,
    Combine,
    CredentialId,
    CredentialView,
    Digest,
    Event,
    EvidenceEntry,
    HashName,
    KeySpec,
    Mode,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    SignOutcome,
    Status,
)

Json = dict[str, Any]
T = TypeVar("T")

MAX_NAME = 255
"""Characters of a user's name."""
MAX_SUBJECT = 2000
"""Characters of an RFC 4514 string."""
MAX_TEXT = 4096
"""Characters of any other text."""
MAX_CERTIFICATES = 10
POINT_LENGTH = 65
SERIAL_LENGTH = 8
HASH_LENGTH = 32
MAX_TRIES = 15


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request to a service may carry."""

    body: int
    """Bytes, but for messages."""
    message: int
    """Bytes."""
    digests: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be enrolled at a service, and its limits."""

    combines: tuple[Combine, ...]
    """Those the token has, the default first."""
    obstacles: Mapping[str, str]
    """"SCHEME/KEY" -> why not, or "" where it can be enrolled."""
    limits: Limits

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Why no such credential can be made there; "" if it can, and where the service does not say."""
        return self.obstacles.get(f"{scheme.name.lower()}/{key.cli_name}", "")


# --- kinds of fields ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the values of a field are read and written."""

    read: Callable[[Any, str], Any]
    """(JSON value, the field's name for errors) -> value; raises InputError."""
    write: Callable[[Any], Any]


def name_of(member: IntEnum) -> str:
    """As the command line spells an enumeration's member: ``ecdsa-sha256``."""
    return member.name.lower().replace("_", "-")


def _expected(field: str, what: str) -> InputError:
    return InputError(f"{field}: expected {what}")


def _bytes(*lengths: int) -> _Kind:
    """Bytes of one of these lengths; of any but none at all without."""
    what = f"base64 of {' or '.join(map(str, lengths))} bytes" if lengths else "base64 of some bytes"

    def read(value: Any, field: str) -> bytes:
        if not isinstance(value, str):
            raise _expected(field, what)
        try:
            found = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise _expected(field, what) from None
        # One way to write each value: other padding bits would be other text of the same bytes.
        if (len(found) not in lengths if lengths else not found) or _base64(found) != value:
            raise _expected(field, what)
        return found

    return _Kind(read, _base64)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _integer(lowest: int, highest: int) -> _Kind:
    what = f"an integer from {lowest} to {highest}"

    def read(value: Any, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise _expected(field, what)
        return value

    return _Kind(read, int)


def _text(longest: int, *, shortest: int = 0) -> _Kind:
    what = f"text of {shortest} to {longest} characters"

    def read(value: Any, field: str) -> str:
        if not isinstance(value, str) or not shortest <= len(value) <= longest:
            raise _expected(field, what)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _expected(field, "text that has an encoding in UTF-8") from None
        return value

    return _Kind(read, str)


def _member(kind: type[IntEnum]) -> _Kind:
    members = {name_of(each): each for each in kind}
    what = f"one of: {', '.join(members)}"

    def read(value: Any, field: str) -> IntEnum:
        found = members.get(value) if isinstance(value, str) else None
        if found is None:
            raise _expected(field, what)
        return found

    return _Kind(read, name_of)


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise _expected(field, "true or false")
    return value


def _identifier(value: Any, field: str) -> CredentialId:
    if not isinstance(value, str) or re.fullmatch(r"[0-9a-f]{32}", value) is None:
        raise _expected(field, f"{2 * CREDENTIAL_ID_LENGTH} lower-case hexadecimal digits")
    return CredentialId(bytes.fromhex(value))


def _many(kind: _Kind, fewest: int, most: int) -> _Kind:
    def read(value: Any, field: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not fewest <= len(value) <= most:
            raise _expected(field, f"a list of {fewest} to {most}")
        return tuple(kind.read(each, f"{field}[{number}]") for number, each in enumerate(value))

    return _Kind(read, lambda values: [kind.write(each) for each in values])


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(
        lambda value, field: None if value is None else kind.read(value, field),
        lambda value: None if value is None else kind.write(value),
    )


class _Form(Generic[T]):
    """A JSON object, field by field; each is the attribute of the same name, but for ``spki``."""

    RENAMED: ClassVar = {"public_key": "spki"}

    def __init__(self, kind: Callable[..., T], what: str, **fields: _Kind) -> None:
        self._kind = kind
        self._what = what
        self._fields = fields

    def write(self, value: T) -> Json:
        return {
            name: kind.write(getattr(value, self.RENAMED.get(name, name)))
            for name, kind in self._fields.items()
        }

    def read(self, value: Any, where: str = "", **given: Any) -> T:
        """``where``: what this is a field of; ``given``: attributes that are no fields."""
        check_fields(value, self._fields, where or self._what)
        prefix = f"{where}." if where else ""
        found = {
            self.RENAMED.get(name, name): kind.read(value[name], prefix + name)
            for name, kind in self._fields.items()
        }
        return self._kind(**found, **given)

    def kind(self) -> _Kind:
        return _Kind(self.read, self.write)


def check_fields(value: Any, names: Mapping[str, Any] | tuple[str, ...], what: str) -> None:
    """Raises InputError unless this is an object with exactly these fields."""
    if not isinstance(value, dict):
        raise _expected(what, "a JSON object")
    for name in value:
        if name not in names:
            raise InputError(f"{what}: unknown field {str(name)[:MAX_NAME]!a}")
    for name in names:
        if name not in value:
            raise InputError(f"{what}: missing field {name!r}")


_U64 = _integer(0, 2**64 - 1)
_U32 = _integer(0, 2**32 - 1)
_TRIES = _integer(0, MAX_TRIES)
_ID = _Kind(_identifier, bytes.hex)
_ANY_BYTES = _bytes()
_HASH = _bytes(HASH_LENGTH)
_DIGEST = _bytes(*HashName)
_OWNER = _text(MAX_NAME, shortest=1)
_ALGORITHM = _member(Algorithm)
_ALGORITHMS = _many(_ALGORITHM, 0, len(Algorithm))
_ROLLING_VALUES = _many(_bytes(ROLLING_VALUE_LENGTH), 0, MAX_ROLLING_VALUES)
_SIGNATURES = _many(_ANY_BYTES, 0, MAX_DIGESTS)

_AUTHORISATION = _Form(
    Authorisation,
    "authorisation",
    algorithm=_ALGORITHM,
    x=_or_null(_U64),
    rolling_values=_ROLLING_VALUES,
    nonce=_bytes(NONCE_LENGTH),
    quantities=_many(_bytes(KW_LENGTH), 1, MAX_ROLLING_VALUES),
)
_CHALLENGE = _Form(
    Challenge,
    "challenge",
    credential_id=_ID,
    scheme=_member(Scheme),
    x=_or_null(_U64),
    rolling_values=_ROLLING_VALUES,
    algorithms=_ALGORITHMS,
    public_key=_ANY_BYTES,
)
_CREDENTIAL = _Form(
    CredentialView,
    "credential",
    credential_id=_ID,
    owner=_OWNER,
    status=_member(Status),
    scheme=_member(Scheme),
    combine=_member(Combine),
    pin_policy=_member(PinPolicy),
    pin_check=_member(PinCheck),
    token_serial=_text(MAX_TEXT),
    public_key=_ANY_BYTES,
    algorithms=_ALGORITHMS,
    version=_U64,
    x=_or_null(_U64),
    failures=_U32,
    card_serial=_bytes(SERIAL_LENGTH),
    assurance=_integer(0, 255),
    request_hash=_or_null(_HASH),
)
_OUTCOME = _Form(
    SignOutcome,
    "outcome",
    credential_id=_ID,
    owner=_OWNER,
    algorithm=_ALGORITHM,
    public_key=_ANY_BYTES,
    signatures=_many(_ANY_BYTES, 1, MAX_DIGESTS),
    d=_HASH,
    evidence_hash=_HASH,
    repeated=_Kind(_boolean, bool),
    failures_before=_U32,
)
_PERSONALISATION = _Form(
    CardPersonalisation,
    "personalisation",
    credential_id=_ID,
    scheme=_member(Scheme),
    combine=_member(Combine),
    pin_policy=_member(PinPolicy),
    pin_check=_member(PinCheck),
    pin_tries=_TRIES,
    puk_tries=_TRIES,
    token_point=_bytes(POINT_LENGTH),
    wrapped_kcar=_or_null(_bytes(KW_LENGTH)),
    wrapped_kek=_bytes(KW_LENGTH),
)
_NEW_CREDENTIAL = _Form(
    NewCredential,
    "new credential",
    owner=_OWNER,
    scheme=_member(Scheme),
    combine=_member(Combine),
    key=_member(KeySpec),
    pin_policy=_member(PinPolicy),
    pin_check=_member(PinCheck),
    pin_tries=_TRIES,
    puk_tries=_TRIES,
    card_point=_bytes(POINT_LENGTH),
    card_serial=_bytes(SERIAL_LENGTH),
)
_BEGUN = _Form(
    Begun,
    "enrolment",
    credential=_CREDENTIAL.kind(),
    personalisation=_PERSONALISATION.kind(),
    request_info=_ANY_BYTES,
)
_ENTRY = _Form(
    EvidenceEntry,
    "entry",
    sequence=_U64,
    time=_U64,
    credential_id=_ID,
    event=_member(Event),
    outcome=_text(MAX_TEXT, shortest=1),
    record_version=_U64,
    actor=_text(MAX_TEXT),
    previous=_HASH,
    d=_or_null(_HASH),
    nonce=_or_null(_bytes(NONCE_LENGTH)),
    x=_or_null(_U64),
    algorithm=_or_null(_ALGORITHM),
    mode=_or_null(_member(Mode)),
    h=_or_null(_HASH),
    quantities_hash=_or_null(_HASH),
    digests=_many(_DIGEST, 0, MAX_DIGESTS),
    signatures=_SIGNATURES,
)
_LIMITS = _Form(Limits, "limits", body=_U64, message=_U64, digests=_U64)


# --- conversions -------------------------------------------------------------------------------------------


def decode(data: bytes, what: str) -> Any:
    """JSON text (UTF-8) to Python's values; raises InputError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        raise _expected(what, "JSON") from None


def identifier_from_json(value: Any, field: str = "credential_id") -> CredentialId:
    """A credential id from its hexadecimal digits; raises InputError."""
    return _identifier(value, field)


def bytes_to_json(value: bytes) -> str:
    """Base64 with padding."""
    return _base64(value)


def bytes_from_json(value: Any, field: str) -> bytes:
    """At least one byte; raises InputError."""
    found: bytes = _ANY_BYTES.read(value, field)
    return found


def octets_from_json(value: Any, field: str) -> bytes:
    """Any number of bytes, none included; raises InputError."""
    return b"" if value == "" else bytes_from_json(value, field)


def authorisation_to_json(authorisation: Authorisation) -> Json:
    """Without the credential id, which stands in the request's path."""
    return _AUTHORISATION.write(authorisation)


def authorisation_from_json(credential_id: CredentialId, value: Any, where: str = "") -> Authorisation:
    """Raises InputError."""
    return _AUTHORISATION.read(value, where, credential_id=credential_id)


def digests_to_json(digests: tuple[bytes, ...]) -> list[str]:
    """In their order."""
    return [_base64(each) for each in digests]


def digests_from_json(value: Any, most: int = MAX_DIGESTS) -> tuple[Digest, ...]:
    """1 to ``most`` digests of 32, 48 or 64 bytes each, in their order; raises InputError."""
    found: tuple[Digest, ...] = _many(_DIGEST, 1, most).read(value, "digests")
    return found


def challenge_to_json(challenge: Challenge) -> Json:
    """Step 880's answer."""
    return _CHALLENGE.write(challenge)


def challenge_from_json(value: Any) -> Challenge:
    """Raises InputError."""
    return _CHALLENGE.read(value)


def credential_to_json(credential: CredentialView) -> Json:
    """A credential as others than the server see it."""
    return _CREDENTIAL.write(credential)


def credential_from_json(value: Any, where: str = "") -> CredentialView:
    """Raises InputError."""
    return _CREDENTIAL.read(value, where)


def outcome_to_json(outcome: SignOutcome) -> Json:
    """What is released."""
    return _OUTCOME.write(outcome)


def outcome_from_json(value: Any) -> SignOutcome:
    """Raises InputError."""
    return _OUTCOME.read(value)


def personalisation_to_json(personalisation: CardPersonalisation) -> Json:
    """What INSTALL gives to the card."""
    return _PERSONALISATION.write(personalisation)


def personalisation_from_json(value: Any, where: str = "") -> CardPersonalisation:
    """Raises InputError."""
    return _PERSONALISATION.read(value, where)


def begun_to_json(begun: Begun) -> Json:
    """The answer to an enrolment's beginning."""
    return _BEGUN.write(begun)


def begun_from_json(value: Any) -> Begun:
    """Raises InputError."""
    return _BEGUN.read(value)


def new_credential_to_json(wanted: NewCredential, subject: str | None) -> Json:
    """``subject``: an RFC 4514 string, or None for the user's name as CN."""
    return {**_NEW_CREDENTIAL.write(wanted), **({} if subject is None else {"subject": subject})}


def new_credential_from_json(value: Any) -> tuple[NewCredential, str | None]:
    """What is wanted, and the subject; null or no subject at all is None. Raises InputError."""
    subject = None
    if isinstance(value, dict) and "subject" in value:
        value = dict(value)
        subject = _or_null(_text(MAX_SUBJECT)).read(value.pop("subject"), "subject")
    return _NEW_CREDENTIAL.read(value), subject


def entry_to_json(number: int, entry: EvidenceEntry) -> Json:
    """One entry of the evidence, with the store's number of it."""
    return {"number": number, **_ENTRY.write(entry)}


def entry_from_json(value: Any, where: str = "") -> tuple[int, EvidenceEntry]:
    """The store's number and the entry; raises InputError."""
    what = where or "entry"
    if not isinstance(value, dict) or "number" not in value:
        raise _expected(what, "a JSON object with a number")
    value = dict(value)
    number: int = _U64.read(value.pop("number"), f"{what}.number")
    return number, _ENTRY.read(value, where)


def certificates_to_json(certificates: tuple[bytes, ...]) -> Json:
    """A chain, DER each, leaf first."""
    return {"certificates": [_base64(each) for each in certificates]}


def certificates_from_json(value: Any) -> tuple[bytes, ...]:
    """Raises InputError."""
    check_fields(value, ("certificates",), "certificates")
    found: tuple[bytes, ...] = _many(_ANY_BYTES, 0, MAX_CERTIFICATES).read(
        value["certificates"], "certificates"
    )
    return found


def capabilities_to_json(combines: tuple[Combine, ...], obstacles: Mapping[str, str], limits: Limits) -> Json:
    """``obstacles``: "SCHEME/KEY" -> why not, or ""."""
    return {
        "combines": [name_of(each) for each in combines],
        "obstacles": dict(obstacles),
        "limits": _LIMITS.write(limits),
    }


def capabilities_from_json(value: Any) -> Capabilities:
    """Raises InputError."""
    check_fields(value, ("combines", "obstacles", "limits"), "capabilities")
    obstacles = value["obstacles"]
    if not isinstance(obstacles, dict):
        raise _expected("obstacles", "a JSON object")
    words = _text(MAX_TEXT)
    return Capabilities(
        combines=_many(_member(Combine), 1, len(Combine)).read(value["combines"], "combines"),
        obstacles={
            name: words.read(why, f"obstacles.{str(name)[:MAX_NAME]}") for name, why in obstacles.items()
        },
        limits=_LIMITS.read(value["limits"], "limits"),
    )
