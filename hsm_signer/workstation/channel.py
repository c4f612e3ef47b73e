"""HTTPS to a signing service: answers are bounded in size and time, failures raised as SignerError.

The only module that knows of an HTTP library. Whom we speak to is said in one place: no proxies and nothing
else from the environment, no redirects.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
import msgspec

from hsm_signer.core import json_codec, tls
from hsm_signer.core.interface import PendingApproval
from hsm_signer.errors import (
    ApprovalAwaited,
    CardError,
    InputError,
    NotAuthenticated,
    ServiceAnswerMalformed,
    ServiceError,
    ServiceTimeout,
    ServiceUnreachable,
    SignerError,
    all_errors,
    os_words,
)

TIMEOUT = 60.0
"""Seconds."""
MAX_ANSWER = 4 << 20
"""Bytes."""
MAX_WORDS = 1000
"""Characters of an error's text that are shown."""
MAX_TOKEN = 4096
HOST_MISMATCH = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""

_CODES = {kind.code: kind for kind in all_errors() if kind.code != SignerError.code}
_log = logging.getLogger(__name__)
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class Channel:
    """Connections to one service, kept until :meth:`close`; for one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Set up TLS, without connecting; ``timeout``: seconds for each answer. Raises InputError."""
        self._url = _checked_url(url)
        self._timeout = timeout
        self._nameless = token is None and certificate is None
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "hsm-signer"}
        if token is not None:
            headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self._client = httpx.Client(
            verify=_tls(ca, certificate, key),
            headers=headers,
            timeout=timeout,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def expect(self, fact: bool, otherwise: str) -> None:
        """Raise ServiceAnswerMalformed unless ``fact`` is true."""
        if not fact:
            raise ServiceAnswerMalformed(f"{self._url}: the service answered with {otherwise}")

    def read(self, kind: type[T], method: str, path: str, **how: Any) -> T:
        """Send a request and decode its JSON answer as ``kind``; ``how`` as for :meth:`send`."""
        return self._decoded(kind, self.send(method, path, **how))

    def _decoded(self, kind: type[T], body: bytes) -> T:
        try:
            return json_codec.decode(kind, body, what="answer")
        except InputError as error:
            raise ServiceAnswerMalformed(
                f"{self._url}: not the answer of a signing service: {error.message}",
                hint="is this the service's address, and is it of this program's version?",
            ) from None

    def send(
        self,
        method: str,
        path: str,
        *,
        body: msgspec.Struct | None = None,
        files: Mapping[str, tuple[str | None, Any, str]] | None = None,
        query: dict[str, str] | None = None,
        limit: int = MAX_ANSWER,
        again: bool = True,
    ) -> bytes:
        """Send a request and return the body of a 2xx answer; raises an error for any other.

        ``files``: the parts of multipart/form-data (RFC 7578): file name, bytes or a file object that can be
        read from its beginning again, content type.
        ``again``: a connection that breaks is tried once more, for a server closes idle ones when it likes.
        """
        for last in (False, True) if again else (True,):
            content = None if body is None else json_codec.encode(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            try:
                with self._client.stream(
                    method, self._url + path, params=query, content=content, files=files, headers=headers
                ) as answer:
                    _log.debug("%s %s%s: %d", method, self._url, path, answer.status_code)
                    return self._answered(answer, self._bounded(answer, limit))
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if last or _reason(error, ssl.SSLError) is not None:
                    self._unreachable(error)
                _log.info("the connection to %s broke, sending again: %s", self._url, type(error).__name__)
            except httpx.TransportError as error:
                self._unreachable(error)
        raise AssertionError("unreachable")

    def _bounded(self, answer: httpx.Response, limit: int) -> bytes:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ServiceAnswerMalformed(f"{self._url}: expected an answer without a content encoding")
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > limit:
                raise ServiceAnswerMalformed(f"{self._url}: expected an answer of at most {limit} bytes")
            if time.monotonic() > deadline:
                self._too_slow()
        return bytes(body)

    def _answered(self, answer: httpx.Response, body: bytes) -> bytes:
        status = answer.status_code
        if status == ApprovalAwaited.http_status:
            self._awaited(self._decoded(PendingApproval, body))
        if 200 <= status <= 299:
            return body
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        problem: Any = None
        if kind == "application/problem+json":
            try:
                problem = json_codec.parse(body, "problem")
            except InputError:
                problem = None
        if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
            raise ServiceAnswerMalformed(
                f"{self._url}: answered with status {status}, and not as the signing service does",
                hint="is this the service's address?",
            )
        error = self._error(problem)
        error.retry_after = _seconds(answer.headers.get("Retry-After", ""))
        raise error

    def _awaited(self, pending: PendingApproval) -> NoReturn:
        """Raise ApprovalAwaited: whoever asked takes no answer for the act itself."""
        raise ApprovalAwaited(
            f"{pending.act.value} was asked for and is not done: a second client has to ask for it, too",
            hint=f"until {json_codec.time_to_json(pending.until)}, with the same command as another client",
        )

    def _error(self, problem: dict[str, Any]) -> SignerError:
        """Make the error that a problem document (RFC 9457) describes, of the class that has its code."""
        code = problem["code"]
        words = _words(problem.get("detail")) or _words(problem.get("title")) or "the service refused"
        kind = _CODES.get(code, ServiceError)
        # A service has no card; and those errors hold more than words.
        if issubclass(kind, CardError):
            kind = ServiceError
        if kind is ServiceError and code != ServiceError.code:
            words = f"{words} ({code[:100]!a})"
        error = kind(words, hint=_words(problem.get("hint")))
        if isinstance(error, NotAuthenticated) and self._nameless:
            # The service's own words are about HTTP.
            error.hint = "HSM_SIGNER_SERVER_TOKEN, or token_file in [server] of config.toml, holds the token"
        return error

    def _unreachable(self, error: httpx.TransportError) -> NoReturn:
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            self._too_slow()
        hint = None
        if (untrusted := _reason(error, ssl.SSLCertVerificationError)) is not None:
            words = f"its certificate is not trusted: {untrusted.verify_message}"
            hint = "--ca FILE, or ca in [server] of config.toml, names the certificate or authority to trust"
            if untrusted.verify_code in HOST_MISMATCH:
                hint = "give the service's URL with a host that its certificate names"
        elif (failed := _reason(error, ssl.SSLError)) is not None:
            words = f"TLS: {tls.words(failed)}"
            if "CERTIFICATE" in (failed.reason or ""):
                hint = "the service may want a client certificate: --client-certificate FILE"
        elif isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            words = f"no connection within {self._timeout:g} seconds"
        elif isinstance(error, httpx.ConnectError):
            cause = _reason(error, OSError)
            words = os_words(error if cause is None else cause) or "no connection"
            words = words[0].lower() + words[1:]
        else:
            words = "the connection broke off"
            hint = "the same command again finds out whether the request was carried out"
        raise ServiceUnreachable(f"{self._url}: {words}", hint=hint) from error

    def _too_slow(self) -> NoReturn:
        raise ServiceTimeout(
            f"{self._url}: no answer within {self._timeout:g} seconds",
            hint="the same command again finds out whether the request was carried out",
        )


def _checked_url(url: str) -> str:
    """Check a service's URL and drop a slash at its end. Raises InputError."""
    expected = "expected https://HOST[:PORT]"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise InputError(f"server: {expected}") from None
    if parsed.scheme == "http":
        raise InputError(f"server: {expected}; without TLS nothing is sent")
    if parsed.scheme != "https" or not parsed.host:
        raise InputError(f"server: {expected}")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InputError(f"server: {expected}, without user, query or fragment")
    return str(parsed).rstrip("/")


def _checked_token(token: str) -> str:
    if not token or len(token) > MAX_TOKEN or not all("!" <= character <= "~" for character in token):
        raise InputError(f"bearer token: expected 1 to {MAX_TOKEN} printable ASCII characters without spaces")
    return token


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Make the TLS context: 1.2 or newer, certificate and host name checked. Raises InputError."""
    if key is not None and certificate is None:
        raise InputError("client key: there is no client certificate with it")
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise InputError(f"{ca}: expected a PEM file with certificates: {tls.words(error)}") from None
    if certificate is not None:
        try:
            tls.load_certificate(context, certificate, key)
        except OSError as error:
            files = certificate if key is None else f"{certificate}, {key}"
            raise InputError(
                f"{files}: expected PEM files with a client certificate and its key, without a passphrase: "
                f"{tls.words(error)}"
            ) from None
    return context


def _reason(error: BaseException, kind: type[E]) -> E | None:
    """Find the first error of this kind in the chain of causes of ``error``; None without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _seconds(text: str) -> float | None:
    """Parse Retry-After in seconds; None for a date (RFC 9110, 5.6.7), which this service never sends."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _words(text: Any) -> str | None:
    return text[:MAX_WORDS] if isinstance(text, str) and text else None
