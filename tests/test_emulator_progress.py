"""What `simulate serve` says in the terminal while it serves."""

from __future__ import annotations

import re
from threading import Thread

import pytest

from emulator.options import Options
from emulator.progress import Progress
from emulator.service import Service
from simulator import load_scenario
from simulator.cli.serve import _deployed
from simulator.live import LiveDeployment
from tests.emulator_rig import PATIENCE_S, everything, request, served

TEXT = "/v1/completions"
LONG = {"prompt": "A", "max_tokens": 50_000, "ignore_eos": True, "stream": True}


def test_a_line_says_what_goes_on_and_none_that_nothing_does() -> None:
    with served() as rig:
        progress = rig.inside(lambda: Progress(rig.service))
        assert rig.inside(progress.line) is None
        rig.post(TEXT, {"prompt": "A", "max_tokens": 40, "ignore_eos": True})
        rig.at_rest()
        line = rig.inside(progress.line)
        assert line is not None
        said = re.search(r"0 running, 0 waiting · ([\d.]+) requests/s, ([\d,]+) tokens/s", line)
        assert said is not None, line
        assert line.endswith("KV cache 0% · 1 replica up")
        assert float(said[1]) > 0.0 or float(said[2]) > 0.0
        assert rig.inside(progress.line) is None
        with rig.connect() as connection:
            connection.sendall(request(TEXT, LONG))
            assert connection.recv(1000)
            line = rig.inside(progress.line)
            assert line is not None
            assert "1 running, 0 waiting" in line


def test_rates_are_a_simulated_second_s(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(LiveDeployment(load_scenario("chat-8b-h100")), Options(speed=10.0))
    progress = Progress(service)
    service.deployment.advance(4.0)
    service.counts.served = 8
    monkeypatch.setattr(service.metrics, "output_tokens", lambda: 400.0)
    line = progress.line()
    assert line is not None
    assert "2.0 requests/s, 100 tokens/s" in line


def test_requests_wait_where_no_replica_is_up() -> None:
    with served("scale-to-zero-70b-h100", speed=1.0, drain_s=0.0) as rig:
        progress = rig.inside(lambda: Progress(rig.service))
        with rig.connect() as connection:
            connection.sendall(request(TEXT, LONG))
            rig.until(lambda: rig.service.open_replies == 1)
            line = rig.inside(progress.line)
            assert line is not None
            assert "0 running, 1 waiting" in line
            assert line.endswith("0 replicas up")
            told = rig.get("/metrics").body.decode()
            assert "\nservecast:gateway_requests_waiting 1.0\n" in told
            assert "vllm:num_requests_waiting{" not in told


def test_lines_come_now_and_then_and_the_end_says_what_it_waits_for() -> None:
    lines: list[str] = []
    with (
        served(speed=1.0, progress_s=0.05, drain_s=PATIENCE_S, tell=lines.append) as rig,
        rig.connect() as connection,
    ):
        connection.sendall(request(TEXT, LONG))
        assert connection.recv(1000)
        rig.until(lambda: len(lines) > 1)
        assert all("running" in line for line in lines)
        rig.server.stop()
        ending = f"Ending: 1 answer may go on for {PATIENCE_S:g} s; Ctrl-C again ends it at once."
        rig.until(lambda: ending in lines)
        ended = Thread(target=everything, args=(connection,))
        ended.start()
        rig.server.stop()
        ended.join(PATIENCE_S)
        assert not ended.is_alive()


def test_replicas_that_come_and_go_are_told_as_a_range() -> None:
    def told(name: str) -> str:
        return _deployed(Service(LiveDeployment(load_scenario(name))))[0]

    assert told("scale-to-zero-70b-h100").endswith(" 0 to 2 replicas")
    assert told("chat-8b-h100").endswith(" 1 replica")


def test_ping_answers_as_health_does() -> None:
    with served(api_key="secret") as rig:
        for method in ("GET", "POST"):
            answer = rig.ask(method, "/ping")
            assert (answer.status, answer.json) == (200, {"status": "ok"})
