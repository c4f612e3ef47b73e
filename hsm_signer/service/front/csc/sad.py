"""What the card says, in the members that the CSC API has for it.

Challenge and answer are the JSON of the service's own interface in base64url without padding (RFC 4648, 5).
The SAD is the card's answer itself, with the credential and the hash of the list that it was made for: good
for exactly those hashes, once. Nothing is kept between authorize and signHash, so that any front and any
worker takes it.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

from msgspec import Struct

from hsm_signer.core import json_codec
from hsm_signer.core.content import digest_list_hash
from hsm_signer.errors import InputError
from hsm_signer.types import CardAnswer, Challenge, CredentialId, Digest, Sha256

from .models import MAX_SAD

T = TypeVar("T", bound=Struct)

PREFIX = "csad1."


class Sad(Struct, frozen=True, forbid_unknown_fields=True):
    """Signature activation data. The worker believes none of it; the card made it hold."""

    credential_id: CredentialId
    authorisation: CardAnswer
    digests_hash: Sha256
    """H of the list of digests (docs/understand/protocol.md, section 2)."""

    def covers(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the card was shown these, in this order; digests of one length."""
        return digest_list_hash(digests) == self.digests_hash


def challenge_text(challenge: Challenge) -> str:
    """``challenge`` of credentials/getChallenge."""
    return _text(challenge)


def read_answer(text: str) -> CardAnswer:
    """The card's answer from ``value`` of authData, or ``OTP`` of version 1; raises InputError."""
    return _read(CardAnswer, text)


def sad_text(credential_id: CredentialId, answer: CardAnswer, digests: tuple[Digest, ...]) -> str:
    """``SAD`` of credentials/authorize."""
    return PREFIX + _text(Sad(credential_id, answer, digest_list_hash(digests)))


def read_sad(text: str) -> Sad:
    """A SAD of :func:`sad_text`; raises InputError for any other text."""
    if not text.startswith(PREFIX):
        raise InputError(f"SAD: expected {PREFIX}...")
    return _read(Sad, text[len(PREFIX) :])


def _text(value: Struct) -> str:
    return base64.urlsafe_b64encode(json_codec.encode(value)).rstrip(b"=").decode("ascii")


def _read(kind: type[T], text: str) -> T:
    """Padding is taken, too; raises InputError."""
    if len(text) > MAX_SAD:
        raise InputError(f"expected at most {MAX_SAD} characters")
    bare = text.rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("expected base64url") from None
    return json_codec.decode(kind, data, what="base64url")
