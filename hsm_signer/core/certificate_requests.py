"""The certificate request that a credential's first authorisation signs: PKCS#10, RFC 2986.

Imported only where a request is made or written, for its ASN.1 takes longer to import than a signature takes.
"""

from __future__ import annotations

from asn1crypto import algos, core, csr, keys, pem, x509
from cryptography.x509 import Name as CryptographyName
from cryptography.x509 import NameAttribute
from cryptography.x509.oid import NameOID

from hsm_signer.errors import InputError
from hsm_signer.types import Algorithm, SpkiDer


def subject_name(owner: str, subject: str | None) -> bytes:
    """Encode a subject as DER Name, from an RFC 4514 string or as CN=owner; raises InputError."""
    try:
        if subject is None:
            name = CryptographyName([NameAttribute(NameOID.COMMON_NAME, owner)])
        else:
            name = CryptographyName.from_rfc4514_string(subject)
    except ValueError as error:
        if subject is None:
            # Whatever else a name may not be was refused before.
            raise InputError(
                f"user: as the request's subject a name has at most 64 characters: {error}",
                hint="give another subject: --subject CN=Alice,O=Example",
            ) from error
        why = str(error) or "not understood; attributes are CN, O, OU, C, ST, L, STREET, DC, UID or an OID"
        raise InputError(f"subject: {why}", hint="expected an RFC 4514 name: CN=Alice,O=Example") from error
    if subject is not None and not list(name):
        raise InputError("subject: expected at least one attribute, such as CN=Alice")
    return name.public_bytes()


def certification_request_info(subject: bytes, spki: SpkiDer) -> bytes:
    """Make the DER CertificationRequestInfo, without attributes (RFC 2986, 4.1), that a card will sign."""
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
    """Make the PEM CERTIFICATE REQUEST (RFC 2986, 4.2; RFC 7468, 7)."""
    request = csr.CertificationRequest(
        {
            "certification_request_info": csr.CertificationRequestInfo.load(request_info),
            "signature_algorithm": algos.SignedDigestAlgorithm.load(signature_algorithm(algorithm)),
            "signature": core.OctetBitString(signature),
        }
    )
    return str(pem.armor("CERTIFICATE REQUEST", request.dump()).decode("ascii"))


def signature_algorithm(algorithm: Algorithm) -> bytes:
    """Encode an algorithm as DER AlgorithmIdentifier (RFC 8017 appendix A.2, RFC 5758, RFC 8410)."""
    hash_name = algorithm.hash
    if hash_name is None:
        identifier = algos.SignedDigestAlgorithm({"algorithm": "ed25519"})
    elif algorithm.is_ecdsa:
        identifier = algos.SignedDigestAlgorithm({"algorithm": f"{hash_name.value}_ecdsa"})
    elif algorithm.is_pss:
        digest = {"algorithm": hash_name.value}
        identifier = algos.SignedDigestAlgorithm(
            {
                "algorithm": "rsassa_pss",
                "parameters": algos.RSASSAPSSParams(
                    {
                        "hash_algorithm": digest,
                        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": digest},
                        "salt_length": hash_name.length,
                    }
                ),
            }
        )
    else:
        identifier = algos.SignedDigestAlgorithm(
            {"algorithm": f"{hash_name.value}_rsa", "parameters": core.Null()}
        )
    return bytes(identifier.dump())
