"""Clients that go, lag, lie or never end: the emulator bears them, and nothing is left behind."""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from threading import Thread

import pytest
from emulator_rig import CHAT, PATIENCE_S, TEXT, Rig, everything, request, served
from pydantic import ValidationError

from emulator.app import LARGE_BODIES
from emulator.connections import MOST_HEAD_BYTES, MOST_PIPELINED
from emulator.names import Sessions
from emulator.schema import ChatRequest, CompletionRequest, DetokenizeRequest

LONG = {"prompt": [7] * 500, "max_tokens": 20_000, "ignore_eos": True}
SHORT = {"prompt": [7, 8, 9], "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with served(max_body_bytes=1 << 20) as running:
        yield running
        running.at_rest()


@pytest.fixture(scope="module")
def strict() -> Iterator[Rig]:
    """A server that has no patience, and room for five."""
    with served(client_timeout_s=0.3, max_connections=5, keep_alive_s=0.5, speed=50.0) as running:
        yield running
        running.at_rest()


def alive(rig: Rig) -> None:
    """It still answers."""
    assert rig.post(TEXT, SHORT).json["usage"]["completion_tokens"] == 3


# --- clients that go -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_blocks(rig: Rig, stream: bool) -> None:
    before = rig.service.counts.cancelled
    with rig.connect() as connection:
        connection.sendall(request(TEXT, {**LONG, "n": 3, "stream": stream}))
        rig.until(lambda: rig.service.deployment.replicas()[0].running == 3)
        if stream:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert rig.inside(lambda: rig.service.deployment.replicas()[0].kv_blocks_used) > 3
    rig.at_rest()
    rig.until(lambda: rig.service.counts.cancelled == before + 1)


def test_a_client_that_goes_in_the_middle_of_its_request(rig: Rig) -> None:
    whole = request(TEXT, SHORT)
    for size in (1, 30, len(whole) - 1):
        with rig.connect() as connection:
            connection.sendall(whole[:size])
    alive(rig)


# --- clients that lag ----------------------------------------------------------------------------


def test_a_client_that_reads_nothing_is_cut_off(strict: Rig) -> None:
    before = strict.service.counts.cancelled
    with strict.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request(TEXT, {**LONG, "n": 40, "stream": True}))
        held = []

        def cut_off() -> bool:
            for each in strict.server.server_state.connections:
                held.append(each.transport.get_write_buffer_size())
            return strict.service.counts.cancelled == before + 1

        strict.until(cut_off)
    assert 0 < max(held) < 300_000
    strict.at_rest()


def test_a_client_that_reads_slowly_gets_every_token(rig: Rig) -> None:
    body = {**LONG, "max_tokens": 3000, "stream": True}
    parts = []
    with rig.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(request(TEXT, body, "Connection: close"))
        for _ in range(20):
            time.sleep(0.01)
            parts.append(connection.recv(20_000))
        parts.append(everything(connection))
    answer = b"".join(parts)
    assert answer.count(b'"text":') == 3000
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/comp", b"GET / HTTP/1.1\r\nA: ", request(TEXT, SHORT)[:-4]],
    ids=["nothing", "address", "headers", "body"],
)
def test_a_request_that_does_not_end_is_not_waited_for(strict: Rig, begun: bytes) -> None:
    began = time.monotonic()
    with strict.connect() as connection:
        if begun:
            connection.sendall(begun)
        assert everything(connection) == b""
    assert 0.2 < time.monotonic() - began < PATIENCE_S / 2


def test_a_request_that_comes_byte_by_byte_has_the_same_time(strict: Rig) -> None:
    began = time.monotonic()
    with strict.connect() as connection, suppress(OSError):
        for byte in request(TEXT, SHORT):
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
    assert time.monotonic() - began < PATIENCE_S / 2
    alive(strict)


def test_an_idle_connection_is_closed(strict: Rig) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")


# --- too much ------------------------------------------------------------------------------------


def test_more_connections_than_allowed_are_told_so(strict: Rig) -> None:
    strict.until(lambda: not strict.server.server_state.connections)
    held = [strict.connect() for _ in range(5)]
    strict.until(lambda: len(strict.server.server_state.connections) == 5)
    answer = strict.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"too_many_connections"' in answer
    more = [strict.connect() for _ in range(3)]
    for connection in more + held:
        connection.close()
    strict.until(lambda: not strict.server.server_state.connections)
    alive(strict)


def test_bodies_that_are_too_large(rig: Rig) -> None:
    large = b" " * ((1 << 20) + 1)
    assert rig.post(TEXT, large).status == 413
    chunks = b"".join(b"%x\r\n%b\r\n" % (60_000, b" " * 60_000) for _ in range(20)) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = rig.raw(head + chunks)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"request_too_large"' in answer
    alive(rig)


def test_bodies_are_bounded_together(rig: Rig) -> None:
    head = request(TEXT, b"").replace(b"Length: 0", b"Length: %d" % (1 << 20))
    with ExitStack() as stack:
        held = [stack.enter_context(rig.connect()) for _ in range(LARGE_BODIES + 1)]
        for connection in held:
            connection.sendall(head + b" " * ((1 << 20) - 1))
        [told, *_], _, _ = select.select(held, [], [], PATIENCE_S)
        assert told.recv(1000).startswith(b"HTTP/1.1 503 ")
    rig.until(lambda: len(rig.server.server_state.connections) == 0)
    alive(rig)


def test_heads_that_are_too_long(rig: Rig) -> None:
    long = b"a" * (MOST_HEAD_BYTES + 1)
    for head in (b"GET /%b HTTP/1.1\r\n\r\n" % long, b"GET / HTTP/1.1\r\nA: %b\r\n\r\n" % long):
        answer = rig.raw(head)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b'"headers_too_large"' in answer
    many = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n"
    assert rig.raw(many).startswith(b"HTTP/1.1 431 ")
    alive(rig)


# --- HTTP as others speak it ---------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    bodies = [{**SHORT, "max_tokens": n} for n in (5, 1, 3)]
    pieces = [request(TEXT, body) for body in bodies[:-1]]
    answer = rig.raw(b"".join(pieces), request(TEXT, bodies[-1], "Connection: close"))
    found = [part.partition(b",")[0] for part in answer.split(b'"completion_tokens":')[1:]]
    assert found == [b"5", b"1", b"3"]
    flood = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * (MOST_PIPELINED + 50)
    assert b"too_many_requests" in rig.raw(flood)
    alive(rig)


def test_old_http_and_waiting_for_leave_to_go_on(rig: Rig) -> None:
    body = json.dumps({**SHORT, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
    answer = rig.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"data: [DONE]" in answer
    whole = request(TEXT, SHORT, "Expect: 100-continue", "Connection: close")
    head, _, data = whole.partition(b"\r\n\r\n")
    with rig.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("wish", ["h2c", "websocket"])
def test_wishes_for_other_protocols_are_ignored(rig: Rig, wish: str) -> None:
    """Java's client asks for HTTP/2 with its first request; a body is never a request."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {wish}", "HTTP2-Settings: AAMA")
    asked = request(TEXT, SHORT, *upgrade)
    closing = request(TEXT, SHORT, "Connection: close, Upgrade", f"Upgrade: {wish}")
    answer = rig.raw(asked + asked[:-5], asked[-5:] + closing)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b'"completion_tokens":3') == 3
    head, _, body = request(TEXT, b"GET /version HTTP/1.1\r\n\r\n", *upgrade).partition(b"\r\n\r\n")
    with rig.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        time.sleep(0.05)
        connection.sendall(body + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = everything(connection)
    assert b'"invalid_json"' in answer
    assert b'"version"' not in answer
    assert b'{"status": "ok"}' in answer
    chunked = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nUpgrade: h2c\r\n"
    chunked += b"Connection: upgrade, close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(SHORT).encode()
    answer = rig.raw(chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert b'"completion_tokens":3' in answer
    assert rig.raw(b"CONNECT a:1 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzzzz",
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
    ],
    ids=["words", "tls", "version", "length", "lengths", "both", "chunk", "hosts"],
)
def test_what_is_no_http_is_told(rig: Rig, sent: bytes) -> None:
    answer = rig.raw(sent)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b'{"error": {"message": ' in answer
    alive(rig)


# --- all of it at once ---------------------------------------------------------------------------


def test_nothing_is_left_of_a_storm(rig: Rig) -> None:
    """Valid, broken and given-up requests, six at a time."""
    tokens = {"asked": 0, "told": 0}

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            count = rng.randint(1, 60)
            body = {"prompt": [rng.randrange(100)] * rng.randint(1, 400), "max_tokens": count,
                    "ignore_eos": True, "n": rng.randint(1, 3)}  # fmt: skip
            kind = rng.random()
            if kind < 0.5:
                usage = rig.post(TEXT, body).json["usage"]
                assert usage["completion_tokens"] == count * body["n"]
                assert usage["prompt_tokens"] == len(body["prompt"])
                assert usage["prompt_tokens_details"]["cached_tokens"] <= len(body["prompt"])
                tokens["asked"] += 1
            elif kind < 0.6:
                assert rig.post(TEXT, {**body, "max_tokens": -count}).status == 400
            elif kind < 0.7:
                with rig.connect() as connection:
                    connection.sendall(request(TEXT, body)[: rng.randint(1, 200)])
            else:
                with rig.connect() as connection:
                    sent = {**body, "stream": True, "max_tokens": 5000}
                    connection.sendall(request(CHAT if kind > 0.98 else TEXT, sent))
                    if rng.random() < 0.7:
                        connection.recv(rng.randint(1, 5000))

    threads = [Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert tokens["asked"] > 30
    rig.at_rest()
    assert not rig.inside(lambda: rig.service.open_replies)
    alive(rig)


# --- bodies that cost more than they look --------------------------------------------------------


@pytest.mark.parametrize("wrong", [1, "x", -1, None, [], ["x"], {}])
def test_millions_of_mistakes_are_one(wrong: object) -> None:
    """Each complaint takes 100 times the memory of what it is about."""
    many = [wrong] * 1000
    for kind, body in (
        (ChatRequest, {"messages": many if wrong != {} else [1] * 1000}),
        (CompletionRequest, {"prompt": [*([] if wrong == [] else [7]), *many, {}]}),
        (CompletionRequest, {"prompt": [[*many, {}]]}),
        (CompletionRequest, {"prompt": "x", "stop": [wrong] * 65}),
        (DetokenizeRequest, {"tokens": [*many, "x"]}),
    ):
        with pytest.raises(ValidationError) as caught:
            kind.model_validate(body)
        assert caught.value.error_count() <= 6


def test_conversations_are_remembered_by_a_digest_alone() -> None:
    sessions = Sessions()
    assert [sessions.number(name * 100_000) for name in "abcab"] == [0, 1, 2, 0, 1]
    assert sum(map(len, sessions._numbers)) < 100
    assert sessions.number("\ud800") == 3


def test_what_cannot_fit_is_told_before_it_is_read(rig: Rig) -> None:
    for messages in (
        [{"role": "u" * 300, "content": "x"}],
        [{"role": "u", "name": "n" * 300, "content": "x"}],
    ):
        assert rig.post(CHAT, {"messages": messages}).error["param"] == "messages"
    limit = rig.get("/v1/models").json["data"][0]["max_model_len"]
    messages = '{"messages": [' + ",".join(["{}"] * (limit + 1)) + "]}"
    answer = rig.post(CHAT, messages.encode())
    assert answer.error["code"] == "context_length_exceeded"


def test_empty_lines_do_not_keep_a_connection(strict: Rig) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"\r\n")
        assert everything(connection) == b""
