"""What the CSC API tells of the service and of a credential, made of a record and its certificates."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509

from hsm_signer.config.service import Settings
from hsm_signer.core import algorithms, oids
from hsm_signer.types import Algorithm, CredentialView, Status

from .models import (
    AuthInfo,
    AuthType,
    CertInfo,
    CredentialInfo,
    CredentialInfo1,
    KeyInfo,
    Presence1,
    ServiceInfo,
    Shown,
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


def service_info(settings: Settings, specs: str) -> ServiceInfo:
    """``info``; ``specs`` is the version of the specification, which decides on some members."""
    first = specs.startswith("1.")
    return ServiceInfo(
        specs=specs,
        name=settings.name,
        logo="",
        region=settings.region,
        lang=LANG,
        description=_DESCRIPTION,
        authType=["basic", *(["TLS"] if settings.tls.client_ca else [])],
        methods=list(METHODS),
        asynchronousOperationMode=None if first else False,
        signAlgorithms=None if first else SignAlgorithms(algos=list(oids.SIGN_OIDS)),
        signature_formats=None if first else SignatureFormats(formats=[], envelope_properties=[]),
        conformance_levels=None if first else [],
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
    credential: CredentialView, chain: tuple[bytes, ...], shown: Shown, multisign: int, *, named: bool = False
) -> CredentialInfo:
    """credentials/info; with ``named`` one of the ``credentialInfos`` of credentials/list."""
    auth = AuthInfo()
    if shown.authInfo:
        card = AuthType(type="ChallengeResponse", id=CARD, label=_CARD_LABEL, description=_CARD_DESCRIPTION)
        auth = AuthInfo(expression=CARD, objects=[card])
    return CredentialInfo(
        credentialID=credential.credential_id.hex() if named else None,
        description=_description(credential),
        key=_key(credential),
        cert=_cert(chain, shown.certificates or "single", bool(shown.certInfo)),
        auth=auth,
        multisign=multisign,
        lang=LANG,
    )


def credential_info_1(
    credential: CredentialView, chain: tuple[bytes, ...], shown: Shown, multisign: int
) -> CredentialInfo1:
    """credentials/info of version 1: the card's answer goes where a one-time password would."""
    return CredentialInfo1(
        description=_description(credential),
        key=_key(credential),
        cert=_cert(chain, shown.certificates or "single", bool(shown.certInfo)),
        PIN=Presence1(presence="false") if shown.authInfo else None,
        OTP=Presence1(
            presence="true", type="offline", format="A", label=_CARD_LABEL, description=_CARD_DESCRIPTION
        )
        if shown.authInfo
        else None,
        multisign=multisign,
        lang=LANG,
    )


def _description(credential: CredentialView) -> str:
    return f"{credential.scheme.value}, {credential.status.value}, of {credential.owner}"[:255]


def _key(credential: CredentialView) -> KeyInfo:
    spec = algorithms.key_spec_of(credential.spki)
    return KeyInfo(
        status="enabled" if is_enabled(credential) else "disabled",
        algo=list(oids.oids_of(credential.algorithms)),
        len=oids.KEY_LENGTHS[spec],
        curve=oids.CURVE_OIDS.get(spec),
    )


def _cert(chain: tuple[bytes, ...], wanted: str, details: bool) -> CertInfo:
    leaf = leaf_of(chain)
    given = {"none": None, "single": chain[:1], "chain": chain}[wanted]
    said = CertInfo(
        status=None if leaf is None else leaf.status(now()),
        certificates=None if given is None else [base64.b64encode(each).decode("ascii") for each in given],
    )
    if leaf is not None and details:
        said.issuerDN, said.subjectDN, said.serialNumber = leaf.issuer, leaf.subject, leaf.serial
        said.validFrom, said.validTo = _time(leaf.begins), _time(leaf.ends)
    return said


def _time(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%SZ")
