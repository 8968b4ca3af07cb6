"""Sends answers: whole ones, or streams as their tokens come."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.responses import Response

from emulator.connections import CONNECTION
from emulator.errors import ApiError
from emulator.streams import DONE, Events, Head, last_event, whole

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from emulator.replies import Reply
    from emulator.schema import ChatRequest, CompletionRequest
    from emulator.service import Service


AT_ONCE = 256
"""Tokens of a reply that are written at once, at most: a client that lags has no more in memory."""


class Answering(Response):
    """The answer to a request for text; an ASGI application as all responses are.

    Its first byte leaves with the first token, so that a request that is refused or fails before
    has the status that says so.

    Args:
        service: counts how it ends.
        body: what was asked for.
        head: how the answer is written.
        reply: the answer under way.
        headers: of the request.
    """

    def __init__(
        self,
        service: Service,
        body: ChatRequest | CompletionRequest,
        head: Head,
        reply: Reply,
        headers: Headers,
    ) -> None:
        self._service = service
        self._body = body
        self._head = head
        self._reply = reply
        given = headers.get("x-request-id", "")
        self._request_id = given if given.isascii() and given.isprintable() else ""
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        reply = self._reply
        watch = asyncio.create_task(self._watch(receive))
        try:
            await (self._stream(send) if self._body.stream else self._whole(send))
            if reply.cut_off and not reply.gone:
                scope["extensions"][CONNECTION].close()
                while not reply.gone:
                    await reply.news()
        finally:
            watch.cancel()
            with suppress(RuntimeError):  # the simulation has failed, which was told
                reply.cancel()
            self._service.closed(reply)

    async def _watch(self, receive: Receive) -> None:
        """Waits for the client to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reply.leave()

    async def _start(self, send: Send, kind: bytes, length: int | None = None) -> None:
        headers = [(b"content-type", kind)]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        else:
            headers.append((b"cache-control", b"no-cache"))
        if self._request_id:
            headers.append((b"x-request-id", self._request_id.encode("latin-1")))
        self._service.metrics.responded(200)
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _whole(self, send: Send) -> None:
        reply = self._reply
        while not (reply.over or reply.gone or reply.cut_off or reply.error):
            await reply.news()
        if reply.gone or reply.cut_off:
            return
        if reply.error is not None:
            raise reply.error
        text = whole(self._head, reply)
        await self._start(send, b"application/json", len(text))
        await send({"type": "http.response.body", "body": text})

    async def _stream(self, send: Send) -> None:
        reply, body = self._reply, self._body
        streams = [Events(self._head, choice, body.usage_always) for choice in reply.choices]
        single = streams[0] if len(streams) == 1 else None
        message: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": True}
        started = behind = False
        most = max(1, AT_ONCE // len(streams))
        while True:
            if not behind:
                await reply.news()
            if reply.gone:
                return
            if single is not None:
                text = single.take(most)
            else:
                text = "".join([stream.take(most) for stream in streams])
            behind = reply.behind
            over = (reply.over or reply.error is not None) and not (reply.cut_off or behind)
            if not started and (text or over):
                if reply.error is not None and not text:
                    raise reply.error
                started = True
                await self._start(send, b"text/event-stream; charset=utf-8")
            if over:
                break
            if text:
                message["body"] = text.encode()
                await send(message)
            if reply.cut_off and not behind:
                return
        end = text.encode() + self._ending(reply.error)
        await send({"type": "http.response.body", "body": end})

    def _ending(self, error: ApiError | None) -> bytes:
        if error is not None:
            return b"data: " + error.told + b"\n\n" + DONE
        if self._body.usage_at_end:
            return last_event(self._head, self._reply) + DONE
        return DONE
