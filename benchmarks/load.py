"""Sends ready-made requests over HTTPS, so many at once, takes the time of each, and does little else.

    python -m benchmarks.load HOST PORT CA CONNECTIONS < requests

Each request is one line of JSON, {"path", "body", "token"}; prints one line: seconds for all, and the
milliseconds of each, in no order. Any answer but 200 is an error. In a process of its own: what it costs is
not the service's.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time

import uvloop


def request_bytes(host: str, path: str, body: str, token: str) -> bytes:
    """One HTTP/1.1 request."""
    content = body.encode("utf-8")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("ascii") + content


async def one_connection(
    address: tuple[str, int], tls: ssl.SSLContext, requests: list[bytes], took: list[float]
) -> None:
    """Takes requests off the common list until there is none."""
    reader, writer = await asyncio.open_connection(*address, ssl=tls)
    while requests:
        data = requests.pop()
        start = time.perf_counter()
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        took.append((time.perf_counter() - start) * 1000)
        if not lines[0].startswith("http/1.1 200"):
            raise SystemExit(f"{lines[0]}: {body[:500]!r}")
    writer.close()


async def run(host: str, port: int, ca: str, connections: int, requests: list[bytes]) -> dict[str, object]:
    """All of them."""
    tls = ssl.create_default_context(cafile=ca)
    took: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(one_connection((host, port), tls, requests, took) for _ in range(connections)))
    return {"seconds": time.perf_counter() - start, "milliseconds": took}


def main() -> None:
    """See above."""
    host, port, ca, connections = sys.argv[1:]
    requests = [request_bytes(host, **json.loads(line)) for line in sys.stdin]
    measured = uvloop.run(run(host, int(port), ca, int(connections), requests))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
