"""Clients of the service's front: over HTTPS with httpx, and byte by byte for what httpx does not do."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hsm_signer.core import json_codec
from hsm_signer.core.interface import SignatureRequest
from hsm_signer.types import DigestList, SigningRequest

from .authority import Authority
from .service import WAIT, Service

PROBLEM = "application/problem+json"


def trusting(service: Service, identity: Identity | None = None) -> ssl.SSLContext:
    """A client's context that trusts the service, with a certificate of its own if there is one."""
    context = ssl.create_default_context(cafile=str(service.ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context


@contextmanager
def api(
    service: Service, token: str | None = None, identity: Identity | None = None
) -> Iterator[httpx.Client]:
    """The front's interface for one client."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    context = trusting(service, identity)
    with httpx.Client(base_url=service.url, verify=context, headers=headers, timeout=WAIT) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer's problem document, which has to be one and to say this."""
    assert answer.headers["content-type"] == PROBLEM, answer.text
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), found
    assert found["type"] == "about:blank"
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["detail"][0].islower()
    assert not found["detail"].endswith(".")
    return found


def signatures_path(request: SigningRequest, what: str = "signatures") -> str:
    """Where a request goes."""
    return f"/v1/credentials/{request.authorisation.credential_id.hex()}/{what}"


def body_of(request: SigningRequest) -> dict[str, Any]:
    """A list of digests and its authorisation, as JSON."""
    assert isinstance(request.content, DigestList)
    body = SignatureRequest(request.authorisation.answer, request.content.digests)
    found: dict[str, Any] = json_codec.to_json(body)
    return found


def send(client: httpx.Client, request: SigningRequest) -> httpx.Response:
    """The request, in whichever way its content goes."""
    if isinstance(request.content, DigestList):
        return client.post(signatures_path(request), json=body_of(request))
    message = b"".join(request.content.source.chunks())
    return client.post(
        signatures_path(request, "message-signatures"),
        data={"authorisation": json.dumps(json_codec.to_json(request.authorisation.answer))},
        files={"message": ("message", message)},
    )


@dataclass(frozen=True)
class Identity:
    """A client's certificate and key, in files."""

    certificate_file: Path
    key_file: Path
    certificate: bytes
    """DER."""


def make_identity(authority: Authority, folder: Path, name: str) -> Identity:
    """A new key with a certificate of this authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    certificate = authority.issue(request.public_bytes(Encoding.PEM).decode())
    found = Identity(folder / f"{name}.pem", folder / f"{name}.key", certificate)
    found.certificate_file.write_text(pem(certificate))
    found.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return found


def pem(certificate: bytes) -> str:
    """DER as PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate)


def connected(service: Service, source: str | None = None) -> socket.socket:
    """A connection on which nothing was said yet."""
    where = urlsplit(service.url)
    own = None if source is None else (source, 0)
    return socket.create_connection((where.hostname, where.port), timeout=WAIT, source_address=own)


class Wire:
    """One TLS connection, byte by byte."""

    def __init__(self, service: Service, source: str | None = None) -> None:
        """``source``: the address to come from, 127.x.y.z."""
        where = urlsplit(service.url)
        assert where.hostname is not None
        plain = connected(service, source)
        try:
            self.socket = trusting(service).wrap_socket(plain, server_hostname=where.hostname)
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """As they are."""
        self.socket.sendall(data)

    def until_closed(self) -> bytes:
        """Everything that comes until the other side closes the connection."""
        found = b""
        try:
            while data := self.socket.recv(65536):
                found += data
        except (ConnectionError, ssl.SSLError):
            pass
        return found

    def answer(self) -> tuple[int, bytes]:
        """Status and body of one answer that has a length."""
        found = b""
        while b"\r\n\r\n" not in found:
            data = self.socket.recv(65536)
            assert data, found
            found += data
        head, _, body = found.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length:" in line]
        while len(body) < int(lengths[0]):
            body += self.socket.recv(65536)
        return int(head.split()[1]), body
