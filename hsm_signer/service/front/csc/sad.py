"""What the card says, in the members that the CSC API has for it.

Challenge and answer are the JSON of the service's own interface (forms.py) in base64url without padding
(RFC 4648, 5). The SAD is the card's answer itself, with the credential and the hash of the list that it was
made for: good for exactly those hashes, once. Nothing is kept between authorize and signHash, so that any
front and any worker takes it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import msgspec

from hsm_signer.core import forms
from hsm_signer.core.content import digest_list_hash
from hsm_signer.errors import InputError
from hsm_signer.types import Authorisation, Challenge, CredentialId, Digest

from .models import MAX_SAD

PREFIX = "csad1."


@dataclass(frozen=True, slots=True)
class Sad:
    """Signature activation data, read again. The worker believes none of it; the card made it hold."""

    authorisation: Authorisation
    digests_hash: bytes
    """H of the list of digests (docs/understand/protocol.md, section 2)."""

    def covers(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the card was shown these, in this order; digests of one length."""
        return digest_list_hash(digests) == self.digests_hash


def challenge_text(challenge: Challenge) -> str:
    """``challenge`` of credentials/getChallenge."""
    return _text(forms.challenge_to_json(challenge))


def read_answer(credential_id: CredentialId, text: str) -> Authorisation:
    """The card's answer from ``value`` of authData, or ``OTP`` of version 1; raises InputError."""
    return forms.authorisation_from_json(credential_id, _json(text))


def sad_text(authorisation: Authorisation, digests: tuple[Digest, ...]) -> str:
    """``SAD`` of credentials/authorize."""
    return PREFIX + _text(
        {
            "credential_id": authorisation.credential_id.hex(),
            "authorisation": forms.authorisation_to_json(authorisation),
            "digests_hash": forms.bytes_to_json(digest_list_hash(digests)),
        }
    )


def read_sad(text: str) -> Sad:
    """A SAD of :func:`sad_text`; raises InputError for any other text."""
    if not text.startswith(PREFIX):
        raise InputError(f"SAD: expected {PREFIX}...")
    value = _json(text[len(PREFIX) :])
    forms.check_fields(value, ("credential_id", "authorisation", "digests_hash"), "SAD")
    credential_id = forms.identifier_from_json(value["credential_id"])
    return Sad(
        forms.authorisation_from_json(credential_id, value["authorisation"]),
        forms.bytes_from_json(value["digests_hash"], "digests_hash"),
    )


def _text(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode("ascii")


def _json(text: str) -> Any:
    """Padding is taken, too; raises InputError."""
    if len(text) > MAX_SAD:
        raise InputError(f"expected at most {MAX_SAD} characters")
    bare = text.rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("expected base64url") from None
    return forms.decode(data, "base64url")
