"""Serves the app, in this process, to nobody but pages of its own."""

from __future__ import annotations

import os
import re
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from simulator import UserError

WARM_UP_S = 20
"""After so long nobody waits any more for what a scenario on the command line gives."""

LAST_WORDS_S = 2
"""So long open pages have to hear that the server ends."""

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
    "connect-src 'self' data: blob: {sockets}",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'self'",
    "object-src 'none'",
)
"""What a page may load: from this server alone, whatever a scenario, a file or an address has put
into it. Streamlit and plotly need styles inside the page and generated code."""


def serve(
    listening: socket.socket, *, hosts: frozenset[str] | None, ready: Callable[[], None]
) -> None:
    """Serves the app until Ctrl-C, which is raised once open pages and running work have ended.

    Args:
        listening: a socket that listens.
        hosts: names under which a browser may reach it; None: any.
        ready: called once, when it answers.
    """
    import uvicorn
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    from dashboard.background import JOBS

    @asynccontextmanager
    async def lifespan(_: App) -> AsyncIterator[None]:
        ready()
        Thread(target=warm_up, daemon=True).start()
        try:
            yield None
        finally:
            JOBS.end()

    app = App(
        Path(__file__).with_name("app.py"),
        lifespan=lifespan,
        middleware=[Middleware(OwnPagesOnly, hosts=hosts)],
    )
    uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
    ).run(sockets=[listening])  # fmt: skip


def warm_up() -> None:
    """Simulates the first page's scenario before anybody asks, which also loads all code that
    answers need: the first user waits less."""
    from dashboard import answers, session
    from dashboard.background import JOBS, Viewer
    from dashboard.choice import Choice

    viewer = Viewer()
    with suppress(UserError):  # whoever opens the page is told
        choice = Choice.from_query(session.first_query())
        name = session.name_of(answers.RUN, choice.key)
        JOBS.ask(name, answers.run(choice), viewer).wait(WARM_UP_S)


def open_browser(address: str) -> None:
    """Opens a page there, on a desktop; never a browser in the terminal."""
    desktop = os.name == "nt" or os.uname().sysname == "Darwin"
    if desktop or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _guards(host: str) -> list[tuple[bytes, bytes]]:
    """Headers by which a browser loads nothing from elsewhere and shows pages in no other's."""
    # Some browsers do not count a socket of the same host as 'self'.
    known = re.fullmatch(r"[a-z0-9.:\[\]_-]+", host)
    sockets = f"ws://{host} wss://{host}" if known else ""
    return [
        (b"content-security-policy", "; ".join(POLICY).format(sockets=sockets).encode("latin-1")),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"SAMEORIGIN"),
    ]


class OwnPagesOnly:
    """Refuses requests under a name that is not the server's (a name elsewhere that was made to
    lead here) and from pages of another origin. What passes is of the same origin, so that
    Streamlit never asks the network what this machine's address is. Answers say that a page may
    load nothing from elsewhere.

    Args:
        app: what answers the others.
        hosts: names without port, in lower case; None: any.
    """

    def __init__(self, app: Any, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI wants it."""
        if scope["type"] in ("http", "websocket") and not self._may(scope["headers"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})  # told as 403
                return
            told = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": told})
            await send({"type": "http.response.body", "body": b"Not from this host or page.\n"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guards = _guards(_values(scope["headers"], b"host")[0])

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in guards}
                kept = [each for each in message.get("headers", ()) if each[0].lower() not in own]
                message = message | {"headers": kept + guards}
            await send(message)

        await self._app(scope, receive, guarded)

    def _may(self, headers: list[tuple[bytes, bytes]]) -> bool:
        host, origin = _values(headers, b"host"), _values(headers, b"origin")
        if len(host) != 1 or len(origin) > 1:
            return False
        if origin and origin[0] not in (f"http://{host[0]}", f"https://{host[0]}"):
            return False
        return self._hosts is None or _without_port(host[0]) in self._hosts


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in headers if name == wanted]


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
