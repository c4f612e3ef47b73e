"""Enrolment: docs/protocol.md, section 7 (figs 10 and 11, steps 751 to 761).

The record is committed as pending before the card gets its keys, and becomes active by the card's first
authorisation, which signs the credential's own certificate request (PKCS#10, RFC 2986).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from asn1crypto import algos, core, csr, keys, pem, x509
from cryptography.x509 import Name as CryptographyName
from cryptography.x509 import NameAttribute
from cryptography.x509.oid import NameOID

from .encoding import entry_hash
from .errors import InputError, TokenUnsuitable
from .evidence.chain import ChainPosition, next_entry
from .signing import Clock, system_clock
from .store.store import Store
from .token.environment import SecureEnvironment
from .token.profile import TokenProfile
from .types import (
    Algorithm,
    CardPersonalisation,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    HashName,
    KeySpec,
    NewCredential,
    Scheme,
    SealedRecord,
    SpkiDer,
)

MAX_OWNER = 255


@dataclass(frozen=True, slots=True)
class Begun:
    """A pending credential, and what its card must get."""

    record: CredentialRecord
    personalisation: CardPersonalisation
    request_info: bytes
    """DER CertificationRequestInfo: the message of the first authorisation."""


def begin(
    environment: SecureEnvironment,
    store: Store,
    wanted: NewCredential,
    *,
    subject: str | None,
    actor: str,
    clock: Clock = system_clock,
) -> Begun:
    """Steps 1 to 3: keys in the token, the pending record committed. The card has got nothing yet.

    ``subject`` is an RFC 4514 string; by default the user's name as CN. Raises CredentialExists, InputError,
    TokenUnsuitable, TokenError, StoreError.
    """
    check_owner(wanted.owner)
    name = subject_name(wanted.owner, subject)
    draft, personalisation = environment.create(wanted)
    request_info = certification_request_info(name, draft.spki)
    draft = replace(draft, request_hash=request_hash(request_info))

    def build(position: ChainPosition) -> tuple[SealedRecord, EvidenceEntry]:
        entry = next_entry(
            position,
            time=clock(),
            credential_id=draft.credential_id,
            event=Event.ENROL,
            record_version=draft.version,
            actor=actor,
        )
        return environment.seal(replace(draft, evidence_head=entry_hash(entry))), entry

    store.insert(build, request=request_info, created=clock())
    return Begun(draft, personalisation, request_info)


def request_hash(request_info: bytes) -> Digest:
    """SHA-256 of the CertificationRequestInfo, as the record carries it: H of the first authorisation."""
    return Digest(hashlib.sha256(request_info).digest())


def check_owner(owner: str) -> None:
    """Raises InputError for a name that cannot be a user's: empty, long, or with control characters."""
    if not owner or owner != owner.strip() or not owner.isprintable() or len(owner.encode()) > MAX_OWNER:
        raise InputError(
            f"user: expected 1 to {MAX_OWNER} bytes of printable text without spaces around it, got {owner!r}"
        )


def subject_name(owner: str, subject: str | None) -> bytes:
    """DER Name from an RFC 4514 string, or CN=owner; raises InputError."""
    try:
        if subject is None:
            name = CryptographyName([NameAttribute(NameOID.COMMON_NAME, owner)])
        else:
            name = CryptographyName.from_rfc4514_string(subject)
    except ValueError as error:
        raise InputError(
            f"subject: {error}",
            hint="expected an RFC 4514 name such as CN=Alice,O=Example; a name longer than 64 characters "
            "needs --subject",
        ) from error
    if subject is not None and not list(name):
        raise InputError("subject: expected at least one attribute, such as CN=Alice")
    return name.public_bytes()


def certification_request_info(subject: bytes, spki: SpkiDer) -> bytes:
    """DER CertificationRequestInfo without attributes (RFC 2986, 4.1): what the card's owner signs."""
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.load(subject),
            "subject_pk_info": keys.PublicKeyInfo.load(spki),
            "attributes": csr.CRIAttributes([]),
        }
    )
    return bytes(info.dump())


def certification_request(request_info: bytes, algorithm: Algorithm, signature: bytes) -> str:
    """PEM CERTIFICATE REQUEST (RFC 2986, 4.2; RFC 7468, 7)."""
    request = csr.CertificationRequest(
        {
            "certification_request_info": csr.CertificationRequestInfo.load(request_info),
            "signature_algorithm": algos.SignedDigestAlgorithm.load(signature_algorithm(algorithm)),
            "signature": core.OctetBitString(signature),
        }
    )
    return str(pem.armor("CERTIFICATE REQUEST", request.dump()).decode("ascii"))


_HASHES = {HashName.SHA256: "sha256", HashName.SHA384: "sha384", HashName.SHA512: "sha512"}


def signature_algorithm(algorithm: Algorithm) -> bytes:
    """DER AlgorithmIdentifier (RFC 8017 appendix A.2, RFC 5758, RFC 8410)."""
    hash_name = algorithm.hash
    if hash_name is None:
        identifier = algos.SignedDigestAlgorithm({"algorithm": "ed25519"})
    elif algorithm.is_ecdsa:
        identifier = algos.SignedDigestAlgorithm({"algorithm": f"{_HASHES[hash_name]}_ecdsa"})
    elif algorithm.is_pss:
        digest = {"algorithm": _HASHES[hash_name]}
        identifier = algos.SignedDigestAlgorithm(
            {
                "algorithm": "rsassa_pss",
                "parameters": algos.RSASSAPSSParams(
                    {
                        "hash_algorithm": digest,
                        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": digest},
                        "salt_length": int(hash_name),
                    }
                ),
            }
        )
    else:
        identifier = algos.SignedDigestAlgorithm(
            {"algorithm": f"{_HASHES[hash_name]}_rsa", "parameters": core.Null()}
        )
    return bytes(identifier.dump())


def check_possible(profile: TokenProfile, scheme: Scheme, key: KeySpec) -> None:
    """Raises TokenUnsuitable, in one line, where this token cannot hold such a credential."""
    if obstacle := profile.obstacle(scheme, key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {key.cli_name}, scheme {scheme.name.lower()}",
            hint="hsm-signer doctor shows what this token can do",
        )
