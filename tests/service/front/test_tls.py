"""The front's TLS: versions, its certificate, its clients' certificates. No worker is needed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509

from hsm_signer.config.service import TlsSettings
from hsm_signer.errors import ConfigError
from hsm_signer.service.front.http.tls import load_certificate, make_certificate_for_trying, make_context
from hsm_signer.testing import Home
from tests.support import needs
from tests.support.authority import Authority
from tests.support.front import Identity, api, make_identity, pem, problem, trusting
from tests.support.service import Service, serving


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("clients")


@pytest.fixture(scope="module")
def front(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("t")
    (folder / "clients.pem").write_text(pem(authority.certificate))
    settings = '[tls]\nclient_ca = "clients.pem"\n[limits]\nrequest_timeout = 0.3\nhandshake_timeout = 3.0\n'
    with serving(Home(folder, {}), part="front", settings=settings, ready=False) as service:
        service.wait_for("listening", part="front")
        yield service
    shutil.rmtree(folder)


def shake_hands(service: Service, context: ssl.SSLContext) -> ssl.SSLSocket:
    where = urlsplit(service.url)
    assert where.hostname is not None
    plain = socket.create_connection((where.hostname, where.port), timeout=30)
    try:
        return context.wrap_socket(plain, server_hostname=where.hostname)
    except BaseException:
        plain.close()
        raise


# --- versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_version_that_is_spoken(front: Service, version: ssl.TLSVersion) -> None:
    context = trusting(front)
    context.minimum_version = context.maximum_version = version
    with shake_hands(front, context) as connection:
        assert connection.version() == version.name.replace("_", ".")


def test_older_versions_are_refused(front: Service) -> None:
    """With a client that would: OpenSSL's own, told to forget its scruples."""
    where = urlsplit(front.url)
    openssl = needs.program("openssl", "openssl")
    for version, spoken in (("-tls1_1", False), ("-tls1_2", True)):
        ran = subprocess.run(
            [
                *(openssl, "s_client", "-connect", f"{where.hostname}:{where.port}", version),
                *("-cipher", "DEFAULT:@SECLEVEL=0", "-CAfile", str(front.ca)),
            ],
            input=b"",
            capture_output=True,
            timeout=60,
            check=False,
            # Distributions forbid old versions to their clients here.
            env={**os.environ, "OPENSSL_CONF": os.devnull},
        )
        assert (ran.returncode == 0) is spoken, ran.stderr
        # It did try: its own hello went out.
        written = re.search(rb"handshake has read (\d+) bytes and written (\d+) bytes", ran.stdout)
        assert written is not None, ran.stdout
        assert int(written[2]) > 0


def test_plain_http_gets_nothing(front: Service) -> None:
    where = urlsplit(front.url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port), timeout=30) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in plain.recv(1000)


# --- certificates of clients -------------------------------------------------------------------------------


def test_certificate_of_a_client(front: Service, authority: Authority, tmp_path: Path) -> None:
    """It goes to a worker, and there is none; without it, nobody has said who asks."""
    identity = make_identity(authority, tmp_path, "machine")
    with api(front, identity=identity) as client:
        problem(client.get("/v1/whoami"), 503, "worker.unavailable")
    with api(front) as client:
        problem(client.get("/v1/whoami"), 401, "client.not-authenticated")


def _pretender(tmp_path: Path) -> Identity:
    """Of an authority that has the right name and another key."""
    return make_identity(Authority("clients"), tmp_path, "pretender")


def _itself(tmp_path: Path) -> Identity:
    """A certificate that its own key has signed."""
    certificate, key = tmp_path / "self.pem", tmp_path / "self.key"
    openssl = needs.program("openssl", "openssl")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=machine", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return Identity(certificate, key, b"")


def _expired(tmp_path: Path, authority: Authority) -> Identity:
    found = make_identity(authority, tmp_path, "expired")
    request = tmp_path / "expired.csr"
    subprocess.run(
        [
            *(needs.program("openssl", "openssl"), "req", "-new", "-key", str(found.key_file)),
            *("-subj", "/CN=expired", "-out", str(request)),
        ],
        check=True,
        capture_output=True,
    )
    old = authority.issue(request.read_text(), begins=-timedelta(days=9), ends=-timedelta(days=1))
    found.certificate_file.write_text(pem(old))
    return found


@pytest.mark.parametrize("whose", ["pretender", "itself", "expired"])
def test_certificate_that_the_authority_did_not_issue(
    front: Service, authority: Authority, tmp_path: Path, whose: str
) -> None:
    identity = {
        "pretender": lambda: _pretender(tmp_path),
        "itself": lambda: _itself(tmp_path),
        "expired": lambda: _expired(tmp_path, authority),
    }[whose]()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(front, identity)
        context.maximum_version = version
        with httpx.Client(base_url=front.url, verify=context) as client, pytest.raises(httpx.TransportError):
            client.get("/healthz")


def test_certificate_is_nothing_where_none_is_asked_for(tmp_path: Path, authority: Authority) -> None:
    with serving(Home(tmp_path, {}), part="front", ready=False) as service:
        service.wait_for("listening", part="front")
        identity = make_identity(authority, tmp_path, "machine")
        with api(service, identity=identity) as client:
            problem(client.get("/v1/whoami"), 401, "client.not-authenticated")


# --- the front's own certificate ---------------------------------------------------------------------------


def test_certificate_is_reloaded(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(serving(Home(tmp_path, {}), part="front", ready=False))
        service.wait_for("listening", part="front")
        kept = stack.enter_context(api(service))
        assert kept.get("/healthz").status_code == 200
        first = presented(service)
        certificate, key = service.ca, service.ca.with_name("server.key")
        good = key.read_bytes()

        key.write_bytes(b"nothing of a key")
        service.kill(service.pid_of("front"), signal.SIGHUP)
        assert service.wait_for("certificate-unusable")["code"] == "config.invalid"
        assert presented(service) == first
        key.write_bytes(good)

        make_certificate_for_trying(TlsSettings(), tmp_path / "new", "127.0.0.1")
        for name in ("server.pem", "server.key"):
            (tmp_path / "new" / "tls" / name).replace(certificate.with_name(name))
        service.kill(service.pid, signal.SIGHUP)
        service.wait_for("certificate-reloaded")
        second = presented(service)
        assert second != first
        assert second == ssl.PEM_cert_to_DER_cert(certificate.read_text())
        assert kept.get("/healthz").status_code == 200, "connections made before go on"


def presented(service: Service) -> bytes:
    """The certificate that a new connection gets; trusted or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with shake_hands(service, context) as connection:
        found = connection.getpeercert(True)
    assert found is not None
    return found


def test_certificate_for_trying(tmp_path: Path) -> None:
    settings = TlsSettings(certificate="a/b.pem", key="c/d.key")
    assert make_certificate_for_trying(settings, tmp_path, "service.example")
    key = tmp_path / "c" / "d.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((tmp_path / "a" / "b.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "service.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert {str(each) for each in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    assert certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=398)
    assert list((tmp_path / "c").iterdir()) == [key], "nothing half-written stays"
    made = key.read_bytes()
    assert not make_certificate_for_trying(settings, tmp_path, "service.example")
    assert key.read_bytes() == made


@pytest.mark.parametrize("there", ["server.pem", "server.key"])
def test_one_of_the_two_files(tmp_path: Path, there: str) -> None:
    make_certificate_for_trying(TlsSettings(), tmp_path, "localhost")
    for name in {"server.pem", "server.key"} - {there}:
        (tmp_path / "tls" / name).unlink()
    with pytest.raises(ConfigError, match=r"tls\.(key|certificate): there is no file") as caught:
        make_certificate_for_trying(TlsSettings(), tmp_path, "localhost")
    assert caught.value.hint is not None


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    needs_key = tmp_path / "tls"
    make_certificate_for_trying(TlsSettings(), tmp_path, "localhost")
    make_certificate_for_trying(TlsSettings(), tmp_path / "other", "localhost")
    context = make_context(TlsSettings(), tmp_path)
    shutil.copy(tmp_path / "other" / "tls" / "server.key", needs_key / "server.key")
    with pytest.raises(ConfigError, match="key values mismatch"):
        load_certificate(context, TlsSettings(), tmp_path)
    encrypted = subprocess.run(
        [
            *(needs.program("openssl", "openssl"), "pkcs8", "-topk8", "-passout", "pass:x"),
            *("-in", str(needs_key / "server.key")),
        ],
        check=True,
        capture_output=True,
    ).stdout
    (needs_key / "server.key").write_bytes(encrypted)
    with pytest.raises(ConfigError, match="the key has a passphrase"):
        make_context(TlsSettings(), tmp_path)
    (needs_key / "server.pem").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        make_context(TlsSettings(), tmp_path)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authority_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    make_certificate_for_trying(TlsSettings(), tmp_path, "localhost")
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ConfigError, match=r"tls\.client_ca: .*ca\.pem: "):
        make_context(TlsSettings(client_ca="ca.pem"), tmp_path)


def test_handshake_that_is_never_finished(front: Service) -> None:
    """Nobody else waits for it, and it is given up."""
    where = urlsplit(front.url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port), timeout=60) as plain:
        began = time.monotonic()
        with api(front) as client:
            assert client.get("/healthz").status_code == 200
        with suppress(ConnectionError):
            assert plain.recv(1) == b""
        assert time.monotonic() - began < 50
