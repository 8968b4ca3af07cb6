"""A live server in this process, on a port of the system's choice, and small clients of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

from emulator.options import Options
from emulator.server import Server
from emulator.service import Service
from simulator import load_scenario
from simulator.live import LiveDeployment

T = TypeVar("T")

PATIENCE_S = 30.0
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MODEL = "llama-3.1-8b"


class Answer:
    """What a request got."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose shape is always the same."""
        document = self.json
        assert list(document) == ["error"]
        assert list(document["error"]) == ["message", "type", "param", "code"]
        assert document["error"]["message"]
        return document["error"]

    @property
    def events(self) -> list[Any]:
        """Those of a stream, but for the last one, which says that it is done."""
        assert self.headers["content-type"] == "text/event-stream; charset=utf-8"
        *events, done, rest = self.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        assert all(event.startswith("data: ") for event in events)
        return [json.loads(event.removeprefix("data: ")) for event in events]


class Rig:
    """A server that runs."""

    def __init__(
        self,
        scenario: str | Path,
        sets: tuple[str, ...],
        options: dict[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        deployment = LiveDeployment(load_scenario(scenario, sets))
        self.service = Service(deployment, Options(**{"speed": 20.0, **options}))
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = listening.getsockname()[1]
        ready = Event()
        self.server = Server(self.service, ready.set, tell)
        self._thread = Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE_S)

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def inside(self, work: Callable[[], T]) -> T:
        """What a function returns that runs in the server's loop."""
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self.service.clock.loop.call_soon_threadsafe(call)
        return done.result(PATIENCE_S)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something holds in the server's loop."""
        wait = Event()
        for _ in range(int(PATIENCE_S / 0.01)):
            if self.inside(condition):
                return
            wait.wait(0.01)
        raise AssertionError("it never came")

    def at_rest(self) -> None:
        """Nothing is under way, and nothing was left behind."""
        deployment = self.service.deployment

        def rests() -> bool:
            self.service.clock.catch_up()
            return deployment.open_requests == 0 and not any(
                state.kv_blocks_used or state.running or state.waiting
                for state in deployment.replicas()
            )

        self.until(rests)
        self.inside(deployment.check_integrity)

    # --- clients ---------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; bodies that are not bytes are sent as JSON."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)) as connection:
            sent = {"Content-Type": "application/json", **(headers or {})}
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, sent)
            got = connection.getresponse()
            told = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, told, got.read())

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def raw(self, *pieces: bytes) -> bytes:
        """All that comes on a connection on which these bytes were written."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def request(path: str, body: Any, *more: str) -> bytes:
    """A request as it goes over the wire."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
        f"Content-Length: {len(data)}", *more, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + data


@contextmanager
def served(
    scenario: str | Path = "chat-8b-h100",
    sets: tuple[str, ...] = (),
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Iterator[Rig]:
    """A server for the block; ``options`` are those of ``Options``."""
    rig = Rig(scenario, sets, options, tell)
    try:
        yield rig
    finally:
        rig.stop()
