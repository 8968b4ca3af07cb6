"""A lean client for the emulator's benchmark: many streams on one core, each event counted.

Nothing but asyncio protocols over sockets. A request asks ``/v1/completions`` for a stream and
gives its prompt as token ids, so that lengths are exact; every event is one token.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

EVENT = b"data: {"
DONE = b"data: [DONE]"
END = b"0\r\n\r\n"
_CARRY = len(DONE) - 1
"""Bytes of the last piece that may hold the beginning of what is looked for."""


@dataclass(slots=True)
class Seen:
    """What one client saw of its request, by its own clock (``time.perf_counter``).

    Attributes:
        prompt_tokens, output_tokens: what it asked for.
        sent_s: the request was written.
        first_s, last_s: the first and the last token came.
        tokens: events with a token.
        status: of the answer.
        whole: the stream ended as streams end.
    """

    prompt_tokens: int
    output_tokens: int
    sent_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    status: int = 0
    whole: bool = False


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time.

    Args:
        over: called with each request that is over, and with this connection.
        lost: called when the server closes the connection.
    """

    def __init__(
        self,
        over: Callable[[Connection, Seen], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._over, self._lost = over, lost
        self._carry = b""
        self.seen: Seen | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._lost(self)

    def ask(self, request: bytes, seen: Seen) -> None:
        """Writes a request whose answer is counted into ``seen``."""
        self.seen, self._carry = seen, b""
        seen.sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Counts the events of a piece of an answer."""
        now = time.perf_counter()
        seen = self.seen
        if seen is None:
            return
        if not seen.status:
            seen.status = int(data[9:12])
        # What was carried over has been counted, but for what begins in it and ends here.
        carry = self._carry
        joined = carry + data
        events = joined.count(EVENT) - carry.count(EVENT)
        if events:
            if not seen.tokens:
                seen.first_s = now
            seen.last_s = now
            seen.tokens += events
        if DONE in joined:
            seen.whole = True
        self._carry = joined[-_CARRY:]
        if joined.endswith(END) or (seen.status != 200 and data):
            self.seen = None
            self._over(self, seen)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()


@dataclass(slots=True)
class Bodies:
    """Prompts that begin with different tokens, so that no two share a KV block.

    Args:
        model: name of the served model.
        port: where the server listens.
        vocabulary: token ids are below.
    """

    model: str
    port: int
    vocabulary: int = 32_000
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def request(self, seen: Seen) -> bytes:
        """A request as it goes over the wire."""
        prompt = self.rng.choices(range(self.vocabulary), k=seen.prompt_tokens)
        body = json.dumps({
            "model": self.model, "prompt": prompt, "max_tokens": seen.output_tokens,
            "ignore_eos": True, "stream": True,
        }).encode()  # fmt: skip
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def connections(
    port: int,
    count: int,
    over: Callable[[Connection, Seen], None],
    lost: Callable[[Connection], None],
) -> list[Connection]:
    """So many open connections to the server."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(
            lambda: Connection(over, lost), "127.0.0.1", port
        )
        made.append(connection)
    return made


async def wave(bodies: Bodies, asked: list[Seen], at_s: Iterable[float]) -> None:
    """Sends each request at its time from now on a connection of its own; returns when all are
    over or their connections lost."""
    loop = asyncio.get_running_loop()
    requests = [bodies.request(seen) for seen in asked]
    left = len(asked)
    end = loop.create_future()

    def over(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left and not end.done():
            end.set_result(None)

    def lost(connection: Connection) -> None:
        if connection.seen is not None:
            over()

    made = await connections(bodies.port, len(asked), over, lost)
    begun = loop.time() + 0.05
    for connection, request, seen, at in zip(made, requests, asked, at_s, strict=True):
        loop.call_at(begun + at, connection.ask, request, seen)
    await end
    for connection in made:
        connection.close()


async def steady(
    bodies: Bodies,
    width: int,
    asked: Iterable[Seen],
    after: Callable[[Seen], None],
) -> None:
    """Keeps ``width`` requests in flight until all are over; ``after`` hears of each."""
    loop = asyncio.get_running_loop()
    to_come = iter(asked)
    open_ = width
    end = loop.create_future()

    def begin(connection: Connection) -> None:
        nonlocal open_
        seen = next(to_come, None)
        if seen is None:
            open_ -= 1
            if not open_ and not end.done():
                end.set_result(None)
        else:
            connection.ask(bodies.request(seen), seen)

    def over(connection: Connection, seen: Seen) -> None:
        after(seen)
        begin(connection)

    def lost(connection: Connection) -> None:
        if connection.seen is not None and not end.done():
            end.set_exception(ConnectionError("the server closed a busy connection"))

    made = await connections(bodies.port, width, over, lost)
    for connection in made:
        begin(connection)
    await end
    for connection in made:
        connection.close()
