"""The table of endpoints: a function's signature says what a request carries and what answers it.

The same table makes the routes and the documentation (openapi.py), so neither can say what the other does
not do.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar, get_type_hints

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Receive, Scope, Send

from hsm_signer.config.service import LimitSettings
from hsm_signer.core import json_codec
from hsm_signer.service.front.problems import MEDIA_TYPE, Problem, json_response

from .bodies import read_json, read_query
from .body_limits import BodyLimits

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])
Security = tuple[Mapping[str, list[str]], ...]
"""OpenAPI's security requirements, of which one is enough."""


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request that works, and its answer: structs, or what :mod:`json` writes."""

    parameters: Mapping[str, str | int] = field(default_factory=dict)
    """Of path and query, by name."""
    body: Any = None
    answer: Any = None
    other_answers: Mapping[int, Any] = field(default_factory=dict)
    """By status, as the endpoint has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    interface: Interface
    method: str
    path: str
    """As Starlette writes it: ``/v1/users/{owner:path}/credential``."""
    id: str
    """The operation id of OpenAPI."""
    tag: str
    function: Callable[..., Awaitable[Any]]
    """Takes the request, each parameter of the path, ``query`` and ``body``, those it has; gives a struct,
    None or a Response."""
    parameters: Mapping[str, Any]
    """Types of the path's parameters by name."""
    query: type[Struct] | None
    body: type[Struct] | None
    answer: Any
    """The struct; NoneType where there is no content; Response where there is a ``media_type``."""
    read_body: Callable[[Request, type[Struct]], Awaitable[Struct]]
    security: Security
    check: Callable[[Request], None] | None
    status: int = 200
    """Of success."""
    refusals: tuple[int, ...] = ()
    """Other statuses, besides those of the interface."""
    other_answers: Mapping[int, type[Struct]] = field(default_factory=dict)
    """Answers that are no problem documents, by status."""
    media_type: str | None = None
    """Of an answer that is no JSON but text."""
    part: type[Struct] | None = None
    """The part ``authorisation`` of a body that is multipart: it, then the part ``message``."""
    size: Callable[[LimitSettings], int] = attrgetter("body")
    """Bytes that the body may have."""
    documented: bool = True

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it."""
        return compile_path(self.path)[1]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return inspect.cleandoc(self.function.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """The docstring's other lines."""
        return inspect.cleandoc(self.function.__doc__ or "").partition("\n")[2].strip()

    @property
    def example(self) -> Example:
        """Of its interface's."""
        return self.interface.examples[self.id]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request, call the function, send its answer; raises what refuses it."""
        response = await self._response(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        if self.check is not None:
            self.check(request)
        arguments = {
            name: json_codec.read(kind, request.path_params[name], name)
            for name, kind in self.parameters.items()
        }
        if self.query is not None:
            query = read_query(request, self.query)
            if self.query is not NoQuery:
                arguments["query"] = query
        if self.body is not None:
            arguments["body"] = await self.read_body(request, self.body)
        answer = await self.function(request, **arguments)
        if isinstance(answer, Response):
            return answer
        return Response(status_code=self.status) if answer is None else json_response(answer, self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Endpoints that read, refuse and are documented in one way."""

    prefix: str = ""
    """Of their paths."""
    name: str = ""
    """Of their operation ids, where another interface has functions of the same names."""
    tag: str = ""
    read_body: Callable[[Request, type[Struct]], Awaitable[Struct]] = read_json
    query: type[Struct] | None = NoQuery
    """Of endpoints without parameters; None: the query is not looked at."""
    check: Callable[[Request], None] | None = None
    """Refuses a request by its head, before anything else."""
    security: Security = ()
    refusals: tuple[int, ...]
    """What each of them may answer besides its success."""
    problem: type[Struct] = Problem
    """What a refusal looks like, and its media type."""
    problem_media_type: str = MEDIA_TYPE
    examples: Mapping[str, Example] = field(default_factory=dict)
    """By operation id."""
    endpoints: list[Endpoint] = field(default_factory=list)

    def endpoint(self, method: str, path: str, **details: Any) -> Callable[[Function], Function]:
        """Put the decorated function into the table; ``details``: fields of Endpoint."""

        def add(function: Function) -> Function:
            types = get_type_hints(function, include_extras=True)
            words = f"{self.name}_{function.__name__}".strip("_").split("_")
            found = {
                "interface": self,
                "method": method,
                "path": self.prefix + path,
                "id": words[0] + "".join(word.capitalize() for word in words[1:]),
                "tag": self.tag,
                "function": function,
                "query": types.pop("query", self.query),
                "body": types.pop("body", None),
                "answer": types.pop("return"),
                "read_body": self.read_body,
                "security": self.security,
                "check": self.check,
                "parameters": {name: kind for name, kind in types.items() if name != "request"},
            }
            self.endpoints.append(Endpoint(**{**found, **details}))
            return function

        return add


class Resource:
    """All methods of one path, as an ASGI application."""

    def __init__(self, endpoints: Mapping[str, Endpoint], limits: LimitSettings) -> None:
        self._allowed = sorted(endpoints)
        self._serve = {
            method: BodyLimits(endpoint, endpoint.size(limits), limits.body_timeout)
            for method, endpoint in endpoints.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises HTTPException 405 for a method that the path does not have."""
        serve = self._serve.get(scope["method"])
        if serve is None:
            raise HTTPException(405, headers={"Allow": ", ".join(self._allowed)})
        await serve(scope, receive, send)


def routes_of(interfaces: Iterable[Interface], limits: LimitSettings) -> list[Route]:
    """A route for each path; HEAD is answered as GET is, without the content (RFC 9110, 9.3.2)."""
    resources: dict[str, dict[str, Endpoint]] = {}
    for interface in interfaces:
        for endpoint in interface.endpoints:
            methods = resources.setdefault(endpoint.path, {})
            methods[endpoint.method] = endpoint
            if endpoint.method == "GET":
                methods["HEAD"] = endpoint
    return [Route(path, Resource(methods, limits)) for path, methods in resources.items()]
