"""What the emulator bears on this machine.

    python -m benchmarks.emulator [--streams 100,200,500] [--replicas 1] [--requests 100000]

Two tables. The first: so many streams at once in real time, a server of its own for each row; what
the clients saw beside ``simulate()`` of the same arrivals. The last row that agrees (5% + 3 ms) is
the host's limit. The second: short requests one after another at many times real time, and the
memory of the server as they go by. Needs Linux (/proc) and the ``serve`` extra.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.emulator.agreement import compared, predicted_times
from benchmarks.emulator.served import Served, served
from benchmarks.emulator.streams import Bodies, Seen, steady, wave

SCENARIO = "chat-8b-h100"
PROMPT, OUTPUT = 64, 300
BEGIN_PER_S = 250
"""Streams of a row that begin in a second; all of them are open before the first one ends."""

SHORT_PROMPT, SHORT_OUTPUT = 32, 4
WIDTH = 64
"""Short requests in flight."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", default="50,100,200,350,500,750", help="rows; empty: none")
    parser.add_argument("--replicas", type=int, default=1, help="that the streams are spread over")
    parser.add_argument("--output", type=int, default=OUTPUT, help="tokens of a stream")
    parser.add_argument("--requests", type=int, default=100_000, help="short ones; 0: none")
    parser.add_argument("--speed", type=float, default=20.0, help="of the clock for short ones")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.streams:
            rows = [int(streams) for streams in asked.streams.split(",")]
            limits(rows, asked.output, asked.replicas, Path(folder))
        if asked.requests:
            memory(asked.requests, asked.speed, Path(folder))


def limits(rows: list[int], output: int, replicas: int, folder: Path) -> None:
    """Streams at once, and what their clients see."""
    lengths = f"{PROMPT} tokens in, {output} out"
    print(f"{SCENARIO}, replicas: {replicas}; streams at once, {lengths}, in real time")
    print("(ms as seen/as predicted; late: 99% of what the server wrote)")
    print("streams  tokens/s      TTFT p50      TTFT p99      TPOT p50      TPOT p99   late  agrees"
          "  server")  # fmt: skip
    for streams in rows:
        print(limit(streams, output, replicas, folder), flush=True)


def limit(streams: int, output: int, replicas: int, folder: Path) -> str:
    """One row."""
    seen = [Seen(PROMPT, output) for _ in range(streams)]
    at_s = np.arange(streams) / BEGIN_PER_S
    came, more = folder / "came.jsonl", f"deployment.replicas={replicas}"
    arguments = [SCENARIO, "--set", more, "--record", str(came)]
    with served(arguments, folder / "server.log") as server:
        began, busy = time.perf_counter(), server.busy_s
        asyncio.run(wave(bodies(server), seen, at_s.tolist()))
        share = (server.busy_s - busy) / (time.perf_counter() - began)
        late_ms = server.late_ms()
    check(seen)
    measured = {
        "ttft_ms": np.array([1e3 * (r.first_s - r.sent_s) for r in seen]),
        "tpot_ms": np.array([1e3 * (r.last_s - r.first_s) / (r.tokens - 1) for r in seen]),
    }
    lines = compared(measured, predicted_times(SCENARIO, [more], came))
    (tpot,) = (line for line in lines if (line.metric, line.statistic) == ("tpot_ms", "p50"))
    figures = "".join(f"{f'{line.measured:.1f}/{line.predicted:.1f}':>14}" for line in lines)
    return (
        f"{streams:7d}{1e3 * streams / tpot.measured:10,.0f}{figures}{late_ms:7.1f}"
        f"{'yes' if all(line.agrees for line in lines) else 'no':>8}{100 * share:7.0f}%"
    )


def memory(requests: int, speed: float, folder: Path) -> None:
    """Resident memory of the server while short requests go by."""
    marks = sorted({requests // 10, requests // 2, requests})
    lengths = f"{SHORT_PROMPT} tokens in, {SHORT_OUTPUT} out"
    print(f"\n{SCENARIO}: {requests:,} requests, {lengths}, {WIDTH} at once, --speed {speed:g}")
    print("requests   server's memory   requests/s")
    over, began = 0, time.perf_counter()
    with served([SCENARIO, "--speed", str(speed)], folder / "server.log") as server:
        print(f"{0:8,d}{server.memory_mb:15.1f} MB")

        def after(request: Seen) -> None:
            nonlocal over
            check([request])
            over += 1
            if over in marks:
                rate = over / (time.perf_counter() - began)
                print(f"{over:8,d}{server.memory_mb:15.1f} MB{rate:13,.0f}", flush=True)

        short = (Seen(SHORT_PROMPT, SHORT_OUTPUT) for _ in range(requests))
        asyncio.run(steady(bodies(server), WIDTH, short, after))


def bodies(server: Served) -> Bodies:
    """Requests for the model that is served."""
    models = json.loads(server.get("/v1/models"))
    return Bodies(models["data"][0]["id"], server.port)


def check(seen: list[Seen]) -> None:
    """No stream lost, every token counted."""
    for request in seen:
        if not request.whole or request.tokens != request.output_tokens:
            raise SystemExit(f"a stream is not whole: {request}")


if __name__ == "__main__":
    main()
