"""What clients measure of the emulator, beside the simulation of the requests that came.

The machine of these tests has other things to do. How late server and client were is measured: a
run that was disturbed is made again, and of a third one the figures may be off by as much more as
the disturbance explains.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from benchmarks.emulator.agreement import Line, compared, predicted_times
from benchmarks.emulator.clients import LAST_TOKENS, Traffic, make_tokenizer, replay
from benchmarks.emulator.load_test import WARM_UP, planned
from benchmarks.emulator.served import served
from emulator.recording import Recording
from simulator import UserError
from simulator.live import Asked
from simulator.workload.traces import read_trace

SCENARIO = "load-test-8b-l4"
MODEL = "llama-3.1-8b"
RUNS = 3
CALM_MS = 5.0
"""Whose server and client together are late by less, 99% of the time, was not disturbed."""

BEAT_S = 0.005


class Heartbeat:
    """How late the event loop of the client is: a beat should come ``BEAT_S`` after the last."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            self._late_ms.append(1e3 * (time.perf_counter() - began - BEAT_S))

    def stop(self) -> float:
        """99% of the beats were at most so late, ms."""
        self._task.cancel()
        return float(np.percentile(self._late_ms, 99))


@dataclass(frozen=True)
class Run:
    """A load test: its figures, and how late server and client were together."""

    lines: list[Line]
    late_ms: float

    def off(self, more_ms: float = 0.0) -> list[str]:
        """Figures that are farther off than allowed."""
        return [str(line) for line in self.lines if abs(line.off_ms) > line.allowed_ms + more_ms]


class Sender:
    """An ``openai`` client that knows when the bytes of each request began to leave."""

    def __init__(self, url: str) -> None:
        self._sent: dict[str, float] = {}
        transport = DefaultAsyncHttpxClient(event_hooks={"request": [self._begins]})
        self.client = AsyncOpenAI(
            base_url=f"{url}/v1", api_key="any", max_retries=0, http_client=transport
        )

    async def _begins(self, request: Any) -> None:
        number = request.headers["X-Request-ID"]

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith("send_request_headers.started"):
                self._sent[number] = time.perf_counter()

        request.extensions["trace"] = trace

    async def one(self, number: str, prompt: int, output: int) -> tuple[float, float]:
        """TTFT and TPOT of a request, ms."""
        stream = await self.client.completions.create(
            model=MODEL, prompt=list(range(prompt)), max_tokens=output, stream=True,
            extra_headers={"X-Request-ID": number},
            extra_body={"ignore_eos": True, "cache_salt": number},
        )  # fmt: skip
        came = [time.perf_counter() async for event in stream if event.choices[0].text]
        assert len(came) == output
        first = 1e3 * (came[0] - self._sent[number])
        return first, 1e3 * (came[-1] - came[0]) / (output - 1)


async def replayed(url: str, traffic: Traffic) -> tuple[dict[str, np.ndarray], float]:
    """TTFT and TPOT as a client measures them, ms, and how late it was."""
    loop = asyncio.get_running_loop()
    sender = Sender(url)
    begun = loop.time() + 0.1

    async def one(number: int) -> tuple[float, float]:
        await asyncio.sleep(begun + float(traffic.at_s[number]) - loop.time())
        lengths = int(traffic.input_tokens[number]), int(traffic.output_tokens[number])
        return await sender.one(str(number), *lengths)

    async with sender.client:
        heartbeat = Heartbeat()
        times = await asyncio.gather(*map(one, range(len(traffic))))
        late_ms = heartbeat.stop()
    ttft, tpot = np.array(times[WARM_UP:]).T
    return {"ttft_ms": ttft, "tpot_ms": tpot}, late_ms


def load_test(traffic: Traffic, folder: Path) -> Run:
    came = folder / "came.jsonl"
    with served([SCENARIO, "--record", str(came)], folder / "said.log") as server:
        measured, late_ms = asyncio.run(replayed(server.url, traffic))
        late_ms += server.late_ms()
    predicted = predicted_times(SCENARIO, [], came)
    rest = {name: times[WARM_UP:] for name, times in predicted.items()}
    return Run(compared(measured, rest), late_ms)


def test_what_a_client_measures_is_what_was_predicted(tmp_path: Path) -> None:
    traffic = planned(SCENARIO, [])
    runs: list[Run] = []
    for _ in range(RUNS):
        runs.append(load_test(traffic, tmp_path))
        if not runs[-1].off():
            return
        assert runs[-1].late_ms > CALM_MS, runs[-1]
    calmest = min(runs, key=lambda run: run.late_ms)
    assert not calmest.off(calmest.late_ms), runs


def test_a_load_client_loses_nothing(tmp_path: Path) -> None:
    """guidellm, in a process of its own, with texts that a tokenizer counts."""
    whole = planned(SCENARIO, [])
    traffic = Traffic(whole.at_s[:40], whole.input_tokens[:40], whole.output_tokens[:40])
    docs = Path(__file__).parents[1] / "docs"
    text = "\n".join(page.read_text() for page in sorted(docs.glob("*.md")))
    tokenizer = make_tokenizer(tmp_path / "tokenizer", text)
    came = tmp_path / "came.jsonl"
    file = str(tokenizer / "tokenizer.json")
    arguments = [SCENARIO, "--tokenizer", file, "--record", str(came)]
    with served(arguments, tmp_path / "said.log") as server:
        seen = replay("guidellm", server.url, traffic, tokenizer, tmp_path)
    counts = seen.output_tokens < LAST_TOKENS
    assert sorted(seen.output_tokens[counts]) == sorted(traffic.output_tokens)
    prompts = sorted(seen.input_tokens[counts])
    assert np.abs(np.array(prompts) - sorted(traffic.input_tokens)).max() <= 2
    counted = read_trace(str(came)).output_tokens < LAST_TOKENS
    predicted = {k: v[counted] for k, v in predicted_times(SCENARIO, [], came).items()}
    # It stands still for a second now and then, so that its figures may be late; but nothing comes
    # before its time: if no request's does, each of the sorted ones is at least the predicted one.
    assert (np.sort(1e3 * seen.ttft_s[counts]) >= np.sort(predicted["ttft_ms"]) - 1.0).all()
    assert (np.sort(1e3 * seen.e2e_s[counts]) >= np.sort(predicted["e2e_ms"]) - 1.0).all()
    median = np.median(predicted["tpot_ms"])
    assert np.median(1e3 * seen.tpot_s[counts]) == pytest.approx(median, rel=0.25)


def test_a_recording_is_a_trace_of_what_came(tmp_path: Path) -> None:
    file = tmp_path / "came.jsonl"
    asked = [Asked(10, 3, class_id=1), Asked(20, 5)]
    with Recording(file, ("chat", "code")) as recording:
        for at_s, each in zip((0.1, 1 / 3), asked, strict=True):
            recording.sent(at_s, each)
    trace = read_trace(str(file))
    assert trace.input_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [3, 5]
    assert [json.loads(line)["arrival_s"] for line in file.read_text().splitlines()] == [0.1, 1 / 3]
    assert [json.loads(line)["class"] for line in file.read_text().splitlines()] == ["code", "chat"]


def test_a_recording_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file"):
        Recording(tmp_path / "nowhere" / "came.jsonl", ("default",))
