"""How requests end that are not just served, who may ask at all, and how the server ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from emulator_rig import CHAT, MODEL, PATIENCE_S, TEXT, Answer, Rig, everything, request, served

from simulator.cli import cli
from simulator.cli.serve import NEEDED

LONG = {"prompt": [7] * 500, "max_tokens": 3000, "ignore_eos": True}
SHORT = {"prompt": [7, 8, 9], "max_tokens": 3, "ignore_eos": True}
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def together(rig: Rig, bodies: list[dict[str, Any]]) -> list[Answer]:
    """The answers to requests that are sent at once."""
    answers: list[Answer | None] = [None] * len(bodies)

    def ask(place: int) -> None:
        answers[place] = rig.post(TEXT, bodies[place])

    threads = [Thread(target=ask, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert all(answers)
    return [answer for answer in answers if answer is not None]


# --- admission and crashes -----------------------------------------------------------------------


def test_who_is_not_admitted_is_told_to_come_later() -> None:
    sets = (
        "engine.max_num_seqs=2",
        "deployment.admission.rules=[{kind: queue_length, max_waiting: 3}]",
    )
    with served("admission-8b-l40s", sets) as rig:
        answers = together(rig, [{**SHORT, "max_tokens": 300} for _ in range(16)])
        refused = [answer for answer in answers if answer.status != 200]
        assert 0 < len(refused) < 16
        for answer in refused:
            assert answer.status == 429
            assert answer.headers["retry-after"] == "1"
            assert answer.error["code"] == "rate_limit_exceeded"
        rig.at_rest()
        counts = rig.service.counts
        assert (counts.served, counts.refused) == (16 - len(refused), len(refused))


def test_answers_end_with_their_replica() -> None:
    sets = ("deployment.replicas=1", "deployment.failures.outages=[{replica: 0, at_s: 20, for_s: 5}]",
            "deployment.failures.detection_s=0.1", "deployment.retry=null")  # fmt: skip
    with served("failover-8b-h100", sets, speed=20.0) as rig:
        answers: list[Answer] = []
        bodies = [{**LONG, "max_tokens": 20_000, "stream": stream} for stream in (True, False)]
        threads = [
            Thread(target=lambda body=body: answers.append(rig.post(TEXT, body))) for body in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        whole, stream = sorted(answers, key=lambda answer: -answer.status)
        assert (whole.status, whole.error["code"]) == (503, "replica_failed")
        *tokens, last = stream.events
        assert len(tokens) > 100
        assert last["error"]["code"] == "replica_failed"
        rig.until(lambda: rig.service.clock.now_s > 30.0)
        assert rig.post(TEXT, SHORT).status == 200
        rig.at_rest()
        assert rig.service.counts.failed == 2


def test_a_simulation_that_fails_is_told_and_the_server_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as rig:
        thread = Thread(target=lambda: answers.append(rig.post(TEXT, {**LONG, "stream": True})))
        answers: list[Answer] = []
        thread.start()
        rig.until(lambda: any(reply.choices[0].told for reply in rig.service._replies))

        def break_it() -> None:
            rig.service.deployment.advance = lambda _: 1 / 0  # type: ignore[method-assign,assignment]

        rig.inside(break_it)
        thread.join(PATIENCE_S)
        assert answers[0].events[-1]["error"]["code"] == "internal_error"
        assert rig.get("/health").status == 503
        answer = rig.post(TEXT, SHORT)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert sum("simulation has failed" in each.message for each in caplog.records) == 1


def test_a_mistake_of_ours_is_told_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with served() as rig:
        rig.service.texts.text = lambda _: 1 / 0  # type: ignore[method-assign,assignment]
        answer = rig.post("/detokenize", {"tokens": [1]})
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        rig.until(lambda: len(caplog.records) > 0)
        assert rig.post(TEXT, SHORT).status == 200
    assert len(caplog.records) == 1


# --- models, classes, adapters -------------------------------------------------------------------


def test_the_model_chooses_the_pool() -> None:
    with served("two-models-one-gpu") as rig:
        assert [card["id"] for card in rig.get("/v1/models").json["data"]] == [MODEL, "qwen2.5-3b"]
        running: Callable[[], list[str]] = lambda: [  # noqa: E731
            state.pool for state in rig.service.deployment.replicas() if state.running
        ]
        for model, pool in ((MODEL, "chat"), ("qwen2.5-3b", "code")):
            with rig.connect() as connection:
                connection.sendall(request(TEXT, {**LONG, "model": model, "stream": True}))
                rig.until(lambda pool=pool: running() == [pool])
            rig.at_rest()
        wrong = rig.post(TEXT, {**SHORT, "model": MODEL}, {"X-Traffic-Class": "code"})
        assert (wrong.status, wrong.error["param"]) == (400, "X-Traffic-Class")
        assert "there are: chat" in wrong.error["message"]
        assert rig.post(TEXT, {**SHORT, "model": MODEL}, {"X-Traffic-Class": "chat"}).status == 200


def test_adapters_are_models() -> None:
    with served("lora-adapters-8b-h100", names=("mine", "also-mine")) as rig:
        cards = {card["id"]: card for card in rig.get("/v1/models").json["data"]}
        assert len(cards) == 62
        assert cards["mine-lora-59"]["parent"] == "mine"
        text = "The same words for all. " * 30
        cached = []
        for model in ("mine", "also-mine", "mine-lora-1", "mine-lora-2", "mine-lora-1"):
            answer = rig.post(TEXT, {"model": model, "prompt": text, "max_tokens": 1}).json
            assert answer["model"] == model
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        assert cached == [False, True, False, False, True]


def test_a_conversation_stays_on_its_replica() -> None:
    sets = (
        "deployment.replicas=4",
        "deployment.router={kind: session_affinity, max_imbalance: 100}",
    )
    with served(sets=sets) as rig:

        def busy() -> list[int]:
            return [each.number for each in rig.service.deployment.replicas() if each.running]

        def where(body: dict[str, Any], *headers: str) -> int:
            with rig.connect() as connection:
                connection.sendall(request(TEXT, {**LONG, **body, "stream": True}, *headers))
                rig.until(lambda: len(busy()) == 1)
                [number] = rig.inside(busy)
            rig.at_rest()
            return number

        with rig.connect() as other:  # on the first replica, so that the next one goes elsewhere
            other.sendall(request(TEXT, {**LONG, "max_tokens": 100_000, "stream": True}))
            rig.until(lambda: busy() == [0])
            with rig.connect() as mine:
                mine.sendall(request(TEXT, {**LONG, "stream": True}, "X-Session-ID: mine"))
                rig.until(lambda: len(busy()) == 2)
                home = rig.inside(busy)[1]
        rig.at_rest()
        assert home != 0
        assert where({}, "X-Session-ID: mine") == home
        assert where({"user": "mine"}) == home
        assert where({}) == 0


# --- who may ask ---------------------------------------------------------------------------------


def test_the_key_is_asked_for_where_it_counts() -> None:
    with served(api_key="s3cret") as rig:
        for path in ("/", "/health", "/metrics", "/version", "/v1/models"):
            assert rig.get(path).status == 200
        for header in (
            None,
            "Bearer wrong",
            "s3cret",
            "Basic s3cret",
            "Bearer s3cret2",
            "Bearer é",
        ):
            given = {} if header is None else {"Authorization": header}
            answer = rig.post(CHAT, HELLO, given)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert rig.post("/tokenize", {"prompt": "a"}, given).status == 401
            assert rig.get("/v1/nothing", given).status == 401
        assert rig.post(CHAT, HELLO, {"Authorization": "Bearer s3cret"}).status == 200


def test_pages_of_others_and_other_names_are_refused() -> None:
    with served(hosts=frozenset({"localhost", "127.0.0.1"})) as rig:
        for headers, status in [
            ({"Host": "evil.example"}, 403),
            ({"Host": f"localhost:{rig.port}"}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://127.0.0.1:{rig.port}"}, 200),
        ]:
            answer = rig.post(CHAT, HELLO, headers)
            assert answer.status == status
            assert "access-control-allow-origin" not in answer.headers
        assert rig.ask("OPTIONS", CHAT).status == 405


# --- faults on demand ----------------------------------------------------------------------------


def test_faults_by_header() -> None:
    with served(faults_by_header=True) as rig:
        fault = rig.post(TEXT, SHORT, {"X-Servecast-Fault": "status=429; retry-after=2"})
        assert (fault.status, fault.headers["retry-after"]) == (429, "2")
        assert fault.error["code"] == "rate_limit_exceeded"
        assert rig.post(TEXT, SHORT, {"X-Servecast-Fault": "status=503"}).status == 503
        assert (rig.service.counts.refused, rig.service.counts.failed) == (1, 1)
        wrong = rig.post(TEXT, SHORT, {"X-Servecast-Fault": "status=200"})
        assert (wrong.status, wrong.error["param"]) == (400, "X-Servecast-Fault")
        body = {**SHORT, "max_tokens": 30}
        for stream in (True, False):
            cut = rig.raw(
                request(TEXT, {**body, "stream": stream}, "X-Servecast-Fault: cut-after=20")
            )
            assert cut.count(b'"text":') == (20 if stream else 0)
            assert not cut.endswith(b"0\r\n\r\n")
            header = {"X-Servecast-Fault": "stall-after=10; stall=6"}
            began = rig.inside(lambda: rig.service.clock.now_s)
            answer = rig.post(TEXT, {**body, "stream": stream}, header)
            assert rig.inside(lambda: rig.service.clock.now_s) - began > 6.0
            assert answer.body.count(b'"text":') == (30 if stream else 1)
        with rig.connect() as connection:
            connection.sendall(
                request(TEXT, {**body, "stream": True}, "X-Servecast-Fault: stall-after=3")
            )
            got = b""
            while got.count(b'"text":') < 3:
                got += connection.recv(1 << 16)
            rig.until(lambda: rig.service.deployment.open_requests == 0)
            assert rig.inside(lambda: rig.service.open_replies) == 1
        rig.until(lambda: rig.service.open_replies == 0)
        rig.at_rest()
    with served() as rig:
        refused = rig.post(TEXT, SHORT, {"X-Servecast-Fault": "status=429"})
        assert (refused.status, refused.error["param"]) == (400, "X-Servecast-Fault")


# --- the end -------------------------------------------------------------------------------------


def test_open_answers_end_before_the_server() -> None:
    with served(drain_s=PATIENCE_S) as rig, rig.connect() as connection:
        connection.sendall(request(TEXT, {**SHORT, "max_tokens": 1000, "stream": True}))
        got = connection.recv(1000)
        rig.stop()
        got += everything(connection)
        assert got.count(b'"text":') == 1000
        assert got.endswith(b"0\r\n\r\n")


def test_who_wants_it_to_end_at_once_has_every_answer_say_so() -> None:
    body = {**SHORT, "max_tokens": 60_000, "stream": True}
    with ExitStack() as stack:
        rig = stack.enter_context(served(speed=1.0, drain_s=PATIENCE_S))
        held = [stack.enter_context(rig.connect()) for _ in range(5)]
        for connection in held:
            connection.sendall(request(TEXT, body))
        rig.until(lambda: rig.service.open_replies == len(held))
        began = time.monotonic()
        rig.server.stop()
        rig.server.stop()
        answers = [everything(connection) for connection in held]
        assert time.monotonic() - began < PATIENCE_S / 3
        assert all(b'"shutting_down"' in answer for answer in answers)
        rig.stop()
        assert rig.service.counts.failed == len(held)


def test_answers_that_take_too_long_are_cut_at_the_end() -> None:
    with served(drain_s=0.1, speed=1.0) as rig, rig.connect() as connection:
        connection.sendall(request(TEXT, {**LONG, "stream": True}))
        got = connection.recv(1000)
        rig.stop()
        got += everything(connection)
        assert b'"shutting_down"' in got
        assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_asked_twice_the_server_does_not_wait() -> None:
    with served(drain_s=600.0, speed=1.0) as rig, rig.connect() as connection:
        connection.sendall(request(TEXT, {**LONG, "stream": True}))
        assert connection.recv(1000)
        began = time.monotonic()
        rig.server.stop()
        rig.stop()
        assert time.monotonic() - began < PATIENCE_S / 2


def test_the_plain_loop_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.server._loop", lambda: "asyncio")
    with served() as rig:
        assert len(rig.post(TEXT, {**SHORT, "max_tokens": 50, "stream": True}).events) == 50
        with rig.connect() as connection:
            connection.sendall(request(TEXT, {**LONG, "stream": True}))
            assert connection.recv(1000)
        rig.at_rest()


@pytest.fixture(scope="module")
def process() -> Any:
    """``simulate serve`` as a user runs it; ended with Ctrl-C."""
    made = subprocess.Popen(
        [sys.executable, "-m", "simulator", "serve", "chat-8b-h100", "--port", "0", "--drain-s", "5", "--progress-s", "0"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield made
    if made.poll() is None:
        made.kill()
    made.communicate()


def test_the_command_tells_what_to_try_and_ends_with_counts(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(6)]
    assert said[0].startswith("chat-8b-h100 is served at http://127.0.0.1:")
    assert [line.split()[0] for line in said[1:]] == ["Deployed", "Models", "Tokens", "Not", "Try"]
    told = subprocess.run(
        said[5].removeprefix("Try").strip(), shell=True, capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("data: {")
    assert told.endswith("data: [DONE]\n\n")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert out == "Ended. Requests: 1 served, 0 cancelled by clients, 0 refused, 0 failed.\n"
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--served-model-name", ""], "--served-model-name: a name is empty"),
        (["--api-key", "é"], "--api-key: must be printable ASCII, and not empty"),
        (["--speed", "0"], "--speed"),
        (["--tokenizer", "nowhere.json"], "nowhere.json"),
        (["--host", "no.such.host.invalid"], "there is no address 'no.such.host.invalid'"),
        (["--set", "model=nothing"], "nothing"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(args: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["serve", "chat-8b-h100", *args])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_extra_holds_what_is_needed_and_tests_have_the_same() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert set(extras["serve"]) <= set(extras["test"])
    names = {requirement.partition(">")[0] for requirement in extras["serve"]}
    assert set(NEEDED) < names


def test_without_the_extra_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["simulator.cli.serve"], "find_spec", lambda _: None)
    done = CliRunner().invoke(cli, ["serve", "chat-8b-h100"])
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: the server needs packages that are not installed; pip install 'servecast[serve]'\n"
    )


@pytest.mark.parametrize(
    "name",
    ["disaggregated-70b-h100", "scale-to-zero-70b-h100", "speculative-eagle-8b-h100",
     "data-parallel-attention-deepseek-v3-h200", "pipeline-70b-l40s", "static-batching"],
)  # fmt: skip
def test_every_kind_of_deployment_serves(name: str) -> None:
    with served(name, speed=300.0) as rig:
        events = rig.post(TEXT, {**SHORT, "max_tokens": 20, "stream": True}).events
        assert sum(bool(event["choices"][0]["text"]) for event in events) == 20
        several = rig.post(TEXT, {**SHORT, "n": 3}).json
        assert several["usage"]["completion_tokens"] == 9
        assert b"vllm:generation_tokens_total" in rig.get("/metrics").body
        rig.at_rest()
