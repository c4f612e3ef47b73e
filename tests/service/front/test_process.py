"""The front as a process: what it loads, what it refuses to start with, how it stops, what it logs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hsm_signer.errors import ConfigError
from hsm_signer.service import logs
from hsm_signer.service.front.listener import parse_bind

FORBIDDEN = (
    "pkcs11",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "hsm_signer.token",
    "hsm_signer.store",
    "hsm_signer.server",
    "hsm_signer.config.installation",
    "hsm_signer.cli",
)

LOG = logs.Log("hsm_signer.service.test")


def test_front_has_no_way_to_token_or_store() -> None:
    code = (
        "import sys, json; import hsm_signer.service.front.listener, hsm_signer.service.front.app;"
        "import hsm_signer.service.front.__main__;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = json.loads(ran.stdout)
    assert "hsm_signer.service.front.pool" in loaded
    assert [each for each in loaded if each.startswith(FORBIDDEN)] == []


@contextmanager
def front(
    settings: Path, *arguments: str, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hsm_signer.service.front", "--settings", str(settings), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def next_event(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(seen)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "end of input"])
def test_stops(tmp_path: Path, how: object) -> None:
    """With status 0, and without a settings file."""
    arguments = ("--bind", "127.0.0.1:0", "--sockets", str(tmp_path))
    with front(tmp_path / "service.toml", *arguments, stdin=subprocess.PIPE) as process:
        url = next_event(process, "listening")["url"]
        assert url.startswith("https://127.0.0.1:")
        assert process.stdin is not None
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            process.stdin.close()
        next_event(process, "stopped")
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_request_in_flight_gets_its_answer(tmp_path: Path) -> None:
    """No worker is there, so that it waits; the end waits with it, and takes nobody new."""
    settings = tmp_path / "service.toml"
    settings.write_text('bind = "127.0.0.1:0"\n[limits]\nrequest_timeout = 3\n')
    with front(settings) as process:
        where = urlsplit(next_event(process, "listening")["url"])
        address = (where.hostname, where.port)
        with connected(address) as waiting, connected(address) as looking:
            waiting.sendall(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n")
            while True:
                looking.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                if b"hsm_signer_queue 1.0" in looking.recv(1 << 20):
                    break
            process.send_signal(signal.SIGTERM)
            next_event(process, "stopping")
            answer = b"".join(iter(lambda: waiting.recv(65536), b""))
            assert b" 503 " in answer
            assert b"worker.unavailable" in answer
            assert b"connection: close" in answer
        assert process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address)


def connected(address: tuple[str | None, int | None]) -> ssl.SSLSocket:
    """Whoever answers there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(address, timeout=30))


def test_input_that_is_no_pipe_ends_nothing(tmp_path: Path) -> None:
    with front(tmp_path / "service.toml", "--bind", "127.0.0.1:0") as process:
        next_event(process, "listening")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)


def refused(settings: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "hsm_signer.service.front", "--settings", str(settings), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    lines = [line for line in ran.stderr.splitlines() if not line.startswith(("{", "hint: "))]
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("error: ")
    assert lines[0].endswith("]")
    return lines[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unknown = 1", "unknown key 'unknown'"),
        ("bind = 'nonsense'", "bind: expected HOST:PORT"),
        ("[tls]\nclient_ca = 'none.pem'", "tls.client_ca: "),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    settings = tmp_path / "service.toml"
    settings.write_text(text)
    line = refused(settings)
    assert words in line
    assert line.endswith("[config.invalid]")


def test_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(tmp_path / "service.toml", "--bind", f"127.0.0.1:{port}")
    assert f"bind: 127.0.0.1 port {port}: address already in use" in line


def test_certificate_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    assert "tls.certificate, tls.key: cannot be made in" in refused(tmp_path / "service.toml")


@pytest.mark.parametrize(
    ("bind", "found"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:8443", ("::1", 8443)),
        ("[::]:1", ("::", 1)),
    ],
)
def test_bind(bind: str, found: tuple[str, int]) -> None:
    assert parse_bind(bind) == found


@pytest.mark.parametrize(
    "bind", ["", ":", ":1", "x", "x:", "x:y", "x:-1", "x:65536", "::1:8443", "[]:1", "x: 1"]
)
def test_bind_that_is_none(bind: str) -> None:
    with pytest.raises(ConfigError, match="bind: expected HOST:PORT"):
        parse_bind(bind)


# --- the log -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("hsm_signer.service")
    before = root.handlers, root.level, own.level
    yield
    root.handlers, root.level = before[:2]
    own.setLevel(before[2])


@pytest.fixture
def logged() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(stream, part="test", slot=3)
    return stream


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_of_the_log(logged: io.StringIO) -> None:
    LOG.warning("something", number=7, share=0.5, yes=True, none=None, path=Path("/x"))
    (line,) = lines_of(logged)
    time = line.pop("time")
    assert len(time) == len("2026-01-01T00:00:00.000000Z")
    assert time.endswith("Z")
    assert line == {
        "level": "warning",
        "event": "something",
        "part": "test",
        "slot": 3,
        "number": 7,
        "share": 0.5,
        "yes": True,
        "path": "/x",
    }


def test_no_value_breaks_a_line(logged: io.StringIO) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    LOG.info(
        "a\nb",
        text="x" * 1000,
        lines="1\n2\r\u2028",
        lone="\ud800",
        huge=1 << 80,
        nan=float("nan"),
        bad=Broken(),
    )
    assert logged.getvalue().count("\n") == 1
    (line,) = lines_of(logged)
    assert line["event"] == "a\nb"
    assert line["text"] == "x" * logs.MAX_VALUE
    assert line["lines"] == "1\n2\r\u2028"
    assert line["lone"] == "\ud800"
    assert (line["huge"], line["nan"], line["bad"]) == (str(1 << 80), "nan", "<Broken>")


def test_log_never_raises() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, os.strerror(28))

    for stream in (Full(), io.StringIO()):
        logs.configure(stream)
        stream.close()
        LOG.info("lost")
    logging.getLogger().handlers = []
    LOG.info("nowhere")


def test_what_libraries_say_is_a_line_of_the_log(logged: io.StringIO) -> None:
    """Warnings and worse; of an exception its kind alone, for its words and places may quote anything."""
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.info("not shown")
    logging.getLogger("hsm_signer.token.session").info("not shown either")
    try:
        raise ValueError("secret")
    except ValueError:
        uvicorn.exception("went %s\n", "wrong")
    (line,) = lines_of(logged)
    del line["time"]
    assert line == {
        "level": "error",
        "event": "library",
        "part": "test",
        "slot": 3,
        "source": "uvicorn.error",
        "text": "went wrong\n",
        "error": "ValueError",
    }


def test_line_at_a_terminal() -> None:
    """Words, one line a record, and nothing that moves a terminal's cursor or looks like another field."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.configure(stream, part="test")
    LOG.warning("lost", slot=3, none=None, words="two words", forged="x\n level=info\x1b[2J\u202e", empty="")
    time, rest = stream.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert rest == (
        'warning lost part=test slot=3 words="two words" forged="x\\n level=info\\u001b[2J\\u202e" empty=""\n'
    )
