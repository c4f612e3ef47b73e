"""Every signature verified by the openssl command line as well as by `cryptography`.

Every key type, every algorithm of it, every scheme, message and digest mode; and the certificate requests.
One enrolment for each key and scheme, then every algorithm and mode with it.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsm_signer.card.address import create_card
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import algorithms
from hsm_signer.errors import SignatureInvalid
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, PUK, Person
from hsm_signer.types import Algorithm, Digest, DigestList, KeySpec, PinCheck, Scheme, SignOutcome
from hsm_signer.workstation.enrolment import (
    Enrolment,
    EnrolmentResult,
    enrol,
)
from tests.support import needs
from tests.support.scenes import flip

KEYS = (KeySpec.P256, KeySpec.P384, KeySpec.P521, KeySpec.RSA2048, KeySpec.RSA3072)
# Generating RSA-4096 takes seconds: once for signing, once because P and KOWF are of the key's length, too.
LONGEST = [(Scheme.ROLLING, KeySpec.RSA4096), (Scheme.PIN, KeySpec.RSA4096)]
MATRIX = [(scheme, key) for scheme in Scheme for key in KEYS] + LONGEST
DOCUMENTS = (b"the quick brown fox", b"", bytes(range(256)) * 100)


@dataclass(frozen=True)
class OpenSsl:
    """The command line, with files in a folder of its own."""

    program: str
    folder: Path

    def __call__(self, *arguments: str | Path) -> str:
        """stdout; fails if the command does."""
        ran = self.run(*arguments)
        assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr)
        return ran.stdout

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Whatever it says."""
        return subprocess.run(
            [self.program, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
        )

    def file(self, name: str, data: bytes) -> Path:
        """A file for the command."""
        path = self.folder / name
        path.write_bytes(data)
        return path


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    """Or a skip, which is a failure in continuous integration."""
    folder = tmp_path / "openssl"
    folder.mkdir()
    return OpenSsl(needs.program("openssl", "openssl"), folder)


def _padding(algorithm: Algorithm) -> list[str]:
    if not algorithm.is_pss:
        return []
    assert algorithm.hash is not None
    return [
        "rsa_padding_mode:pss",
        f"rsa_pss_saltlen:{algorithm.hash.length}",
        f"rsa_mgf1_md:{algorithm.hash.value}",
    ]


def _options(flag: str, values: list[str]) -> Iterator[str]:
    for value in values:
        yield from (flag, value)


def check_document(openssl: OpenSsl, outcome: SignOutcome, document: bytes, signature: bytes) -> None:
    """`openssl dgst -verify` on the document itself, as anybody would."""
    algorithm = outcome.algorithm
    assert algorithm.hash is not None
    public = openssl.file("pk.pem", algorithms.spki_pem(outcome.spki).encode())
    said = openssl(
        "dgst",
        f"-{algorithm.hash.value}",
        "-verify",
        public,
        "-signature",
        openssl.file("signature", signature),
        *_options("-sigopt", _padding(algorithm)),
        openssl.file("document", document),
    )
    assert said == "Verified OK\n"


def check_digest(openssl: OpenSsl, outcome: SignOutcome, digest: bytes, signature: bytes) -> None:
    """`openssl pkeyutl -verify` on the digest."""
    algorithm = outcome.algorithm
    assert algorithm.hash is not None
    public = openssl.file("pk.pem", algorithms.spki_pem(outcome.spki).encode())
    digest_option = [] if algorithm.is_ecdsa else [f"digest:{algorithm.hash.value}"]
    said = openssl(
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-sigfile",
        openssl.file("signature", signature),
        "-in",
        openssl.file("digest", digest),
        *_options("-pkeyopt", digest_option + _padding(algorithm)),
    )
    assert "Signature Verified Successfully" in said


def enrolled(server: Server, folder: Path, scheme: Scheme, key: KeySpec) -> tuple[Person, EnrolmentResult]:
    """Somebody new, and the certificate request."""
    person = Person("carol", scheme, key, folder / "carol.card")
    create_card(person.address)
    basic = scheme is Scheme.BASIC
    wanted = Enrolment(
        owner="carol",
        scheme=scheme,
        key=key,
        pin=None if basic else CardPin(PIN, source="test"),
        puk=None if basic else CardPuk(PUK, source="test"),
        pin_check=PinCheck.CARD,
        subject="CN=Carol Öberg,O=Example\\, Inc.,C=DE",
        more_algorithms=key.algorithms,
    )
    return person, enrol(server, person.card, wanted)


@pytest.mark.parametrize(("scheme", "key"), MATRIX, ids=lambda each: each.name.lower())
def test_signatures(
    server: Server,
    openssl: OpenSsl,
    tmp_path: Path,
    scheme: Scheme,
    key: KeySpec,
    tell: Callable[[str], None],
) -> None:
    person, made = enrolled(server, tmp_path, scheme, key)
    checked = 0
    for number, algorithm in enumerate(key.algorithms):
        assert algorithm.hash is not None
        verify = algorithms.verifier(made.credential.spki, algorithm)

        document = DOCUMENTS[number % len(DOCUMENTS)]
        outcome = person.sign(server, document, algorithm)
        (signature,) = outcome.signatures
        verify(hashlib.new(algorithm.hash.value, document).digest(), signature)
        check_document(openssl, outcome, document, signature)

        digests = tuple(Digest(hashlib.new(algorithm.hash.value, each).digest()) for each in DOCUMENTS[:2])
        listed = person.sign(server, DigestList(digests), algorithm)
        assert len(listed.signatures) == 2
        for digest, each in zip(digests, listed.signatures, strict=True):
            verify(digest, each)
        check_document(openssl, listed, DOCUMENTS[0], listed.signatures[0])
        check_digest(openssl, listed, digests[1], listed.signatures[1])
        checked += 3
    assert server.audit().good
    check_request(openssl, made, key)
    tell(f"openssl verified: scheme {scheme.value}, {key.value}: {checked} signatures, 1 request")


def check_request(openssl: OpenSsl, made: EnrolmentResult, key: KeySpec) -> None:
    """`openssl req -verify`: the request is signed with the key it names, for the subject asked for."""
    path = openssl.file("request.pem", made.certification_request.encode())
    ran = openssl.run("req", "-in", path, "-verify", "-noout", "-subject", "-nameopt", "RFC2253,-esc_msb")
    assert ran.returncode == 0, ran.stderr
    assert "verify OK" in ran.stdout + ran.stderr
    assert "CN=Carol Öberg,O=Example\\, Inc.,C=DE" in ran.stdout
    public = openssl("req", "-in", path, "-pubkey", "-noout")
    assert public == algorithms.spki_pem(made.credential.spki)
    assert algorithms.key_spec_of(made.credential.spki) is key


def test_openssl_and_cryptography_refuse_what_is_not_signed(
    server: Server, openssl: OpenSsl, tmp_path: Path
) -> None:
    """Or the tests above would pass with a verifier that says yes to everything."""
    person, made = enrolled(server, tmp_path, Scheme.ROLLING, KeySpec.P256)
    outcome = person.sign(server, DOCUMENTS[0])
    (signature,) = outcome.signatures
    for document, attempt in (
        (DOCUMENTS[0] + b"!", signature),
        (DOCUMENTS[0], flip(signature, len(signature) - 1)),
    ):
        with pytest.raises(AssertionError):
            check_document(openssl, outcome, document, attempt)
        with pytest.raises(SignatureInvalid):
            algorithms.verifier(outcome.spki, outcome.algorithm)(hashlib.sha256(document).digest(), attempt)
    lines = made.certification_request.splitlines()
    changed = lines[2][:-1] + ("A" if lines[2][-1] != "A" else "B")
    broken = openssl.file("broken.pem", "\n".join([*lines[:2], changed, *lines[3:], ""]).encode())
    ran = openssl.run("req", "-in", broken, "-verify", "-noout")
    assert ran.returncode != 0 or "verify OK" not in ran.stdout + ran.stderr
