"""The endpoints of the server."""

from __future__ import annotations

import hmac
import json
import logging
from math import inf
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from emulator.connections import ASKED_AT
from emulator.errors import ApiError, internal
from emulator.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    parse,
)
from emulator.sending import Answering
from simulator import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from emulator.service import Service

LOG = logging.getLogger("servecast")

OPEN = frozenset({"/", "/health", "/ping", "/metrics", "/version", "/v1/models"})
"""Paths that need no key: probes, monitoring, and what clients ask before they have one."""

ANSWERED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose responses are counted."""

LARGE_BODIES = 16
"""So many of the largest size are held while they are read; beyond, more is refused."""


def make_app(service: Service) -> Starlette:
    """The server's application; ``service`` has what the endpoints need."""
    endpoints, errors = _Endpoints(service), _Errors(service)
    app = Starlette(
        routes=[
            Route("/", endpoints.about, methods=["GET"]),
            Route("/health", endpoints.health, methods=["GET"]),
            Route("/ping", endpoints.health, methods=["GET", "POST"]),
            Route("/metrics", endpoints.metrics, methods=["GET"]),
            Route("/version", endpoints.version, methods=["GET"]),
            Route("/v1/models", endpoints.models, methods=["GET"]),
            Route("/v1/models/{name:path}", endpoints.model, methods=["GET"]),
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completions, methods=["POST"]),
            Route("/tokenize", endpoints.tokenize, methods=["POST"]),
            Route("/detokenize", endpoints.detokenize, methods=["POST"]),
            Route("/reset_prefix_cache", endpoints.reset_prefix_cache, methods=["POST"]),
        ],
        middleware=[Middleware(_Door, service=service, errors=errors)],
        exception_handlers={
            ApiError: errors.refuse,
            HTTPException: errors.wrong_path,
            ClientDisconnect: errors.nobody,
            Exception: errors.unexpected,
        },
    )
    app.router.redirect_slashes = False  # what is not there is told in one shape
    return app


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._being_read = 0

    async def about(self, request: Request) -> Response:
        return _json(
            {
                "what": "servecast: a simulated deployment behind an OpenAI-compatible API",
                "version": __version__,
                "scenario": self._service.scenario_name,
                "models": [each.name for each in self._service.names],
            }
        )

    async def health(self, request: Request) -> Response:
        clock = self._service.clock
        if clock.failure is not None or self._service.leaving:
            raise ApiError(
                503, "The simulation has failed." if clock.failure else "The server is ending.",
                "not_healthy", kind="server_error",
            )  # fmt: skip
        return _json({"status": "ok" if clock.keeps_up else "late"})

    async def metrics(self, request: Request) -> Response:
        if not self._service.clock.over:
            self._service.clock.catch_up()  # time passes, and costs, where nothing happens as well
        text, kind = self._service.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    async def version(self, request: Request) -> Response:
        return _json({"version": __version__})

    async def models(self, request: Request) -> Response:
        cards = [self._service.card(each) for each in self._service.names]
        return _json({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        if not request.path_params["name"]:
            return await self.models(request)
        return _json(self._service.card(self._service.names.find(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        body = parse(ChatRequest, await self._body(request))
        head, reply = await self._service.chat(body, request.headers, _asked_at(request))
        return Answering(self._service, body, head, reply, request.headers)

    async def completions(self, request: Request) -> Response:
        body = parse(CompletionRequest, await self._body(request))
        head, reply = await self._service.complete(body, request.headers, _asked_at(request))
        return Answering(self._service, body, head, reply, request.headers)

    async def tokenize(self, request: Request) -> Response:
        body = parse(TokenizeRequest, await self._body(request))
        return _json(await self._service.texts.tokenize(body))

    async def detokenize(self, request: Request) -> Response:
        body = parse(DetokenizeRequest, await self._body(request))
        return _json(await self._service.texts.detokenize(body))

    async def reset_prefix_cache(self, request: Request) -> Response:
        self._service.reset_prefix_cache()
        return Response(status_code=200)

    async def _body(self, request: Request) -> bytes:
        """The body of a request, as long as it is not too large.

        Raises:
            ApiError: it is too large or is no JSON.
            ClientDisconnect: the client left before its end.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The body must be JSON, with the header Content-Type: application/json.",
                "unsupported_media_type",
            )  # fmt: skip
        most = self._service.options.max_body_bytes
        length = request.headers.get("content-length", "")
        parts, size = [], int(length) if length.isdigit() and len(length) < 19 else 0
        if size <= most:
            size = 0
            try:
                async for part in request.stream():
                    size += len(part)
                    self._being_read += len(part)
                    if size > most:
                        break
                    if self._being_read > most * LARGE_BODIES:
                        raise ApiError(
                            503, "Too many large bodies come at the same time; try again later.",
                            "too_many_bodies", kind="server_error", headers={"Retry-After": "1"},
                        )  # fmt: skip
                    parts.append(part)
            finally:
                self._being_read -= size
        if size > most:
            raise ApiError(
                413, f"The body is larger than {most:,} bytes (--max-body-mb).",
                "request_too_large",
            )  # fmt: skip
        return b"".join(parts)


def _asked_at(request: Request) -> float:
    """When the request was there, by ``time.monotonic``."""
    asked_at: float = request.scope.get(ASKED_AT, inf)
    return asked_at


def _json(document: object) -> Response:
    return Response(json.dumps(document).encode(), media_type="application/json")


class _Errors:
    """Turns what went wrong into what is told; of requests for answers it is counted."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def told(self, scope: Scope, error: ApiError) -> Response:
        if scope["path"] in ANSWERED:
            self._service.metrics.responded(error.status)
        return Response(
            error.told, error.status, media_type="application/json", headers=error.headers
        )

    async def refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return self.told(request.scope, error)

    async def wrong_path(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:200]
        wrong = ApiError(404, f"There is no {path} here.", "unknown_url")
        if error.status_code == 405:
            wrong = ApiError(
                405, f"{request.method} is not allowed on {path}.", "method_not_allowed",
                headers=dict(error.headers or {}),
            )  # fmt: skip
        return self.told(request.scope, wrong)

    async def nobody(self, request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # the client left before the end of its request

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """Starlette raises it again after the answer, and uvicorn logs it."""
        return self.told(request.scope, internal())


class _Door:
    """Who may come in: under a name of the server's, from no other page, and with the key."""

    def __init__(self, app: ASGIApp, service: Service, errors: _Errors) -> None:
        self._app = app
        self._errors = errors
        self._hosts = service.options.hosts
        key = service.options.api_key
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._refused(scope)
        if error is not None:
            await self._errors.told(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> ApiError | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        hosts, origins = headers.get(b"host", []), headers.get(b"origin", [])
        if len(hosts) > 1 or len(origins) > 1:
            return ApiError(400, "There is more than one Host or Origin.", "invalid_header")
        host = hosts[0].decode("latin-1").lower() if hosts else ""
        if self._hosts is not None and hosts and _without_port(host) not in self._hosts:
            return ApiError(403, "This server has no such name.", "wrong_host")
        if origins and origins[0].decode("latin-1").lower() not in (
            f"http://{host}", f"https://{host}"
        ):  # fmt: skip
            return ApiError(403, "Pages of other hosts may not ask here.", "wrong_origin")
        if self._key is None or scope["path"] in OPEN:
            return None
        given = headers.get(b"authorization", [b""])[0]
        kind, _, key = given.partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            return None
        return ApiError(
            401, "The API key is missing or wrong: Authorization: Bearer KEY is wanted.",
            "invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
