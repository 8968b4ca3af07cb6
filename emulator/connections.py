"""Connections with bounds in size and time, which uvicorn's own do not have.

Nothing is timed connection by connection: a look at all of them, once a second, finds those whose
clients let the server wait.
"""

from __future__ import annotations

from asyncio import Transport
from math import inf
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from emulator.errors import error_body
from emulator.upgrades import PlainParser

MOST_HEAD_BYTES = 64 << 10
"""Of a request: address and headers."""

MOST_PIPELINED = 16
"""Requests that a client sends before their turn comes."""

CONNECTION = "servecast.connection"
"""Name of the ASGI extension by which an application may end its connection."""

ASKED_AT = "servecast.asked_at"
"""Key of the scope: when the request was there, by ``time.monotonic``."""

HARD_LIMIT = 1.25
"""Beyond so many times the allowed connections, new ones are dropped without a word."""


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        most: connections that may be open at once; more are told so.
        asking_since: since when a request is awaited that has begun, or has never begun.
        stuck_since: since when the client takes nothing.
        closing_since: since when it ought to be gone.
    """

    most = 4096

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.parser = PlainParser(self)  # type: ignore[assignment]
        self.asking_since = self.stuck_since = self.closing_since = inf
        self._head = 0
        self._why = 400, "The request is not valid HTTP.", "invalid_http"

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self.asking_since = monotonic()
        if len(self.connections) > self.most * HARD_LIMIT:
            transport.abort()
        elif len(self.connections) > self.most:
            self.app = _too_many

    # --- the request -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        super().data_received(data)
        # Empty lines before a request end the wait of an idle connection and begin nothing.
        cycle: RequestResponseCycle | None = self.cycle
        if self.asking_since == inf and (cycle is None or cycle.response_complete):
            self.asking_since = monotonic()

    def on_message_begin(self) -> None:
        """See ``httptools``."""
        super().on_message_begin()
        self.asking_since = monotonic()
        self._head = 0
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """See ``httptools``."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See ``httptools``."""
        self._count(len(name) + len(value) + 32)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_HEAD_BYTES:
            self._why = 431, "Address and headers are too long.", "headers_too_large"
            raise ValueError("the head is too long")

    def on_headers_complete(self) -> None:
        """See ``httptools``."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            self._why = 429, "Too many requests at once on one connection.", "too_many_requests"
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See ``httptools``."""
        if self.parser.should_upgrade():
            return
        self.scope[ASKED_AT] = monotonic()  # type: ignore[literal-required]
        super().on_message_complete()
        self.asking_since = inf

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is told in the same shape as all that is wrong."""
        status, message, code = self._why
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            self.transport.write(raw_error(status, message, code))
        self.close()

    # --- the end ---------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().pause_writing()
        self.stuck_since = monotonic()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().resume_writing()
        self.stuck_since = inf

    def close(self) -> None:
        """Closes it once all is written."""
        self.transport.close()

    def abort(self) -> None:
        """Ends it now; whoever serves it hears that the client is gone."""
        self.transport.abort()

    def look(self, now: float, patience_s: float) -> None:
        """Ends it if its client has let the server wait for longer than that."""
        if not self.transport.is_closing():
            if now - min(self.asking_since, self.stuck_since) > patience_s:
                self.abort()
        elif self.closing_since == inf:
            self.closing_since = now
        elif now - self.closing_since > patience_s:
            self.abort()


def raw_error(status: int, message: str, code: str) -> bytes:
    """A whole answer that says so and ends the connection."""
    body = error_body(message, "invalid_request_error", None, code)
    return (
        b"HTTP/1.1 %d Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b" % (status, len(body), body)
    )


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    message = "There are too many connections (--max-connections); try again later."
    body = error_body(message, "server_error", None, "too_many_connections")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
