"""/openapi.json, and /docs: the same document as a page, made here. No script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
STYLE = """\
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; }
td { border: 1px solid #ccc; padding: .2em .6em; vertical-align: top; overflow-wrap: anywhere; }
pre { background: #f4f4f4; padding: .6em; overflow-x: auto; }
"""


def routes_of(document: dict[str, Any]) -> list[Route]:
    """The document and its page."""

    def route(path: str, content: bytes, media_type: str) -> Route:
        async def answer(_: Request) -> Response:
            return Response(content, headers=HEADERS, media_type=media_type)

        return Route(path, answer)

    return [
        route("/openapi.json", msgspec.json.encode(document), "application/json"),
        route("/docs", "\n".join(_page(document)).encode(), "text/html"),
        route("/docs/style.css", STYLE.encode(), "text/css"),
    ]


def _page(document: dict[str, Any]) -> Iterator[str]:
    """Line by line."""
    info = document["info"]
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f"<title>{escape(info['title'])}: interface</title>"
    yield '<link rel="stylesheet" href="/docs/style.css">\n</head>\n<body>'
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>\n<p>{escape(info['description'])}</p>"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>\n<p>{escape(tag['description'])}</p>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(f"{method.upper()} {path}", operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3>\n<p>{_words(schema)}</p>'
        if "enum" in schema:
            yield f"<p>{_type(schema)}</p>"
        required = schema.get("required", ())
        yield _table(
            (_code(field), "" if field in required else "optional", _type(inner), _words(inner))
            for field, inner in schema.get("properties", {}).items()
        )


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(operation["operationId"])}">{escape(operation["operationId"])}</h3>'
    yield f"<p>{_code(title)}</p>\n<p>{escape(operation['summary'])}.</p>\n<p>{_words(operation)}</p>"
    yield _table(
        (
            _code(parameter["name"]),
            parameter["in"],
            _type(parameter["schema"]),
            _words(parameter),
            _code(parameter.get("example", "")),
        )
        for parameter in operation["parameters"]
    )
    if "requestBody" in operation:
        yield "<p>Body:</p>"
        yield from _content(operation["requestBody"])
    for status, response in operation["responses"].items():
        if status[0] == "2":
            yield f"<p>{status} {escape(response['description'])}</p>"
            yield from _content(response)
    refusals = [status for status in operation["responses"] if status[0] != "2"]
    yield f"<p>Or: {', '.join(refusals)}.</p>"


def _content(holder: dict[str, Any]) -> Iterator[str]:
    for media_type, content in holder.get("content", {}).items():
        yield f"<p>{_code(media_type)}: {_type(content['schema'])}</p>"
        example = content.get("example", "")
        text = example if isinstance(example, str) else json.dumps(example, indent=2)
        yield f"<pre>{escape(text)}</pre>"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return "\n".join(["<table>", *lines, "</table>"]) if lines else ""


def _code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>" if text != "" else ""


def _words(schema: dict[str, Any]) -> str:
    return escape(schema.get("description", ""))


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    match schema:
        case {"$ref": str(reference)}:
            name = escape(reference.rpartition("/")[2])
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": choices}:
            return " or ".join(map(_type, choices))
        case {"enum": values}:
            return " or ".join(map(_code, values))
        case {"type": "array", "items": item}:
            return f"list of {_type(item)}"
        case {"type": "object", "properties": properties}:
            return ", ".join(f"{_code(name)}: {_type(inner)}" for name, inner in properties.items())
    bounds = ("pattern", "format", "minimum", "maximum", "minLength", "maxLength", "default")
    said = [f"{name} {_code(schema[name])}" for name in bounds if name in schema]
    return ", ".join([escape(schema.get("type", "")), *said])
