"""What the CSC API tells of the service and of a credential, made of a record and its certificates."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from msgspec import UNSET, structs

from hsm_signer.config.service import Settings
from hsm_signer.core import algorithms, oids
from hsm_signer.types import Algorithm, CredentialView, Status

from .models import (
    AuthInfo,
    AuthType,
    CertInfo,
    CscCredentialInfo,
    CscServiceInfo,
    CscShownRequest,
    CscV1CredentialInfo,
    KeyInfo,
    Presence,
    SignAlgorithms,
    SignatureFormats,
)

LANG = "en"
CARD = "CARD"
"""The one authentication object: the user's card."""

METHODS = (
    "auth/login",
    "auth/revoke",
    "credentials/list",
    "credentials/info",
    "credentials/getChallenge",
    "credentials/authorize",
    "signatures/signHash",
)
_DESCRIPTION = "Signs with keys that smart cards control: the card authorises each list of hashes"
_CARD_LABEL = "Smart card"
_CARD_DESCRIPTION = "The user's smart card authorises exactly these hashes, after its PIN"


def service_info(settings: Settings, specs: str) -> CscServiceInfo:
    """``info``; ``specs`` is the version of the specification, which decides on some members."""
    first = specs.startswith("1.")
    return CscServiceInfo(
        specs=specs,
        name=settings.name,
        logo="",
        region=settings.region,
        lang=LANG,
        description=_DESCRIPTION,
        authType=("basic", "TLS") if settings.tls.client_ca else ("basic",),
        methods=METHODS,
        asynchronousOperationMode=UNSET if first else False,
        signAlgorithms=UNSET if first else SignAlgorithms(tuple(oids.SIGN_OIDS)),
        signature_formats=UNSET if first else SignatureFormats(formats=(), envelope_properties=()),
        conformance_levels=UNSET if first else (),
    )


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a credential's certificate says."""

    issuer: str
    serial: str
    subject: str
    begins: datetime
    ends: datetime

    def status(self, now: datetime) -> Literal["valid", "expired"] | None:
        """None before it begins: the specification has no word for that."""
        if now > self.ends:
            return "expired"
        return "valid" if now >= self.begins else None


def leaf_of(chain: tuple[bytes, ...]) -> Leaf | None:
    """The first certificate; None where there is none, and for one that cannot be read."""
    if not chain:
        return None
    try:
        found = x509.load_der_x509_certificate(chain[0])
        return Leaf(
            issuer=found.issuer.rfc4514_string(),
            serial=f"{found.serial_number:X}",
            subject=found.subject.rfc4514_string(),
            begins=found.not_valid_before_utc,
            ends=found.not_valid_after_utc,
        )
    except ValueError:
        return None


def is_enabled(credential: CredentialView) -> bool:
    """Whether signatures/signHash can do anything with it: active, and with an algorithm for hashes."""
    return credential.status is Status.ACTIVE and credential.algorithms != (Algorithm.ED25519,)


def is_usable(credential: CredentialView, chain: tuple[bytes, ...], now: datetime) -> bool:
    """``onlyValid``: enabled, and without a certificate or with a valid one."""
    leaf = leaf_of(chain)
    return is_enabled(credential) and (leaf is None or leaf.status(now) == "valid")


def now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


def credential_info(
    credential: CredentialView,
    chain: tuple[bytes, ...],
    shown: CscShownRequest,
    multisign: int,
    *,
    named: bool = False,
) -> CscCredentialInfo:
    """credentials/info; with ``named`` one of the ``credentialInfos`` of credentials/list."""
    auth = AuthInfo()
    if shown.authInfo:
        card = AuthType(type="ChallengeResponse", id=CARD, label=_CARD_LABEL, description=_CARD_DESCRIPTION)
        auth = AuthInfo(expression=CARD, objects=(card,))
    return CscCredentialInfo(
        credentialID=credential.credential_id.hex() if named else UNSET,
        description=_description(credential),
        key=_key(credential),
        cert=_cert(chain, shown),
        auth=auth,
        multisign=multisign,
        lang=LANG,
    )


def credential_info_of_version_1(
    credential: CredentialView, chain: tuple[bytes, ...], shown: CscShownRequest, multisign: int
) -> CscV1CredentialInfo:
    """credentials/info of version 1: the card's answer goes where a one-time password would."""
    otp = Presence(
        presence="true", type="offline", format="A", label=_CARD_LABEL, description=_CARD_DESCRIPTION
    )
    return CscV1CredentialInfo(
        description=_description(credential),
        key=_key(credential),
        cert=_cert(chain, shown),
        PIN=Presence(presence="false") if shown.authInfo else UNSET,
        OTP=otp if shown.authInfo else UNSET,
        multisign=multisign,
        lang=LANG,
    )


def _description(credential: CredentialView) -> str:
    return f"{credential.scheme.value}, {credential.status.value}, of {credential.owner}"[:255]


def _key(credential: CredentialView) -> KeyInfo:
    spec = algorithms.key_spec_of(credential.spki)
    return KeyInfo(
        status="enabled" if is_enabled(credential) else "disabled",
        algo=tuple(oids.oids_of(credential.algorithms)),
        len=oids.KEY_LENGTHS[spec],
        curve=oids.CURVE_OIDS.get(spec, UNSET),
    )


def _cert(chain: tuple[bytes, ...], shown: CscShownRequest) -> CertInfo:
    leaf = leaf_of(chain)
    status = None if leaf is None else leaf.status(now())
    sent = {"none": None, "chain": chain}.get(shown.certificates or "single", chain[:1])
    found = CertInfo(
        status=UNSET if status is None else status,
        certificates=UNSET if sent is None else tuple(base64.b64encode(der).decode() for der in sent),
    )
    if leaf is None or not shown.certInfo:
        return found
    return structs.replace(
        found,
        issuerDN=leaf.issuer,
        subjectDN=leaf.subject,
        serialNumber=leaf.serial,
        validFrom=_time(leaf.begins),
        validTo=_time(leaf.ends),
    )


def _time(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%SZ")
