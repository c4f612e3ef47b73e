"""Whoever ends TLS between workstation and service: reads all of it, changes what it likes, passes it on."""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from card_applet_sim.keys import CardKey, personalisation_key, unwrap, wrap
from hsm_signer.types import Combine, PinCheck, PinPolicy, Scheme

from .service import Service
from .tls import make_certificate

Change = Callable[[dict[str, Any]], None]
"""Changes a body in place."""
Proves = Callable[[dict[str, Any], bytes], None]
"""Puts another proof into the answer to an enrolment; told the card's point."""
BEGIN = "POST /v1/enrolments"


class Middle:
    """A TLS server of its own that passes every request on to a service."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.certificate, key = make_certificate(folder)
        self.requests: list[str] = []
        """``POST /v1/enrolments``, in the order in which they came."""
        self.changes_request: dict[str, Change] = {}
        """Method and end of the path -> what is done to the body."""
        self.changes_answer: dict[str, Change] = {}
        trusted = ssl.create_default_context(cafile=str(service.ca))
        self._onwards = httpx.Client(base_url=service.url, verify=trusted, timeout=60, trust_env=False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._listener.socket = context.wrap_socket(self._listener.socket, server_side=True)
        self._thread = threading.Thread(target=self._listener.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What the workstation takes for the service."""
        return f"https://127.0.0.1:{self._listener.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        self._onwards.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        middle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _pass_on(self) -> None:
                body = b"".join(self._chunks())
                name = f"{self.command} {self.path}"
                middle.requests.append(name)
                kept = ("authorization", "content-type", "accept")
                answer = middle._onwards.request(
                    self.command,
                    self.path,
                    content=_changed(middle.changes_request, name, body),
                    headers={k: v for k, v in self.headers.items() if k.lower() in kept},
                )
                content = answer.content
                if answer.is_success:
                    content = _changed(middle.changes_answer, name, content)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                if answer.status_code != httpx.codes.NO_CONTENT:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _chunks(self) -> Iterator[bytes]:
                if self.headers.get("Transfer-Encoding", "") != "chunked":
                    yield self.rfile.read(int(self.headers.get("Content-Length", "0")))
                    return
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815 - names of http.server

        return Handler


def _changed(changes: dict[str, Change], name: str, body: bytes) -> bytes:
    for end, change in changes.items():
        method, path = end.split()
        if name.startswith(method) and name.endswith(path):
            read = json.loads(body)
            change(read)
            return json.dumps(read).encode()
    return body


class KeyThief:
    """Puts its own points into an enrolment, in both directions, and so learns the card's keys."""

    def __init__(self, middle: Middle) -> None:
        self.stolen: dict[str, bytes] = {}
        """KCAR and KEK1, KOWF or KEY, in clear."""
        self.proves: Proves = lambda *_: None
        """What becomes of the proof."""
        self._to_token = CardKey.draw(os.urandom)
        self._to_card = CardKey.draw(os.urandom)
        self._card_point = b""
        middle.changes_request[BEGIN] = self._request
        middle.changes_answer[BEGIN] = self._answer

    def _request(self, body: dict[str, Any]) -> None:
        self._card_point = base64.b64decode(body["card_point"])
        body["card_point"] = _base64(self._to_token.point)

    def _answer(self, body: dict[str, Any]) -> None:
        card = body["personalisation"]
        parameters = bytes.fromhex(card["credential_id"]) + bytes(
            (
                Scheme.named(card["scheme"]).number,
                Combine.named(card["combine"]).number,
                PinPolicy.named(card["pin_policy"]).number,
                PinCheck.named(card["pin_check"]).number,
                card["pin_tries"],
                card["puk_tries"],
            )
        )
        token_point = base64.b64decode(card["token_point"])
        points = self._to_token.point + token_point
        own_points = self._card_point + self._to_card.point
        for r, name in ((1, "wrapped_kcar"), (2, "wrapped_kek")):
            key = personalisation_key(self._to_token.agree(token_point), r, parameters, points)
            self.stolen[name] = unwrap(key, base64.b64decode(card[name]))
            key = personalisation_key(self._to_card.agree(self._card_point), r, parameters, own_points)
            card[name] = _base64(wrap(key, self.stolen[name]))
        card["token_point"] = _base64(self._to_card.point)
        self.proves(body, self._card_point)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@contextmanager
def in_the_middle(service: Service, folder: Path) -> Iterator[Middle]:
    """A man in the middle until the ``with`` ends."""
    middle = Middle(service, folder)
    try:
        yield middle
    finally:
        middle.close()
