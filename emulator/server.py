"""Runs the server: uvicorn with bounds, a clock, and an end that lets answers come to theirs."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType

import uvicorn

from emulator.app import make_app
from emulator.connections import Connection
from emulator.errors import leaving
from emulator.progress import Progress
from emulator.service import Service

LOOK_EVERY_S = 1.0
"""Between two looks at all connections."""

BACKLOG = 2048

LAST_WORDS_S, HASTY_WORDS_S = 1.0, 0.2
"""So long answers that were cut short have to say so; and where nobody wants to wait."""


class Server(uvicorn.Server):
    """Serves on a socket until Ctrl-C or ``stop``.

    Args:
        service: what is served.
        ready: called once, when it answers.
        tell: given lines for whoever watches the terminal.
    """

    def __init__(
        self,
        service: Service,
        ready: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.service = service
        self._ready = ready
        self._tell = tell
        options = service.options
        # Of requests that are no HTTP, the client is told, and nobody else.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

        class Bounded(Connection):
            most = options.max_connections

        super().__init__(
            uvicorn.Config(
                make_app(service), http=Bounded, ws="none", lifespan="off", loop=_loop(),
                log_config=None, access_log=False, server_header=False, proxy_headers=False,
                backlog=BACKLOG, timeout_keep_alive=options.keep_alive_s,  # type: ignore[arg-type]
            )
        )  # fmt: skip

    def stop(self) -> None:
        """Begins the end, from any thread; a second call ends it at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See ``uvicorn.Server``."""
        await super().startup(sockets)
        self.service.clock.start()
        self._tasks = [asyncio.create_task(self._look())]
        if self.service.options.progress_s:
            self._tasks.append(asyncio.create_task(self._watch()))
        # What is there now stays; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._ready()

    async def _look(self) -> None:
        patience = self.service.options.client_timeout_s
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, patience / 2))
            now = monotonic()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.look(now, patience)

    async def _watch(self) -> None:
        """Tells what goes on, now and then."""
        progress = Progress(self.service)
        while True:
            await asyncio.sleep(self.service.options.progress_s)
            line = progress.line()
            if line is not None:
                self._tell(line)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more, lets open answers end for a while, then cuts them."""
        service = self.service
        service.leaving = True
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if service.open_replies and service.options.drain_s and not self.force_exit:
            many = service.open_replies > 1
            self._tell(
                f"Ending: {service.open_replies:,} answer{'s' * many} may go on for"
                f" {service.options.drain_s:g} s; Ctrl-C again ends {'them' if many else 'it'}"
                " at once."
            )
        await self._until_idle(service.options.drain_s)
        service.cut(leaving())
        await self._until_idle(LAST_WORDS_S, even_so_s=HASTY_WORDS_S)
        service.clock.stop()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        gc.unfreeze()

    async def _until_idle(self, longest_s: float, even_so_s: float = 0.0) -> None:
        """Waits for open answers, so long even if somebody wants it to end at once."""
        began = monotonic()
        while self.server_state.tasks and monotonic() < began + (
            min(even_so_s, longest_s) if self.force_exit else longest_s
        ):
            await asyncio.sleep(0.01 if self.force_exit else 0.05)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM begin the end; they are how it is meant to end, so nothing is raised
        afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            each: signal.signal(each, self._asked_to_end)
            for each in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        self.stop()


def _loop() -> str:
    """The faster loop where it is installed."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio"
    return "uvloop"
