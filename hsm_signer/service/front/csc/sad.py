"""What the card says, in the members that the CSC API has for it.

Challenge and answer are the JSON of the service's own interface in base64url without padding (RFC 4648, 5).
The SAD is the card's answer as a worker has sealed it for the client: good for exactly the hashes that the
card was shown, once, and for that client. Nothing is kept between authorize and signHash, so that any front
and any worker takes it.
"""

from __future__ import annotations

import base64
import binascii

from hsm_signer.core import json_codec
from hsm_signer.errors import InputError
from hsm_signer.types import CardAnswer, Challenge

from .models import MAX_SAD

PREFIX = "csad2."


def challenge_text(challenge: Challenge) -> str:
    """``challenge`` of credentials/getChallenge."""
    return _text(json_codec.encode(challenge))


def read_answer(text: str) -> CardAnswer:
    """The card's answer from ``value`` of authData, or ``OTP`` of version 1; raises InputError."""
    return json_codec.decode(CardAnswer, _octets(text), what="base64url")


def sad_text(sealed: bytes) -> str:
    """``SAD`` of credentials/authorize."""
    return PREFIX + _text(sealed)


def read_sad(text: str) -> bytes:
    """What a worker sealed, from a SAD of :func:`sad_text`; raises InputError for any other text."""
    if not text.startswith(PREFIX):
        raise InputError(f"SAD: expected {PREFIX}...")
    return _octets(text[len(PREFIX) :])


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _octets(text: str) -> bytes:
    """Padding is taken, too; raises InputError."""
    if len(text) > MAX_SAD:
        raise InputError(f"expected at most {MAX_SAD} characters")
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("expected base64url") from None
